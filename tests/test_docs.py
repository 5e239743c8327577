"""The code blocks of README and docs run: Python as it stands, `credit` commands in an empty folder with their flags as written.

Lines that begin with `make`, `git` or `cd` are left to a human (they would run this test again); a block right after the comment
`<!-- long: ... -->` is not run, only its commands are parsed, so that a renamed flag still fails; one after `<!-- server -->` is run by
Python or bash while `credit serve` serves the embedded model.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from creditdecoding.lm import load
from tests.serving import serving

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (long|server)[^>]*-->\n)?```(python|bash)\n(.*?)```", re.DOTALL)
LEFT = ("make", "git", "cd", "#")


def blocks(language: str, server: bool = False) -> list[tuple[str, str, bool]]:
    """(page and number, code, whether it is long) of every block in a language that needs a server, or does not."""
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            if match[2] == language and (match[1] == "server") == server:
                found.append((f"{page.name}#{number}", match[3], match[1] == "long"))
    return found


def run(arguments: list[str], folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with the environment's programs first in the path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=folder, input=text, capture_output=True, text=True, timeout=120, env=environment)


def test_there_is_something_to_run() -> None:
    assert len(blocks("python")) >= 2 and len(blocks("bash")) >= 2


@pytest.mark.parametrize("page", [page.name for page in PAGES if "```python" in page.read_text()])
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    """All Python blocks of a page, one after the other in one interpreter, as a reader would type them."""
    code = "\n".join(code for name, code, long in blocks("python") if name.startswith(page) and not long)
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "code", "long"), blocks("bash"), ids=[name for name, _, _ in blocks("bash")])
def test_commands_run(name: str, code: str, long: bool, tmp_path: Path) -> None:
    """Every `credit` line of a block exits with 0."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in LEFT or (words[0].startswith(".venv/bin/") and words[0] != ".venv/bin/credit"):
            continue
        assert words[0] in ("credit", ".venv/bin/credit"), f"{name}: {line!r} is neither run nor on the list of what is left"
        command = words[1 : 3 if words[1] == "pav" else 2]
        asked = [*command, "--help"] if long else words[1:]
        done = run([str(Path(sys.executable).parent / "credit"), *asked], tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if long:
            for flag in (word.split("=")[0] for word in words if word.startswith("--")):
                assert flag in done.stdout, f"{name}: {' '.join(command)} has no {flag}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(load("pocket")) as served:
        yield served.url


SERVED = [(language, name, code) for language in ("python", "bash") for name, code, _ in blocks(language, server=True)]


@pytest.mark.parametrize(("language", "name", "code"), SERVED, ids=[name for _, name, _ in SERVED])
def test_blocks_that_need_a_server(language: str, name: str, code: str, url: str, tmp_path: Path) -> None:
    """They end well and are answered without an error."""
    if "curl " in code and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    done = run(
        [sys.executable, "-c"] * (language == "python") + ["bash", "-euo", "pipefail", "-c"] * (language == "bash") + [_at(code, url)], tmp_path
    )
    assert done.returncode == 0 and done.stdout.strip() and '"error"' not in done.stdout, done.stdout + done.stderr


def _at(code: str, url: str) -> str:
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", url)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = target[0] or target[1]
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_decoder_is_in_the_readme_or_docs() -> None:
    from creditdecoding.decoders import names  # noqa: PLC0415

    text = "".join(page.read_text() for page in PAGES)
    for name in names():
        assert f"`{name}`" in text, name
