"""Worked answers to word problems: gsm_symbolic of the package reasoning-gym (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import count
from typing import Any

from creditdecoding.errors import OptionError

INSTRUCTION = " Give the result as your final answer. Do not include units."
"""What reasoning-gym adds to each question; the worked answer is learnt in place of the number."""
DRAWN = 1_000_000
"""How many problems the generator is told that there are; they are made one by one."""


def worked_answers(seed: int) -> Iterator[tuple[str, str]]:
    """Problems and their worked answers without end. Raises `OptionError` without the package."""
    try:
        package = import_module("reasoning_gym")
    except ImportError as error:
        raise OptionError(
            "worked answers need the package reasoning-gym",
            given="--worked",
            hint="Install it with: pip install reasoning-gym==0.1.25, or give --no-worked.",
        ) from error
    return _answers(package.create_dataset("gsm_symbolic", size=DRAWN, seed=seed))


def _answers(problems: Any) -> Iterator[tuple[str, str]]:
    for number in count():
        problem = problems[number % DRAWN]
        answer = problem["metadata"].get("answer_cot", "").strip()
        if answer:
            yield problem["question"].removesuffix(INSTRUCTION).strip(), answer
