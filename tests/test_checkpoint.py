"""Where checkpoints come from: folders, hub ids, the hub's cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import creditdecoding
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig
from creditdecoding.description import describe
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import load_model
from tests.helpers.bad_checkpoints import one_line, refused
from tools.make_checkpoint import make

torch.set_num_threads(1)

REV = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a fault, in three files."""
    return make("llada", tmp_path_factory.mktemp("loading") / "whole", shards=3, n_kv_heads=2)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "spoilt"))


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """A hub cache that holds it as some-org/some-model, its branch main and its tag v1."""
    repo = tmp_path / "cache" / "models--some-org--some-model"
    shutil.copytree(whole, repo / "snapshots" / REV)
    (repo / "refs").mkdir()
    for name in ("main", "v1"):
        (repo / "refs" / name).write_text(REV)
    return tmp_path / "cache"


@pytest.mark.parametrize("revision", [None, "main", "v1", REV])
def test_what_is_in_the_cache_loads_offline(revision: str | None, cache: Path, whole: Path) -> None:
    options: dict[str, Any] = {
        "offline": True,
        "cache_dir": str(cache),
        "revision": revision,
        "device": "cpu",
    }
    model = creditdecoding.load("some-org/some-model", **options).model
    expected = load_model(whole, EngineConfig(device="cpu")).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert describe("some-org/some-model", EngineConfig(**options))["checkpoint"].endswith(REV)


@pytest.mark.parametrize(
    "lost",
    [
        "model-00002-of-00003.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
    ],
)
def test_a_partial_download_is_not_trusted(lost: str, cache: Path) -> None:
    snapshot = cache / "models--some-org--some-model" / "snapshots" / REV
    (snapshot / lost).unlink()
    if lost.startswith("model.safetensors"):
        (snapshot / "model-00002-of-00003.safetensors").unlink()
        lost = "model-00002-of-00003.safetensors"
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load("some-org/some-model", offline=True, cache_dir=str(cache), device="cpu")
    assert lost in one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "revision"), [("some-org/other-model", None), ("some-org/some-model", "v2")]
)
def test_offline_and_not_cached_says_so(name: str, revision: str | None, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="offline") as caught:
        resolve_checkpoint(name, revision, True, str(cache))
    assert name in one_line(caught.value) and (revision or "") in str(caught.value)


def test_a_folder_has_no_revision(whole: Path) -> None:
    for name in (str(whole), "pocket"):
        with pytest.raises(OptionError, match="revision"):
            resolve_checkpoint(name, "main")


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the hub's client; some want the response of a server."""
    error = kind.__new__(kind, "401 Client Error.\nCannot access gated repo for url https://x.")
    error.args = ("401 Client Error.\nCannot access gated repo for url https://x.",)
    return error


HUB: list[tuple[type[Exception], str]] = [
    (GatedRepoError, "accepted its terms"),
    (RepositoryNotFoundError, "no such checkpoint"),
    (RevisionNotFoundError, "no such revision"),
    (OfflineModeIsEnabled, "offline"),
    (LocalEntryNotFoundError, "the hub did not give it"),
    (ConnectionError, "network"),
]


@pytest.mark.parametrize(("kind", "message"), HUB)
def test_what_the_hub_refuses_is_told_apart(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("creditdecoding.hub.snapshot_download", fail)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint("some-org/some-model", "v1")
    assert message in one_line(caught.value) and "some-org/some-model at v1" in str(caught.value)


def test_the_options_reach_the_hub_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "creditdecoding.hub.snapshot_download",
        lambda name, **options: calls.append(options) or str(folder),
    )
    assert resolve_checkpoint("some-org/some-model", "v1", False, "/somewhere") == folder
    assert {
        "revision": "v1",
        "cache_dir": "/somewhere",
        "local_files_only": False,
    }.items() <= calls[0].items()


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere", "../no/where", "/no/such/folder", "~/no-such-folder", "a/b/c"]
)
def test_a_folder_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("this is not a hub id")

    monkeypatch.setattr("creditdecoding.hub.snapshot_download", never)
    assert name in str(refused(name))


@pytest.mark.parametrize(
    "name",
    [
        "here/modle",
        "here/models/",
        "./here/x",
        "a/b/c/d",
        "here//x",
        "org/name/",
        "~nobody-here/x",
        "a\0b",
        "x" * 5000,
    ],
)
def test_a_mistyped_path_does_not_go_to_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("this is not a hub id")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("creditdecoding.hub.snapshot_download", never)
    message = str(refused(name))
    assert "no such folder" in message or "/" not in name


@pytest.mark.parametrize("name", ["GSAI-ML/LLaDA-8B-Instruct", "a/b", "some_org/model_1.5-b8"])
def test_hub_ids_go_to_the_hub(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("creditdecoding.hub.snapshot_download", lambda name, **options: str(folder))
    assert creditdecoding.checkpoint.resolve_checkpoint(name) == folder


def test_a_file_in_place_of_a_folder_is_named(folder: Path) -> None:
    assert "config.json" in str(refused(str(folder / "config.json")))


# What the hub's HTTP library (another one in hub 1.x and 2.x) raises when a download breaks off: no
# OSError.
HTTPError = HfHubHTTPError.__bases__[0]

UNREACHABLE: list[tuple[str, Exception]] = [
    ("no route", OSError("[Errno 101] Network is unreachable")),
    ("without a word", ConnectionError()),
    (
        "not cached",
        LocalEntryNotFoundError(
            "Cannot find an appropriate cached snapshot folder\nfor the specified revision."
        ),
    ),
    ("offline", OfflineModeIsEnabled("offline mode is enabled")),
    ("bad id", HFValidationError("Repo id must be in the form 'namespace/repo_name'")),
    ("broke off while downloading", HTTPError("The read operation timed out")),
]


@pytest.mark.parametrize(
    "raised", [case[1] for case in UNREACHABLE], ids=[case[0] for case in UNREACHABLE]
)
def test_a_hub_id_that_cannot_be_had_is_named(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise raised

    monkeypatch.setattr("creditdecoding.hub.snapshot_download", fail)
    error = refused("some-org/some-model")
    assert "some-org/some-model" in str(error) and error.__cause__ is raised


def test_a_hub_id_is_loaded_without_its_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str], **others: Any) -> str:
        downloads.append((name, allow_patterns))
        return str(folder)

    (folder / "modeling_llada.py").write_text("raise SystemExit('remote code ran')")
    monkeypatch.setattr("creditdecoding.hub.snapshot_download", download)
    lm = creditdecoding.load("some-org/some-model", device="cpu")
    assert lm.generate("Hi", gen_length=4).nfe >= 1
    ((name, patterns),) = downloads
    assert name == "some-org/some-model"
    assert not any(
        Path("modeling_llada.py").match(pattern) or Path("pytorch_model.bin").match(pattern)
        for pattern in patterns
    )
    needed = {path.name for path in folder.iterdir()} - {"modeling_llada.py"}
    assert all(
        any(Path(file).match(pattern) for pattern in patterns)
        for file in {*needed, "chat_template.jinja", "merges.txt"}
    )


@pytest.mark.parametrize("name", [None, 5, ["pocket"]])
def test_what_is_not_a_name_is_refused(name: Any) -> None:
    with pytest.raises(OptionError, match="not the name of a checkpoint"):
        resolve_checkpoint(name)
