"""What `credit adapt` draws, and what it leaves out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.train.adapt_data import RowMaker, load_sources
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.bases import read_base
from creditdecoding.train.schedule import stable_rate
from tests.helpers.adaptations import write_conversations, write_held_out_question
from tests.helpers.tiny_bases import write_base


def test_held_out_conversations_are_never_drawn(tmp_path: Path) -> None:
    (source,) = load_sources([str(write_conversations(tmp_path / "chat.jsonl"))], held_out=5)
    held_out = {example.messages[0]["content"] for example in source.held_out}
    rng = random.Random(0)
    drawn = {source.draw(rng).messages[0]["content"] for _ in range(500)}
    assert held_out and not held_out & drawn
    assert len(drawn) > 20


def test_every_turn_of_a_conversation_is_an_answer(tmp_path: Path) -> None:
    texts = ("Hi", "Hello.", "Who are you?", "A model.")
    roles = ("user", "assistant") * 2
    messages = [{"role": r, "content": text} for r, text in zip(roles, texts)]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    (source,) = load_sources([str(path)], held_out=0)
    rng = random.Random(0)
    turns = {(len(example.messages), example.answer) for example in map(source.draw, [rng] * 40)}
    assert turns == {(1, "Hello."), (3, "A model.")}


def test_tasks_share_the_weight_of_their_spec() -> None:
    sources = load_sources(["pocket@2", "arithmetic@0.5"], held_out=1)
    assert sum(source.weight for source in sources) == pytest.approx(2.5)
    item = sources[-1].held_out[0]
    assert item.grade(item.answer) == 1


def test_a_benchmark_may_have_a_template_and_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = (
        {"question": f"What is {i}+1?", "answer": f"It is {i + 1}.\n#### {i + 1}"}
        for i in range(20)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for weight, mark in ((1, ""), (0.5, "@0.5")):
        (source,) = load_sources([f"gsm8k@plain={path}{mark}"], held_out=2)
        assert source.weight == weight
        assert source.draw(random.Random(0)).messages[0]["content"].endswith("+1?")


def test_questions_that_are_all_held_out_are_refused(tmp_path: Path) -> None:
    path = write_held_out_question(tmp_path)
    with pytest.raises(OptionError, match=f"too few questions.*1 in {path}, all held out"):
        load_sources(["arithmetic", str(path)], held_out=0)


@pytest.mark.parametrize("spec", ["pocket@", "pocket@none", "pocket@-1"])
def test_a_wrong_weight_is_refused(spec: str) -> None:
    with pytest.raises(OptionError, match="no weight after @"):
        load_sources([spec], held_out=0)


def test_a_batch_has_the_shape_of_a_bucket(tmp_path: Path) -> None:
    base = read_base(str(write_base(tmp_path / "base", max_position_embeddings=256)), 8)
    config = AdaptConfig(tokens=1, buckets="120:32,160:32", batch_positions=800)
    rows = RowMaker(config, base.tokenizer, base.end_of_turn)
    sources = load_sources([str(write_conversations(tmp_path / "chat.jsonl"))], held_out=0)
    assert rows.left_out(sources[0]) == 0
    batch, shape = rows.batch(sources, random.Random(0))
    assert shape in rows.shapes
    assert batch.tokens.shape == (800 // (shape[0] + 2 * 32), shape[0])
    ends = batch.prompt_lengths + batch.answer_lengths
    last = batch.tokens[range(len(ends)), ends - 1]
    assert (last == base.end_of_turn).all()


def test_progress_and_rate_follow_the_budget() -> None:
    by_tokens = AdaptConfig(tokens=200)
    by_minutes = AdaptConfig(minutes=2)
    assert by_tokens.progress(50, 1e9) == 0.25
    assert by_minutes.progress(10**9, 90) == 0.75
    rates = [stable_rate(100, progress, 1.0, 10, 0.25) for progress in (0.1, 0.75, 0.875, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.525, 0.05])
    assert stable_rate(0, 0.0, 1.0, 10, 0.25) == pytest.approx(0.1)
