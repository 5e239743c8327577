"""`credit adapt` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers.adaptations import write_conversations
from tests.helpers.cli import Result, run_credit
from tests.helpers.tiny_bases import write_base
from tools.make_checkpoint import make

SMALL = (
    "--buckets=136:32",
    "--batch-positions=400",
    "--rank=2",
    "--no-compile",
    "--eval-length=8",
    "--held-out=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and conversations."""
    folder = tmp_path_factory.mktemp("adapt")
    write_base(folder / "base", max_position_embeddings=256)
    write_conversations(folder / "chat.jsonl")
    return folder


def adapt(folder: Path, out: Path, *options: str, data: str = "chat.jsonl") -> Result:
    base, file = folder / "base", folder / data
    arguments = ["adapt", "--base", base, "--data", file, "--out", out, *SMALL, *options]
    return run_credit(arguments)


@pytest.mark.slow
def test_an_adapter_comes_out(folder: Path, tmp_path: Path) -> None:
    result = adapt(folder, tmp_path, "--tokens=150", "--eval-every=2")
    assert result.status == 0, result.stderr
    assert re.search(r"\d% of the masked tokens right; loss by mask ratio", result.stderr)
    assert "held-out score" in result.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json"} <= names
    assert "by the distance from the last clean token" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_processes_share_a_step(folder: Path, tmp_path: Path) -> None:
    result = adapt(folder, tmp_path, "--tokens=200", "--processes=2")
    assert result.status == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records[-1]["tokens"] >= 200


def one_line(result: Result, *words: str) -> None:
    """The command failed with one line that has these words."""
    lines = result.stderr.strip().splitlines()
    assert result.status == 2
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--tokens or --minutes",)),
        (("--tokens=9", "--minutes=1"), ("one budget",)),
        (("--tokens=9", "--rank=-1"), ("rank", "0 <= rank <= 1024")),
        (("--tokens=9", "--rank=4000"), ("rank", "0 <= rank <= 1024")),
        (("--tokens=9", "--rank=40"), ("rank", "smallest matrix")),
        (("--tokens=9", "--buckets=136:30"), ("136:30", "multiple of the block length")),
        (("--tokens=9", "--buckets=9000:32"), ("9000", "256")),
        (("--tokens=9", "--buckets=16:8"), ("16:8", "Give longer --buckets")),
        (("--tokens=9", "--device=moon"), ("moon", "Use --device cpu")),
        (("--tokens=9", "--start-from=nowhere"), ("nowhere",)),
    ],
)
def test_bad_options_are_one_line(
    folder: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    one_line(adapt(folder, tmp_path, *options), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": [{"role": "user", "content": "Hi"}]}', ("line 31", "its answer")),
        (
            '{"messages": [{"role": "user", "content": "Hi"}, '
            '{"role": "assistant", "content": " "}]}',
            ("line 31", "not empty"),
        ),
        ('{"messages": "Hi"}', ("line 31", "no conversation")),
        ("{", ("line 31",)),
    ],
)
def test_bad_data_is_one_line(
    folder: Path, tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    path = write_conversations(folder / "bad.jsonl")
    path.write_text(path.read_text() + line + "\n")
    one_line(adapt(folder, tmp_path, "--tokens=9", data="bad.jsonl"), *words)


def test_a_folder_that_is_no_base_is_one_line(folder: Path, tmp_path: Path) -> None:
    make("llada", tmp_path / "llada")
    arguments = ["adapt", "--data", folder / "chat.jsonl", "--out", tmp_path, "--tokens=9"]
    one_line(run_credit([*arguments, "--base", tmp_path / "llada"]), "LLaDA", "LlamaForCausalLM")
    one_line(run_credit([*arguments, "--base", tmp_path]), "config.json")


def test_another_rank_does_not_continue_a_run(folder: Path, tmp_path: Path) -> None:
    assert adapt(folder, tmp_path, "--tokens=30").status == 0
    one_line(adapt(folder, tmp_path, "--tokens=60", "--rank=1"), "rank: 2 there, 1 here")
