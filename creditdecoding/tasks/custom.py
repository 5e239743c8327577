"""Questions of one's own: a file of {"prompt", "answer"} or {"question", "answer"} records as a
task, judged by exact match after normalisation.

Right is an answer that, as a whole or in its last word on the matter (boxed, after the last
"Answer:", else its last line), equals the
reference without regard to case, white space, outer punctuation and thousands separators in a
number. "answer" may be a list of texts that are
all right. A step of an answer is a line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.base import Task
from creditdecoding.tasks.benchmarks import base
from creditdecoding.tasks.benchmarks.extract import short
from creditdecoding.tasks.benchmarks.files import KINDS

_PROMPTS = ("prompt", "question", "problem", "input")
_ANSWERS = ("answer", "answers", "target")
_OUTER = " \t.,;:!?\"'()[]*_`$"


def is_file(spec: str) -> bool:
    """Whether a task's name is that of a data file, and not NAME=FILE, a benchmark's."""
    return "=" not in spec.split("/")[0] and spec.lower().removesuffix(".gz").endswith(KINDS)


def load(path: str) -> Task:
    """The questions of a file, named by its path. Raises `OptionError`."""
    return base.family(dataclasses.replace(_QUESTIONS, name=path), path=path)


def normalize_answer(text: str) -> str:
    """A text as it is compared."""
    plain = " ".join(text.casefold().split()).strip(_OUTER)
    return (
        plain.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", plain) else plain
    )


def _questions(record: Mapping[str, Any]) -> Iterator[base.Question]:
    prompt = _only(record, _PROMPTS)
    given = _only(record, _ANSWERS)
    answers = given if isinstance(given, list) else [given]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the prompt is not some text")
    if not answers or any(
        isinstance(each, bool)
        or not isinstance(each, (str, int, float))
        or not normalize_answer(str(each))
        for each in answers
    ):
        raise ValueError("the answer is not a text, a number or a list of them")
    yield base.Question(
        {"prompt": prompt}, str(answers[0]), tuple(normalize_answer(str(each)) for each in answers)
    )


def _only(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The one field of these names that the record has."""
    there = [name for name in names if name in record]
    if len(there) > 1:
        raise ValueError(f"both {' and '.join(there)} are there")
    if not there:
        raise KeyError(names[0])
    return record[there[0]]


def _judge(text: str, gold: tuple[str, ...]) -> bool:
    return normalize_answer(text) in gold or normalize_answer(short(text)) in gold


_QUESTIONS = base.Benchmark(
    "questions",
    "questions of your own",
    "prompt (or question), answer (a text, a number or a list)",
    "",
    (),
    {"plain": base.Template("{prompt}")},
    _questions,
    _judge,
    delimiter="\n",
)
