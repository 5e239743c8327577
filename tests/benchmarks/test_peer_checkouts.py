"""Git URLs of `make bench-peers`, with a repository on this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.peer_checkouts import checkout, commit_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for text in ("first", "second"):
        (folder / "generate.py").write_text(f'"""{text}"""\n', encoding="utf-8")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", text)
    return folder


def test_a_url_is_cloned_without_its_history(repository: Path, tmp_path: Path) -> None:
    folder = checkout(repository.as_uri(), tmp_path / "peers" / "llada")
    assert folder == tmp_path / "peers" / "llada"
    assert "second" in (folder / "generate.py").read_text(encoding="utf-8")
    assert git(folder, "rev-list", "--count", "HEAD") == "1"
    assert commit_of(folder) == git(repository, "rev-parse", "HEAD")


def test_a_clone_is_used_again(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkout(repository.as_uri(), tmp_path / "llada")
    (folder / "mark").touch()
    assert checkout(repository.as_uri(), folder) == folder
    assert (folder / "mark").exists()
    assert f"taken from {folder}; delete it to fetch anew" in capsys.readouterr().err


def test_another_clone_is_not_taken_for_it(repository: Path, tmp_path: Path) -> None:
    folder = checkout(repository.as_uri(), tmp_path / "llada")
    with pytest.raises(SystemExit) as stopped:
        checkout("https://example.org/other", folder)
    assert str(stopped.value) == (
        f"error: {folder} exists and is no clone of https://example.org/other."
        " Delete it, or name another folder with --into."
    )


def test_a_folder_without_git_is_not_taken_for_a_clone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no clone of"):
        checkout("https://example.org/other", tmp_path)
    assert commit_of(tmp_path) is None


def test_a_url_that_cannot_be_fetched(tmp_path: Path) -> None:
    url = (tmp_path / "missing").as_uri()
    with pytest.raises(SystemExit) as stopped:
        checkout(url, tmp_path / "llada")
    line = str(stopped.value)
    assert line.startswith(f"error: {url} could not be fetched: ")
    assert line.endswith(". Check the address and the network, or name the folder of a checkout.")
    assert "\n" not in line
    assert not (tmp_path / "llada").exists()


def test_git_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as stopped:
        checkout("https://example.org/other", tmp_path / "llada")
    assert str(stopped.value) == (
        "error: git was not found, and a git URL needs it."
        " Install git, or name the folder of a checkout."
    )


@pytest.mark.parametrize("source", ["--upload-pack=x", "ext::sh -c x", "folder:name"])
def test_what_is_no_url_is_a_folder(source: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such folder"):
        checkout(source, tmp_path / "llada")
