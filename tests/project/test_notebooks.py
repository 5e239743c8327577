"""The notebooks of the documentation run from top to bottom, and show what they did when stored."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs without an error and has outputs of the kinds that are stored."""
    notebooks = pytest.importorskip("tools.notebooks", exc_type=ImportError)
    monkeypatch.setenv("PYTHONPATH", str(path.parents[2]))
    stored = nbformat.read(path, as_version=4)
    fresh = notebooks.executed(path)
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            assert kinds(after) == kinds(before), before.source


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    return {kind for output in cell.outputs for kind in output.get("data", {output.output_type: 0})}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_stored_notebook_names_no_folder_of_the_machine_it_ran_on(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert "Traceback" not in text
