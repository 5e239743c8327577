"""SQuAD 2.0: spans of a paragraph, or that it has no answer (Rajpurkar et al., 2018). Exact match
and F1, as its own script counts them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import short

_NONE = {
    "unanswerable",
    "no answer",
    "not answerable",
    "unknown",
    "none",
    "na",
    "cannot be answered",
    "not given",
    "not stated",
}
_ASKED = "{context}\n\nQuestion: {question}\n"


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "data" in record:  # the released file
        for article in record["data"]:
            for paragraph in article["paragraphs"]:
                for each in paragraph["qas"]:
                    yield _question(
                        paragraph["context"],
                        each["question"],
                        [answer["text"] for answer in each["answers"]],
                    )
    else:
        yield _question(record["context"], record["question"], list(record["answers"]["text"]))


def _question(context: str, question: str, answers: list[str]) -> Question:
    fields = {"context": context.strip(), "question": question.strip()}
    return Question(
        fields,
        f"Answer: {answers[0] if answers else 'unanswerable'}",
        tuple(dict.fromkeys(answers)),
    )


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(given: str, wanted: str) -> float:
    """F1 of two phrases over their normalised words."""
    first, second = normalise(given).split(), normalise(wanted).split()
    if not first or not second:
        return float(first == second)
    common = sum((Counter(first) & Counter(second)).values())
    return 2 * common / (len(first) + len(second))


def _answer(text: str) -> str | None:
    """The phrase given; empty for a text that says there is none; None for a text that says
    nothing.
    """
    found = short(text)
    said = normalise(found)
    if not said:
        return None
    return (
        ""
        if said in _NONE or re.search(r"\b(unanswerable|(cannot|can not) be answered)\b", said)
        else found
    )


def _judge(text: str, gold: Sequence[str]) -> bool:
    found = _answer(text)
    return found is not None and normalise(found) in {normalise(each) for each in gold or ("",)}


def _grade(text: str, gold: Sequence[str]) -> float:
    found = _answer(text)
    if found is None:
        return 0.0
    return max(f1(found, each) for each in gold or ("",))


BENCHMARK = Benchmark(
    "squad2",
    "spans of a paragraph, or no answer",
    "data: paragraphs, qas; or context, question, answers: text",
    "rajpurkar/squad_v2",
    ("squad_v2/validation-00000-of-00001.parquet",),
    {
        "span": Template(
            "Read the text and answer the question with a phrase from it.\n\n"
            + _ASKED
            + '\nEnd with "Answer: " and the phrase alone, or "Answer: unanswerable" if the text does not say it.'
        ),
        "short": Template(
            _ASKED
            + 'Answer with as few words of the text as possible. If it has no answer, write "unanswerable".'
        ),
        "plain": Template(_ASKED + "Answer:"),
        "base": Template(
            "Background: The mill was built in 1820 by Jan Novak.\n\nQuestion: Who built the mill?\nAnswer: Jan Novak\n\n"
            "Background: The mill was built in 1820 by Jan Novak.\n\nQuestion: Who sold the mill?\nAnswer: unanswerable\n\n"
            "Background: " + _ASKED + "Answer:",
            ("\n",),
        ),
    },
    _questions,
    _judge,
    _grade,
)
