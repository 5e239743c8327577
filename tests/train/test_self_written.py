"""Conversations that a base writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM, load_base
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.train import self_written
from creditdecoding.train.self_written import write_self_data
from tests.helpers.tiny_bases import write_base


@pytest.fixture
def base(tmp_path: Path) -> AutoregressiveLM:
    return load_base(str(write_base(tmp_path / "base")), EngineConfig())


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The seeds of the batches that are written: three pairs each, one of which is in all."""
    seeds: list[str] = []

    def write(base: AutoregressiveLM, seed: str) -> list[tuple[str, str]]:
        seeds.append(seed)
        return [("Same?", "Yes."), *((f"{seed}-{i}?", f"{i}.") for i in range(2))]

    monkeypatch.setattr(self_written, "_write_batch", write)
    return seeds


def no_progress(done: int, total: int) -> Callable[[], None]:
    return lambda: None


def questions(path: Path) -> list[str]:
    records = map(json.loads, path.read_text().splitlines())
    return [record["messages"][0]["content"] for record in records]


def test_more_are_added_to_what_is_there(
    base: AutoregressiveLM, batches: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "self"
    first = questions(write_self_data(base, 4, 0, out, no_progress))
    assert first == ["Same?", "0/0-0?", "0/0-1?", "0/1-0?"]
    assert batches == ["0/0", "0/1"]
    assert questions(write_self_data(base, 6, 0, out, no_progress))[:4] == first
    assert batches == ["0/0", "0/1", "0/2"]


def test_a_base_that_repeats_itself_is_refused(
    base: AutoregressiveLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(self_written, "_write_batch", lambda base, seed: [("Same?", "Yes.")])
    with pytest.raises(CheckpointError, match="no more questions"):
        write_self_data(base, 2, 0, tmp_path / "self", no_progress)


def test_answers_without_an_end_are_cut_to_whole_sentences() -> None:
    cut = self_written._whole_sentences
    assert cut("One. Two is 2.5 and", done=False) == "One."
    assert cut("1. One is first", done=False) == ""
    assert cut("No end", done=True) == "No end"


@pytest.mark.slow
def test_a_base_writes_after_its_template(
    base: AutoregressiveLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_written, "BATCH", 24)
    monkeypatch.setattr(self_written, "ANSWER_TOKENS", 4)
    assert self_written._before_question(base.tokenizer.backend).endswith("<|im_start|>user\n")
    pairs = self_written._write_batch(base, "0/0")
    assert pairs == self_written._write_batch(base, "0/0")
    assert all(question and answer for question, answer in pairs)


def test_questions_begin_in_turn_with_all_openings(
    base: AutoregressiveLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that ends every question with one word, and every answer as well."""
    tokenizer = base.tokenizer
    (stop, *_), word = tokenizer.stop_ids, tokenizer.encode_plain(" it")

    def sample(model: object, prompts: list[list[int]], *options: object) -> list[list[int]]:
        return [[*word, stop] for _ in prompts]

    monkeypatch.setattr(self_written, "sample", sample)
    written = [question for question, _ in self_written._write_batch(base, "0/0")]
    expected = [f"{opening} it".strip() for opening in self_written.OPENINGS]
    assert len(written) == self_written.BATCH
    assert written[: len(expected)] == expected and set(written) == set(expected)
