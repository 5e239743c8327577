"""Run the notebooks of the documentation and store their outputs: `make notebooks`.

Warnings and times are not stored, so a run changes a file only where its answers changed.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def executed(path: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """The notebook with fresh outputs. Raises if a cell does."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=timeout, record_timing=False)
    client.execute(cwd=str(FOLDER))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
