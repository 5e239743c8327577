"""Decoders and tasks from outside: files and installed packages, in Python and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from creditdecoding import decoders
from creditdecoding.decoders import class_of, create, load, names, origins, resolve, settings
from creditdecoding.errors import OptionError
from creditdecoding.eval.compare import ComparePlan, lay_out
from creditdecoding.eval.grid import KEY
from creditdecoding.eval.sweep import parse_curves
from creditdecoding.plugins import plugins
from creditdecoding.run_dir import open_journal
from creditdecoding.server.decoder_files import client_decoder
from creditdecoding.server.options import HttpConfig
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks import names as task_names
from tests.helpers.cli import run_credit
from tests.helpers.outside import HALF, REVERSE, install, write

TWO = HALF.replace("@dataclass", "class Other:\n    step = print\n\n\n@dataclass")
DECODERS, TASKS = "creditdecoding.decoders", "creditdecoding.tasks"


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, "half.py", HALF)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for packages, on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    plugins.cache_clear()
    yield folder
    plugins.cache_clear()


def test_a_file_is_a_decoder(half: Path) -> None:
    decoder, block_length = load("half.py:threshold=0.8")
    assert (type(decoder).__name__, decoder.threshold, block_length) == ("Half", 0.8, None)  # type: ignore[attr-defined]
    assert load(half)[0] == load("./half.py")[0] == load(str(half))[0] != decoder
    saved = settings(decoder)
    assert saved == {"name": "half.py", "threshold": 0.8, "digest": saved["digest"]}
    assert load(saved)[0] == decoder
    assert class_of("half.py") is type(decoder)
    assert not (half.parent / "__pycache__").exists()


def test_a_class_without_a_decorator_is_a_decoder(half: Path) -> None:
    half.write_text(HALF.replace("@dataclass(frozen=True)\n", ""))
    assert load("half.py:threshold=0.8")[0].threshold == 0.8  # type: ignore[attr-defined]


def test_a_path_may_hold_colons_and_blanks(tmp_path: Path) -> None:
    folder = tmp_path / "my: rules"
    folder.mkdir()
    write(folder, "half.py", HALF)
    spec = f"{folder}/half.py:threshold=0.7"
    assert load(spec)[0].threshold == 0.7  # type: ignore[attr-defined]
    (curve,) = parse_curves(f'"{spec}"')
    assert [point.spec for point in curve.points] == [spec]


def test_only_callers_that_may_read_files_run_one(half: Path) -> None:
    for spec in ("half.py", {"name": "half.py"}):
        with pytest.raises(OptionError, match="a Python file cannot be named here"):
            resolve(spec)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.py", None, r"there is no such decoder file; got 'mine.py'.*relative paths begin in"),
        ("mine.py", "x = 1", "mine.py must define exactly one decoder; got 'none'"),
        ("mine.py", TWO, "exactly one decoder; got 'Other, Half'"),
        ("mine.py", "import os\nnope()", r"NameError: name 'nope' is not defined \(.*py, line 2\)"),
        ("mine.py", "def f(:", r"SyntaxError: .* \(.*mine.py, line 1\)"),
        ("mine.py", "raise SystemExit(3)", r"SystemExit: 3 \(.*mine.py, line 1\)"),
        ("mine.py", "import no_such_module", "No module named 'no_such_module'.*Install it"),
        ("credit.py", HALF, "has the name of a built-in decoder; got 'credit.py'"),
        ("mine.py", HALF.replace("(frozen=True)", ""), "Half is not a frozen dataclass"),
        (
            "mine.py",
            HALF.replace("(BaseDecoder)", ""),
            "Half has no init, or no step. Derive the class from",
        ),
        ("mine.py", HALF.replace(" = option(", ": float = option("), "SyntaxError"),
        ("mine.py", HALF.replace("    sweep", "    k: int\n    sweep"), "TypeError: non-default"),
        ("mine.py", HALF.replace("sweep =", "sweep: Sweep ="), "Half.sweep is a knob, because"),
        ("mine.py", HALF.replace("sweep = ", "capabilities = {'can_edit'} #"), "not Capabilities"),
        ("mine.py", HALF.replace("sweep = ", "edits = True #"), r"Capabilities\(can_edit=True\)"),
        ("mine.py", HALF.replace("0.5, ", "1.5, "), "threshold is out of range; got 1.5"),
    ],
)
def test_a_file_that_is_no_decoder_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        write(tmp_path, name, text)
    with pytest.raises(OptionError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_knob_of_a_file_is_refused(half: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown option of Half.*Did you mean 'threshold'"):
        load("half.py:treshold=0.8")


def test_a_changed_file_is_another_decoder(half: Path) -> None:
    before = settings(load("half.py")[0])
    digests = origins(["half.py:threshold=0.8", "credit"])
    assert digests == {"half.py": before["digest"]}
    write(half.parent, "half.py", HALF + "\n# changed\n")
    assert origins(["half.py"]) != digests
    with pytest.raises(OptionError, match=r"half.py has changed since these settings were written"):
        load(before)


def test_a_comparison_does_not_go_on_with_a_changed_file(half: Path, tmp_path: Path) -> None:
    def manifest() -> Mapping[str, Any]:
        curves = tuple(parse_curves("half.py:threshold=0.9"))
        return lay_out(ComparePlan("pocket", "facts", ("plain",), curves, 2, 2)).manifest

    for _ in range(2):
        with open_journal(tmp_path / "run", manifest(), KEY):
            pass
    write(half.parent, "half.py", HALF + "\n# changed\n")
    with (
        pytest.raises(OptionError, match=r"other settings \(sources\.half\.py: "),
        open_journal(tmp_path / "run", manifest(), KEY),
    ):
        pass


def test_a_file_is_exported_and_read_again(half: Path) -> None:
    exported = run_credit(["export", "-d", "half.py:threshold=0.8", "--out", "half.yaml"])
    assert exported.status == 0, exported.stderr
    assert "--dllm-algorithm DecoderFile" in Path("half.yaml").read_text()
    assert load("half.yaml")[0] == load("half.py:threshold=0.8")[0]
    assert load("half.yaml:threshold=0.9")[0] == load("half.py:threshold=0.9")[0]


@pytest.mark.slow
def test_commands_know_a_file(half: Path) -> None:
    answer = run_credit(["generate", "hi", "-d", "./half.py", "--threshold", "0.7", "--json"])
    assert json.loads(answer.stdout)["decoder"]["threshold"] == 0.7, answer.stderr
    shown = run_credit(["decoders", "half.py"])
    assert "Commits what has at least the threshold." in shown.stdout
    checked = run_credit(["check-decoder", "half.py", "--cases", "2"])
    assert (checked.status, checked.stdout.count("kept")) == (0, 10)
    write(half.parent, "half.py", HALF.replace("block.editable", "block.masked[:, :0]"))
    broken = run_credit(["check-decoder", "half.py", "--cases", "2"])
    assert broken.status == 1 and "half.py, line " in broken.stdout
    assert "half.py breaks" in broken.stderr


def test_clients_may_name_only_files_that_the_operator_allows(half: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--decoder-files FOLDER"):
        client_decoder("half.py", None)
    allowed = str(tmp_path)
    assert client_decoder("half.py:threshold=0.8", allowed) == load("half.py:threshold=0.8")[0]
    by_mapping = client_decoder({"name": "half.py", "threshold": 0.8}, allowed)
    assert by_mapping == load("half.py:threshold=0.8")[0]
    assert client_decoder("fixed:k=2", allowed) == create("fixed", k=2)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.py").symlink_to(half)
    for spec in ("../half.py", str(half), "none.py", "link.py", "x" * 300 + ".py", "\0.py"):
        with pytest.raises(OptionError, match="there is no such decoder file"):
            client_decoder(spec, str(inner))
    for knob in ("block_size", "vocab_parallel"):
        for name in ("half.py", "fixed"):
            with pytest.raises(OptionError, match=f"'{knob}'"):
                client_decoder({"name": name, knob: 16}, allowed)
    with pytest.raises(OptionError, match="decoder_files is not a folder"):
        HttpConfig(decoder_files=str(tmp_path / "nowhere"))


def test_an_installed_package_adds_decoders_and_tasks(site: Path) -> None:
    entries = {DECODERS: {"half": "rules_of_ann:Half"}, TASKS: {"reverse": "tasks_of_ann"}}
    install(site, "ann", entries, {"rules_of_ann": HALF, "tasks_of_ann": REVERSE})
    assert "half" in names() and "reverse" in task_names()
    decoder = resolve("half:threshold=0.8")
    assert settings(decoder)["name"] == "half" and settings(decoder)["digest"]
    assert create(**settings(decoder)) == decoder
    assert "half" in run_credit(["decoders"]).stdout
    assert [point.value for point in parse_curves("half")[0].points] == ["0.5", "0.9"]
    (task,) = load_tasks("reverse")
    assert task.name == "reverse" and task.metadata["digest"]


def test_a_broken_package_breaks_only_its_own_names(site: Path) -> None:
    entries = {DECODERS: {"bad": "no_such_module:X", "worse": "rules_of_bob:half"}}
    install(site, "bob", entries, {"rules_of_bob": "half = 3"})
    assert run_credit(["--help"]).status == 0
    listed = run_credit(["decoders"])
    assert listed.status == 0 and "threshold" in listed.stdout
    assert "the decoder bad of the package bob 1.2 cannot be loaded" in listed.stderr
    with pytest.raises(OptionError, match=r"package bob 1.2 cannot be loaded: ModuleNotFoundError"):
        resolve("bad")
    with pytest.raises(OptionError, match=r"worse of the package bob 1.2 is not a class"):
        resolve("worse")
    assert resolve("credit") == create("credit")


def test_names_that_are_taken_are_left_out_with_a_warning(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "eve", {DECODERS: {"credit": "e:X", "x:y": "e:X", "twice": "e:X"}}, {})
    install(site, "fay", {DECODERS: {"twice": "f:X"}, TASKS: {"gsm8k": "f:X"}}, {})
    assert not {"twice", "x:y"} & set(names())
    assert decoders.decoder_class("credit").__module__ == "creditdecoding.decoders.credit"
    assert "credit of the package eve 1.2 is not used: this is a built-in name" in caplog.text
    assert "twice of the package fay 1.2 is not used: several packages have" in caplog.text
    task_names()
    assert "gsm8k of the package fay 1.2 is not used" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no task"),
        (REVERSE.replace('"reverse"', '"facts"'), "the task has a built-in name; got 'facts'"),
        ("1 / 0", r"the task file cannot be imported: ZeroDivisionError.*line 1"),
    ],
)
def test_a_file_that_is_no_task_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "mine.py", text)
    with pytest.raises(OptionError, match=message):
        load_tasks(str(path))


def test_a_file_is_a_task(tmp_path: Path) -> None:
    path = write(tmp_path, "reverse.py", REVERSE)
    result = run_credit(["eval", "--tasks", str(path), "--limit", "1", "--gen-length", "16"])
    assert result.status == 0 and "reverse" in result.stdout, result.stderr
