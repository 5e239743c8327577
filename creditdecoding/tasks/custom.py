"""A task from a user's file of {"prompt", "answer"} or {"question", "answer"} records, scored by
exact match after normalisation.

An answer is right if the whole of it or its final statement (the box, the text after the last
"Answer:", else the last line) equals the reference without regard to case, white space, outer
punctuation and thousands separators in a number. "answer" may be a list of texts that are all
right. A step of an answer is a line. A file of prompts alone is open text: no answer is right or
wrong, and only its quality can be measured.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.tasks.base import NO_ANSWER, Task
from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template, as_task
from creditdecoding.tasks.benchmarks.extract import short_answer
from creditdecoding.tasks.benchmarks.files import KINDS

_PROMPTS = ("prompt", "question", "problem", "input")
_ANSWERS = ("answer", "answers", "target")
_OUTER = " \t.,;:!?\"'()[]*_`$"


def is_file(spec: str) -> bool:
    """Whether a task's name is that of a data file, and not NAME=FILE, a benchmark's."""
    return "=" not in spec.split("/")[0] and spec.lower().removesuffix(".gz").endswith(KINDS)


def load(path: str, open_text: bool = False) -> Task:
    """The questions of a file as a task named by its path. Raises `OptionError`, also for questions
    without answers, unless `open_text` allows a file of them.
    """
    task = as_task(dataclasses.replace(_QUESTIONS, name=path), path=path)
    items = task.fixed_items or ()
    unanswered = sum(item.is_open for item in items)
    if unanswered and not (open_text and unanswered == len(items)):
        raise OptionError(
            "questions without an answer" if open_text else "this command takes no open text",
            given=f"{path}: {unanswered} of {len(items)} without an answer",
            allowed=_QUESTIONS.record_format,
            hint="Add the answers; eval, compare and analyse take a file of prompts alone.",
        )
    return task


def normalize_answer(text: str) -> str:
    """The form in which answers are compared."""
    plain = " ".join(text.casefold().split()).strip(_OUTER)
    is_number = re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", plain)
    return plain.replace(",", "") if is_number else plain


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    prompt = _only(record, _PROMPTS)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the prompt is not some text")
    if record.keys().isdisjoint(_ANSWERS):
        yield Question({"prompt": prompt}, "", NO_ANSWER)
        return
    value = _only(record, _ANSWERS)
    answers = value if isinstance(value, list) else [value]
    if not answers or not all(map(_is_answer, answers)):
        raise ValueError("the answer is empty, or not a text, a number or a list of them")
    gold = tuple(normalize_answer(str(answer)) for answer in answers)
    yield Question({"prompt": prompt}, str(answers[0]), gold)


def _is_answer(value: object) -> bool:
    is_text_or_number = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return is_text_or_number and bool(normalize_answer(str(value)))


def _only(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The one field of these names that the record has."""
    present = [name for name in names if name in record]
    if len(present) > 1:
        raise ValueError(f"both {' and '.join(present)} are there")
    if not present:
        raise KeyError(names[0])
    return record[present[0]]


def _is_correct(text: str, gold: tuple[str, ...]) -> bool:
    return normalize_answer(text) in gold or normalize_answer(short_answer(text)) in gold


_QUESTIONS = Benchmark(
    name="questions",
    title="questions of your own",
    record_format="prompt (or question), answer (a text, a number or a list)",
    repo="",
    files=(),
    templates={"plain": Template("{prompt}")},
    questions=_questions,
    is_correct=_is_correct,
    step_delimiter="\n",
)
