"""The code blocks of README and docs run, and print what the page says they print.

- Python blocks of a page run one after the other, as a reader would type them.
- `credit` lines of bash blocks run in an empty folder, and `make demo` as `credit demo`. Other
  lines that begin with `make`, `git`, `cd` or `pip` are left out.
- A `text` block right after a block is its output: the same lines, `...` for any number of lines.
- After `<!-- long: ... -->` a block is not run, only its flags are looked up in `--help-all`.
- After `<!-- server -->` it runs while `credit serve` serves the embedded model.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from creditdecoding.lm import load
from tests.helpers.cli import Result, run_credit, run_experiment
from tests.helpers.serving import serving

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<kind>long|server)[^>]*-->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```"
    r"(?:\n+```text\n(?P<listing>.*?)```)?",
    re.DOTALL,
)
NOT_RUN = ("make", "git", "cd", "pip")
NUMBER = re.compile(r"[-+]?\d+\.\d+")
TOLERANCE = 0.02


@dataclass(frozen=True)
class Block:
    """A block of code on a page; `kind` is long, server or None, `listing` its output or None."""

    name: str
    kind: str | None
    language: str
    code: str
    listing: str | None


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page in order."""
    matches = enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")))
    return [
        Block(
            f"{page.name}#{number}",
            match["kind"],
            match["language"],
            match["code"],
            match["listing"],
        )
        for number, match in matches
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
BASH = [block for block in BLOCKS if block.language == "bash" and block.kind != "server"]
LONG = [block for block in BASH if block.kind == "long"]
SHORT = [block for block in BASH if block.kind is None]
SERVED = [block for block in BLOCKS if block.kind == "server"]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of each `credit` line of a block. Raises on a line that nobody would run."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words == ["make", "demo"]:
            words = ["credit", "demo"]
        if not words or words[0] in NOT_RUN:
            continue
        program = words[0].removeprefix(".venv/bin/")
        if program == "credit":
            yield words[1:]
        elif words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
            yield words[2:]
        else:
            assert words[0].startswith(".venv/bin/"), f"{block.name}: {line!r} is never run"


def run(arguments: list[str]) -> Result:
    """Run one command of a page in this process."""
    if arguments[0].startswith("experiments."):
        return run_experiment(arguments[0].removeprefix("experiments."), arguments[1:])
    return run_credit(arguments)


def same_line(shown: str, printed: str) -> bool:
    """Whether two lines agree: words exactly, decimal numbers to TOLERANCE, seconds in any amount,
    and rules of a table, whose length follows the seconds, in any length.
    """
    lines = [re.sub("─+", "─", line) for line in (shown, printed)]
    texts = [re.sub(r"\d+\.\d+ s\b", "N s", line) for line in lines]
    words = [NUMBER.sub("N", text).split() for text in texts]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in texts]
    if words[0] != words[1]:
        return False
    return all(abs(left - right) <= TOLERANCE for left, right in zip(*numbers, strict=True))


def first_missing_line(listing: str, output: str) -> str | None:
    """The first line of a listing that the output does not have where it should; None if all are
    there.
    """
    printed = output.splitlines()
    position = 0
    may_skip = False
    for shown in listing.splitlines():
        if shown.strip() == "...":
            may_skip = True
            continue
        last = len(printed) if may_skip else position + 1
        matches = (
            index
            for index in range(position, min(last, len(printed)))
            if same_line(shown, printed[index])
        )
        match = next(matches, None)
        if match is None:
            return shown
        position = match + 1
        may_skip = False
    return None


def test_a_listing_is_compared_line_by_line() -> None:
    output = "one\ntwo 1.50\nthree in 0.2 s\n"
    assert first_missing_line("one\ntwo 1.51\n", output) is None
    assert first_missing_line("...\nthree in 7.5 s\n", output) is None
    assert first_missing_line(" ──\n 9.5 s\n", " ───\n 10.5 s\n") is None
    assert first_missing_line("two 1.50\n", output) == "two 1.50"
    assert first_missing_line("one\nthree in 0.2 s\n", output) == "three in 0.2 s"
    assert first_missing_line("...\ntwo 1.60\n", output) == "two 1.60"


def check_listing(block: Block, output: str) -> None:
    """Fails if a page shows a line that its block did not print."""
    if block.listing is not None:
        missing = first_missing_line(block.listing, output)
        assert missing is None, f"{block.name} shows {missing!r}, the block prints\n{output}"


PYTHON_PAGES = [
    page for page in PAGES if any(block.language == "python" for block in blocks_of(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=[page.name for page in PYTHON_PAGES])
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks of a page share one namespace, as in one interpreter."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.language == "python" and block.kind is None:
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.code, block.name, "exec"), namespace)
            check_listing(block, output.getvalue())


def alike(blocks: list[Block]) -> list[list[Block]]:
    """The blocks, those with the same commands together."""
    groups: dict[str, list[Block]] = {}
    for block in blocks:
        groups.setdefault(str(list(commands(block))), []).append(block)
    return list(groups.values())


@pytest.mark.slow
@pytest.mark.parametrize("blocks", alike(SHORT), ids=lambda blocks: blocks[0].name)
def test_commands_run(blocks: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `credit` line of a block exits with 0, and the last prints what the pages show."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    output = ""
    for arguments in commands(blocks[0]):
        result = run(arguments)
        assert result.status == 0, f"credit {shlex.join(arguments)}\n{result.stderr}"
        output = result.stdout
    for block in blocks:
        check_listing(block, output)


@pytest.mark.parametrize("block", LONG, ids=[block.name for block in LONG])
def test_flags_of_long_blocks_exist(block: Block) -> None:
    for arguments in commands(block):
        depth = 2 if arguments[0] == "pav" else 1
        shown = run([*arguments[:depth], "--help-all"])
        assert shown.status == 0, shown.stderr
        known = set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout))
        for argument in arguments:
            flag = argument.split("=")[0]
            if flag.startswith("--"):
                assert flag in known, (
                    f"{block.name}: credit {' '.join(arguments[:depth])} has no {flag}"
                )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(load("pocket")) as served:
        yield served.url


@pytest.mark.slow
@pytest.mark.parametrize("block", SERVED, ids=[block.name for block in SERVED])
def test_blocks_that_need_a_server(block: Block, url: str, tmp_path: Path) -> None:
    """They end with status 0 and are answered without an error."""
    if "curl " in block.code and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    assert "http://127.0.0.1:8000" in block.code
    interpreter = (
        [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    )
    code = block.code.replace("http://127.0.0.1:8000", url)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*interpreter, code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


MADE_BY_THE_BUILD = ("cli.md", "configuration.md", "python.md", "contributing.md", "changelog.md")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        ):
            link = target[0] or target[1]
            if "://" not in link and not link.endswith(MADE_BY_THE_BUILD):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short_and_its_links_work_on_an_index_page() -> None:
    """Relative links and pictures are dead there. Absolute ones lead to pages and files we have."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    urls = PROJECT["urls"]
    raw = urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert len(text.splitlines()) <= 120
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://"), link
        if link.startswith(raw):
            assert (ROOT / link.removeprefix(raw)).exists(), link
        if link.startswith(urls["Documentation"]):
            name = link.removeprefix(urls["Documentation"]).rstrip("/") or "index"
            made = f"{name.split('/')[-1]}.md" in MADE_BY_THE_BUILD
            assert made or (ROOT / "docs" / f"{name}.md").exists(), link


def test_every_decoder_has_a_row_in_the_docs() -> None:
    from creditdecoding.decoders import names  # noqa: PLC0415

    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in names():
        assert re.search(rf"^\| `{name}`", text, re.MULTILINE), name
