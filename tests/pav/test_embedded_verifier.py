"""The embedded verifier belongs to the embedded model and prefers right steps to wrong ones."""

from __future__ import annotations

import json

import pytest

from creditdecoding import load
from creditdecoding.errors import OptionError
from creditdecoding.pav.steps import PartialAnswer, step_ends
from creditdecoding.pav.verifier.model import Verifier, verifier_folder
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from tools.make_checkpoint import make


@pytest.mark.parametrize(("model", "share"), [("pocket", 0.75), ("pocket-v1", 0.9)])
def test_it_prefers_the_worked_answer_to_one_with_a_wrong_number(model: str, share: float) -> None:
    lm = load(model)
    verifier = Verifier.load(model, lm)
    (family,) = load_tasks("arithmetic")
    won, pairs = 0, 0
    for item in distinct_items(family, "test", 3, 30):
        steps = item.answer.split(". ")
        head, (left, equals, right) = steps[:2], steps[1].rpartition("=")
        if not equals or not right.isdigit():
            continue
        texts = [
            ". ".join([head[0], f"{left}={number}"]) + "."
            for number in (int(right), int(right) + 1)
        ]
        written = [tuple(lm.tokenizer.encode(text)) for text in texts]
        ends = [tuple(step_ends(ids, ".", lm.vocab.decode)) for ids in written]
        good, bad = verifier.q(
            [
                PartialAnswer(tuple(lm.encode(item.prompt)), ids, end)
                for ids, end in zip(written, ends)
            ]
        )
        won, pairs = won + bool(good > bad + 0.1), pairs + 1
    assert pairs >= 10 and won >= share * pairs


def test_it_is_of_the_embedded_model_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(OptionError, match="another"):
        Verifier.load("pocket", load(str(make("llada", tmp_path_factory.mktemp("llada")))))


def test_it_says_how_good_it_was_on_problems_held_out() -> None:
    measures = json.loads((verifier_folder("pocket") / "verifier.json").read_text())["measures"]
    assert (
        measures["problems"] == 400
        and measures["skill"]["low"] > 0.3
        and measures["rank"]["low"] > 0.75
    )
