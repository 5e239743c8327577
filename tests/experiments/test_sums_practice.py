"""The tasks that practise sums: those that carry, and those that are refused."""

from __future__ import annotations

import itertools
import random
import re

from creditdecoding.tasks.base import Item, Task, generate_items
from creditdecoding.tasks.synthetic import sums
from experiments import carries, refused_sums


def drawn(task: Task, count: int) -> list[Item]:
    rng = random.Random(0)
    return [task.make(rng) for _ in range(count)]


def known_sums(split: str | None = None) -> set[tuple[int, str, int]]:
    """Many sums that `sums` asks, of a split or of all."""
    rng = random.Random(1)
    if split is None:
        return {sums.TASK.make(rng).key for _ in range(50_000)}
    return {item.key for item in itertools.islice(generate_items(sums.TASK, split, 0), 1_000)}


def test_results_are_right() -> None:
    for item in drawn(carries.TASK, 300):
        assert carries.TASK.score(item.answer, item)
        assert not carries.TASK.score(item.answer + " Here 1+1=2.", item)
        for expression, result in re.findall(r"Here (\S+)=(\d+)\.", item.answer):
            assert eval(expression) == int(result)


def test_no_practised_sum_is_held_out() -> None:
    practised = {expression for item in drawn(carries.TASK, 1_000) for expression in item.key}
    held_out = known_sums("dev") | known_sums("test")
    assert not practised & {f"{x}{sign}{y}" for x, sign, y in held_out}


def test_most_of_them_carry_or_borrow() -> None:
    terms = [
        re.fullmatch(r"(\d+)(.)(\d+)", expression)
        for item in drawn(carries.TASK, 200)
        for expression in item.key
    ]
    tens = [carries.needs_a_ten(int(m[1]), m[2], int(m[3])) for m in terms if m]
    assert 0.75 < sum(tens) / len(tens) < 0.95
    assert carries.needs_a_ten(63, "+", 38) and not carries.needs_a_ten(63, "+", 36)
    assert carries.needs_a_ten(60, "-", 53) and not carries.needs_a_ten(65, "-", 53)


def test_no_sum_that_is_refused_is_one_that_is_answered() -> None:
    known = {f"{x}{sign}{y}" for x, sign, y in known_sums()}
    items = drawn(refused_sums.TASK, 5_000)
    assert not known & {"".join(item.key) for item in items}
    assert len({item.prompt for item in items}) > 4_000


def test_the_question_holds_the_sum_and_nothing_of_the_one_in_its_place() -> None:
    for item in drawn(refused_sums.TASK, 500):
        prompt = item.prompt.replace(" ", "")
        assert "".join(item.key) in prompt
        assert refused_sums.TASK.score(f" {refused_sums.REFUSAL}\n", item)
        assert not refused_sums.TASK.score("Here 12-9=3. Answer: 3", item)
