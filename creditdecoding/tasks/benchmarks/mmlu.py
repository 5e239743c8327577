"""MMLU: multiple choice over 57 subjects (Hendrycks et al., 2021). The answer is a letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import choice

_LETTERS = "ABCD"
_QUESTION = "{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n"


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "row" in record:  # the released csv files have no header
        question, *options, answer = record["row"]
        subject = str(record["file"]).removesuffix(".gz").removesuffix(".csv").removesuffix("_test")
    else:
        question, options, answer = (record[key] for key in ("question", "choices", "answer"))
        subject = record.get("subject") or "general knowledge"
    letter = answer.strip() if isinstance(answer, str) else _LETTERS[answer]
    if len(options) != 4 or letter not in tuple(_LETTERS):
        raise ValueError("a question has four options and a letter from A to D")
    fields = {
        "question": question.strip(),
        "subject": subject.replace("_", " "),
        **dict(zip("abcd", map(str, options))),
    }
    yield Question(fields, f"Answer: {letter}", letter)


def _is_correct(text: str, gold: str) -> bool:
    return choice(text) == gold


def _is_test_file(name: str) -> bool:
    stem = name.removesuffix(".csv")
    return not name.startswith(("dev", "val")) and not stem.endswith(("_dev", "_val", "_train"))


BENCHMARK = Benchmark(
    name="mmlu",
    title="multiple choice over 57 subjects",
    record_format="csv of question, four options, letter; or question, choices, answer, subject",
    repo="cais/mmlu",
    files=("all/test-00000-of-00001.parquet",),
    templates={
        "letter": Template(
            "The following is a multiple choice question about {subject}.\n\n"
            + _QUESTION
            + '\nEnd your reply with "Answer: " and the letter.'
        ),
        "steps": Template(
            _QUESTION
            + '\nThink step by step, then finish with "The answer is (X)", where X is the letter.'
        ),
        "plain": Template(_QUESTION + "Answer:"),
        "base": Template(
            "The following are multiple choice questions (with answers) about {subject}.\n\n"
            "Which of these is a prime number?\nA. 9\nB. 11\nC. 15\nD. 21\nAnswer: B\n\n"
            + _QUESTION
            + "Answer:",
            ("\n",),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    is_test_file=_is_test_file,
    extract_answer=choice,
)
