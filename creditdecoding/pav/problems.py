"""Problems: a prompt with everything that rollouts, label strategies and searches need to know."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM
from creditdecoding.pav.steps import Delimiter, PartialAnswer, task_delimiter
from creditdecoding.tasks.base import Item, Task, final_answer
from creditdecoding.tasks.custom import normalize_answer

ProblemKey = tuple[str, int]
"""The name of a task and the number of one of its problems."""


@dataclass(frozen=True)
class Problem:
    """A question: the ids of its prompt, what ends a step of its answers, the seed of its draws.

    `key` names it in files. `is_correct` judges the ids of a complete answer; `extract_answer`
    reads from them what the answer votes for.
    """

    prompt: tuple[int, ...]
    delimiter: Delimiter
    seed: int = 0
    key: ProblemKey = ("", 0)
    is_correct: Callable[[tuple[int, ...]], bool] | None = None
    extract_answer: Callable[[Sequence[int]], str] | None = None

    @property
    def root(self) -> PartialAnswer:
        """The state in which nothing is written yet."""
        return PartialAnswer(self.prompt)

    def seeds(self) -> Iterator[int]:
        """Endless seeds, different for another prompt or another seed of the problem."""
        generator = random.Random(repr((self.seed, self.prompt)))
        while True:
            yield generator.getrandbits(62)

    def judge(self, answer: PartialAnswer) -> bool:
        """Whether a complete answer is correct."""
        assert self.is_correct is not None, "this problem has no gold answer"
        return self.is_correct(answer.written)


def make_problem(
    lm: LM,
    task: Task,
    number: int,
    item: Item,
    generation: GenerationConfig,
    delimiter: str | None = None,
    raw: bool = False,
) -> Problem:
    """Item `number` of a task as a problem. Raises `OptionError` if nothing ends its steps."""

    @functools.cache
    def is_correct(ids: tuple[int, ...]) -> bool:
        return task.score(lm.text(ids, generation), item)

    return Problem(
        prompt=tuple(lm.encode(item.prompt, raw)),
        delimiter=task_delimiter(task, delimiter),
        seed=generation.seed,
        key=(task.name, number),
        is_correct=is_correct,
        extract_answer=answer_extractor(task, lm, generation),
    )


def answer_extractor(
    task: Task | None, lm: LM, generation: GenerationConfig
) -> Callable[[Sequence[int]], str]:
    """A function from the ids of an answer to what it votes for.

    That is the answer as the task reads it, else the text after the last "Answer:", else the whole
    text, normalised.
    """
    read: Callable[[str], str | None] = final_answer
    if task is not None and task.extract_answer is not None:
        read = task.extract_answer

    def extract(ids: Sequence[int]) -> str:
        text = lm.text(ids, generation)
        answer = read(text)
        return normalize_answer(text) if answer is None else answer

    return extract
