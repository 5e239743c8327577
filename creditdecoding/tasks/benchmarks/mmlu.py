"""MMLU: multiple choice over 57 subjects (Hendrycks et al., 2021). The answer is a letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import choice

_LETTERS = "ABCD"
_ASKED = "{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n"


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "row" in record:  # the released csv files have no header
        question, *options, letter = record["row"]
        subject = str(record["file"]).removesuffix(".gz").removesuffix(".csv").removesuffix("_test")
    else:
        question, options, subject = (
            record["question"],
            record["choices"],
            record.get("subject") or "general knowledge",
        )
        letter = (
            record["answer"] if isinstance(record["answer"], str) else _LETTERS[record["answer"]]
        )
    letter = letter.strip()
    if len(options) != 4 or letter not in tuple(_LETTERS):
        raise ValueError("a question has four options and a letter from A to D")
    fields = {
        "question": question.strip(),
        "subject": subject.replace("_", " "),
        **dict(zip("abcd", map(str, options))),
    }
    yield Question(fields, f"Answer: {letter}", letter)


def _judge(text: str, gold: str) -> bool:
    return choice(text) == gold


BENCHMARK = Benchmark(
    "mmlu",
    "multiple choice over 57 subjects",
    "csv of question, four options, letter; or question, choices, answer, subject",
    "cais/mmlu",
    ("all/test-00000-of-00001.parquet",),
    {
        "letter": Template(
            "The following is a multiple choice question about {subject}.\n\n"
            + _ASKED
            + '\nEnd your reply with "Answer: " and the letter.'
        ),
        "steps": Template(
            _ASKED
            + '\nThink step by step, then finish with "The answer is (X)", where X is the letter.'
        ),
        "plain": Template(_ASKED + "Answer:"),
        "base": Template(
            "The following are multiple choice questions (with answers) about {subject}.\n\nWhich of these is a prime number?\nA. 9\nB. 11\n"
            "C. 15\nD. 21\nAnswer: B\n\n" + _ASKED + "Answer:",
            ("\n",),
        ),
    },
    _questions,
    _judge,
    member=lambda name: (
        not name.startswith(("dev", "val"))
        and not name.removesuffix(".csv").endswith(("_dev", "_val", "_train"))
    ),
    answer=choice,
)
