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
from creditdecoding.tasks.benchmarks.extract import short_answer

_NO_ANSWER = {
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
_QUESTION = "{context}\n\nQuestion: {question}\n"


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "data" not in record:
        yield _question(record["context"], record["question"], list(record["answers"]["text"]))
        return
    paragraphs = (p for article in record["data"] for p in article["paragraphs"])
    for paragraph in paragraphs:  # the released file
        for pair in paragraph["qas"]:
            answers = [answer["text"] for answer in pair["answers"]]
            yield _question(paragraph["context"], pair["question"], answers)


def _question(context: str, question: str, answers: list[str]) -> Question:
    fields = {"context": context.strip(), "question": question.strip()}
    reference = answers[0] if answers else "unanswerable"
    return Question(fields, f"Answer: {reference}", tuple(dict.fromkeys(answers)))


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer: str, gold: str) -> float:
    """F1 of two phrases over their normalised words."""
    answer_words, gold_words = normalize(answer).split(), normalize(gold).split()
    if not answer_words or not gold_words:
        return float(answer_words == gold_words)
    common = sum((Counter(answer_words) & Counter(gold_words)).values())
    return 2 * common / (len(answer_words) + len(gold_words))


def _phrase(text: str) -> str | None:
    """The phrase that a text answers: empty if it says that there is no answer, None if it says
    nothing.
    """
    phrase = short_answer(text)
    plain = normalize(phrase)
    if not plain:
        return None
    refusal = re.search(r"\b(unanswerable|(cannot|can not) be answered)\b", plain)
    return "" if plain in _NO_ANSWER or refusal else phrase


def _is_correct(text: str, gold: Sequence[str]) -> bool:
    phrase = _phrase(text)
    return phrase is not None and normalize(phrase) in map(normalize, gold or ("",))


def _partial_credit(text: str, gold: Sequence[str]) -> float:
    phrase = _phrase(text)
    if phrase is None:
        return 0.0
    return max(f1(phrase, answer) for answer in gold or ("",))


BENCHMARK = Benchmark(
    name="squad2",
    title="spans of a paragraph, or no answer",
    record_format="data: paragraphs, qas; or context, question, answers: text",
    repo="rajpurkar/squad_v2",
    files=("squad_v2/validation-00000-of-00001.parquet",),
    templates={
        "span": Template(
            "Read the text and answer the question with a phrase from it.\n\n"
            + _QUESTION
            + '\nEnd with "Answer: " and the phrase alone, '
            'or "Answer: unanswerable" if the text does not say it.'
        ),
        "short": Template(
            _QUESTION + "Answer with as few words of the text as possible. "
            'If it has no answer, write "unanswerable".'
        ),
        "plain": Template(_QUESTION + "Answer:"),
        "base": Template(
            "Background: The mill was built in 1820 by Jan Novak.\n\n"
            "Question: Who built the mill?\nAnswer: Jan Novak\n\n"
            "Background: The mill was built in 1820 by Jan Novak.\n\n"
            "Question: Who sold the mill?\nAnswer: unanswerable\n\n"
            "Background: " + _QUESTION + "Answer:",
            ("\n",),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    partial_credit=_partial_credit,
)
