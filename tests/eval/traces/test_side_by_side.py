"""The cost of committing side by side, by hand."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from creditdecoding import GenerationConfig, load
from creditdecoding.eval.traces.dataset import decode_prompts
from creditdecoding.eval.traces.report import analyse
from creditdecoding.eval.traces.side_by_side import (
    END,
    padded_answers,
    reveal_cost,
    side_by_side,
)
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from creditdecoding.trace import FinishEvent, Trace
from tests.helpers.analysis_traces import step

SHUFFLES = list(itertools.permutations((1, 2, 3)))


def test_three_names_in_any_order() -> None:
    """All at once: 3 log 3 apart, log 6 together. One by one: nothing. Two, then the last: the two
    have 2 log 3 apart and log 6 together.
    """
    order = {0: 2, 1: 3, 2: 1}
    together = reveal_cost(SHUFFLES, [order])
    assert together.nats == pytest.approx(3 * math.log(3) - math.log(6))
    one_by_one = [{position: token} for position, token in order.items()]
    assert reveal_cost(SHUFFLES, one_by_one).nats == 0.0
    pair = reveal_cost(SHUFFLES, [{0: 2, 1: 3}, {2: 1}])
    assert pair.nats == pytest.approx(2 * math.log(3) - math.log(6))
    assert not pair.left_support


def test_tokens_without_a_choice_cost_nothing() -> None:
    answers = [(7, 1, 9), (7, 2, 9)]
    assert reveal_cost(answers, [{0: 7, 1: 2, 2: 9}]).nats == 0.0
    assert reveal_cost(answers[:1], [{0: 7, 1: 1, 2: 9, 50: 4}]) == (0.0, False)


def test_a_name_written_twice_leaves_the_support() -> None:
    cost = reveal_cost(SHUFFLES, [{0: 2, 1: 2}, {2: 1}])
    assert cost.left_support
    assert cost.nats == pytest.approx(2 * math.log(3) - math.log(6))


def test_the_costs_of_an_order_add_up_to_the_total_correlation() -> None:
    """In expectation over answers, the cost of an order of sets plus the joint entropy is the sum of
    the tokens' entropies given what was revealed before them. Checked for random sets of answers.
    """
    rng = random.Random(0)
    for _ in range(20):
        everything = [tuple(rng.randint(0, 2) for _ in range(3)) for _ in range(6)]
        answers = sorted(set(everything))
        costs, apart = 0.0, 0.0
        for answer in answers:
            costs += reveal_cost(answers, [{0: answer[0]}, {1: answer[1], 2: answer[2]}]).nats
            rest = [other for other in answers if other[0] == answer[0]]
            for position in (1, 2):
                same = sum(other[position] == answer[position] for other in rest)
                apart += math.log(len(rest) / same)
            apart += math.log(len(answers) / len(rest))
        mean_cost, mean_apart = costs / len(answers), apart / len(answers)
        assert mean_cost == pytest.approx(mean_apart - math.log(len(answers)), abs=1e-9)


def test_traces_are_read_by_position_in_the_answer() -> None:
    steps = [
        step(0, 0, {2: (1, 0.9, True), 3: (2, 0.9, True), 4: (3, 0.1, False)}),
        step(0, 1, {4: (3, 0.9, True), 5: (8, 0.9, True)}),
    ]
    trace = Trace((8, 8), steps, FinishEvent(0, "stop", (1, 2, 3), 0.1))
    answers = padded_answers(SHUFFLES)
    numbers = side_by_side([trace, trace], [answers, ()], {9, 8})
    assert numbers == {
        "prompts": 1,
        "nats": round(2 * math.log(3) - math.log(6), 4),
        "left_support": 0,
    }
    assert side_by_side([trace], [answers], {9}) == {**numbers, "left_support": 1}
    assert side_by_side([trace], [()], {9}) is None
    assert padded_answers([(1,), (1, 2)]) == ((1, END, END), (1, 2, END))


def test_right_answers_of_the_embedded_model_stay_within_the_support() -> None:
    """Whichever end token it writes."""
    lm = load("pocket", threads=1)
    tasks = load_tasks("list-copy,list-reverse")
    items = [item for task in tasks for item in distinct_items(task, "test", 0, 2)]
    config = GenerationConfig(gen_length=32)
    prompts = decode_prompts(lm, tasks, items, config, ["fixed", "threshold:threshold=0.99"])
    report = analyse(prompts)
    for record in report["decoders"]:
        assert record["score"] == 100
        assert record["side_by_side"]["left_support"] == 0


def test_listed_answers_are_right_and_complete() -> None:
    """Every listed answer scores, the reference is among them, and none is listed twice."""
    tasks = [task for task in load_tasks("lists") if task.right_answers is not None]
    assert len(tasks) == 10
    for task in tasks:
        assert task.right_answers is not None
        for item in distinct_items(task, "dev", 0, 3):
            listed = task.right_answers(item)
            assert item.answer in listed
            assert len(set(listed)) == len(listed)
            assert all(task.score(answer, item) for answer in listed)
