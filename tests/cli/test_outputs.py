"""Every command that writes a file refuses one that cannot be written before it loads a model."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from creditdecoding.cli import validate
from creditdecoding.errors import OptionError
from tests.helpers.cli import run_credit

NO_FOLDER = "the folder of this file does not exist"
FILES = {
    "eval": ["eval", "--out", "PATH"],
    "compare png": ["compare", "--png", "PATH"],
    "compare report": ["compare", "--report", "PATH"],
    "compare searches": ["pav", "compare", "--verifier", "pocket", "--png", "PATH"],
    "tune": ["tune", "--out", "PATH"],
    "lengths": ["lengths", "--out", "PATH"],
    "lengths png": ["lengths", "--png", "PATH"],
    "speedups": ["speedups", "--out", "PATH"],
    "speedups png": ["speedups", "--png", "PATH"],
    "analyse png": ["analyse", "--png", "PATH"],
    "analyse reliability": ["analyse", "--reliability-png", "PATH"],
    "batch": ["batch", __file__, "PATH"],
    "collect": ["pav", "collect", "PATH"],
    "rl": ["pav", "rl", "--png", "PATH"],
}
FOLDERS = {
    "compare": ["compare", "--out", "PATH"],
    "compare searches": ["pav", "compare", "--verifier", "pocket", "--out", "PATH"],
    "pav train": ["pav", "train", __file__, "--out", "PATH"],
    "pav rl": ["pav", "rl", "--out", "PATH"],
}


def refusal(arguments: list[str], path: Path) -> str:
    """The error about an output; the model does not exist, which would be the error otherwise."""
    words = [str(path) if argument == "PATH" else argument for argument in arguments]
    done = run_credit([*words, "-m", "./no-such-model"])
    assert done.status == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_written_is_refused_at_once(name: str, tmp_path: Path) -> None:
    assert NO_FOLDER in refusal(FILES[name], tmp_path / "no" / "x.png")
    assert "this is a folder" in refusal(FILES[name], tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_used_is_refused_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert "this is a file, not a folder" in refusal(FOLDERS[name], tmp_path / "file")
    assert "this is a file, not a folder" in refusal(FOLDERS[name], tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "content"


def test_commands_without_a_model_check_their_output_first(tmp_path: Path) -> None:
    assert NO_FOLDER in run_credit(["export", "--out", tmp_path / "no" / "x"]).stderr
    (tmp_path / "file").touch()
    assert "this is a file" in run_credit(["train", "--out", tmp_path / "file"]).stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_forbidden_disk_is_an_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, "the message of the disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OptionError, match="the message of the disk"):
        validate.check_writable(tmp_path / "x")
    with pytest.raises(OptionError, match="the message of the disk"):
        validate.check_folder(tmp_path / "run")


def test_the_check_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    validate.check_writable(tmp_path / "new", None, tmp_path / "link", Path("/dev/null"))
    validate.check_folder(tmp_path / "run" / "deep")
    assert (tmp_path / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "x")
    with pytest.raises(OptionError, match="two outputs are the same file"):
        validate.check_writable(tmp_path / "x", tmp_path / "link")


def test_a_folder_in_the_place_of_a_file_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OptionError, match="this is a folder"):
        validate.check_folder(tmp_path, "samples.jsonl", "report.json")
