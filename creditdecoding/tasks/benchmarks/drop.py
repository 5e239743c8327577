"""DROP: discrete reasoning over a paragraph (Dua et al., 2019). Exact match and F1 over numbers,
dates and sets of spans.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from creditdecoding.tasks.benchmarks.base import Benchmark, Question, Template
from creditdecoding.tasks.benchmarks.extract import short_answer

_MOST_SPANS = 12
"""How many spans are aligned at most: the search grows with the factorial."""
_QUESTION = "{passage}\n\nQuestion: {question}\n"
_KEPT_PUNCTUATION = string.punctuation.replace("-", "").replace(".", "")
_ARTICLES = ("a", "an", "the")

Spans = tuple[str, ...]
Words = frozenset[str]


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "passage" not in record:  # the released file: passages by id
        for passage in record.values():
            for pair in passage["qa_pairs"]:
                yield _question(passage["passage"], pair["question"], _annotated(pair))
    elif "answers_spans" in record:  # the hub's data set
        golds: list[Spans] = [(str(span),) for span in record["answers_spans"]["spans"]]
        yield _question(record["passage"], record["question"], golds)
    else:
        yield _question(record["passage"], record["question"], _annotated(record))


def _question(passage: str, question: str, golds: Sequence[Spans]) -> Question:
    answers = tuple(dict.fromkeys(spans for spans in golds if any(spans)))
    if not answers:
        raise ValueError("a question without an answer")
    fields = {"passage": passage.strip(), "question": question.strip()}
    return Question(fields, f"Answer: {'; '.join(answers[0])}", answers)


def _annotated(pair: Mapping[str, Any]) -> list[Spans]:
    """The answer and the other annotators' answers: a list, or a mapping whose values are lists."""
    others = pair.get("validated_answers") or ()
    if isinstance(others, Mapping):
        count = len(others["number"])
        others = [{part: values[i] for part, values in others.items()} for i in range(count)]
    return [_spans(pair["answer"]), *map(_spans, others)]


def _spans(answer: Mapping[str, Any]) -> Spans:
    """An annotated answer: a number, spans, or a date."""
    number = str(answer.get("number") or "").strip()
    if number:
        return (number,)
    if answer.get("spans"):
        return tuple(str(span) for span in answer["spans"])
    date = answer.get("date") or {}
    return (" ".join(str(date[part]) for part in ("day", "month", "year") if date.get(part)),)


def _normalize_word(word: str) -> str:
    """A word without case and punctuation; a number as its value."""
    plain = word.strip(_KEPT_PUNCTUATION).rstrip(".").replace(",", "").removeprefix("$")
    try:
        return str(float(plain))
    except ValueError:
        return "".join(c for c in word.lower() if c not in string.punctuation)


def _words(text: str) -> Words:
    parts = re.split(r"\s+|(?<=\w)-(?=\w)", text.replace("\u2212", "-"))
    words = map(_normalize_word, parts)
    return frozenset(word for word in words if word and word not in _ARTICLES)


def _f1(answer: Words, gold: Words) -> float:
    """F1 of two sets of words; 0 if the reference has numbers and the answer none of them."""
    numbers = {word for word in gold if re.fullmatch(r"-?\d+\.\d+", word)}
    if numbers and not numbers & answer:
        return 0.0
    if not answer or not gold:
        return float(answer == gold)
    return 2 * len(answer & gold) / (len(answer) + len(gold))


def _aligned_f1(answer: Sequence[Words], gold: Sequence[Words]) -> float:
    """Mean F1 under the best one-to-one alignment of spans."""
    answer, gold = answer[:_MOST_SPANS], gold[:_MOST_SPANS]

    @functools.cache
    def best(first: int, left: frozenset[int]) -> float:
        """The best sum for the gold spans from `first` on with the answer's spans in `left`."""
        if first == len(gold):
            return 0.0
        sums = (_f1(answer[i], gold[first]) + best(first + 1, left - {i}) for i in left)
        return max([best(first + 1, left), *sums])

    return best(0, frozenset(range(len(answer)))) / max(len(answer), len(gold))


def _readings(text: str) -> list[list[Words]]:
    """The answer as one span, and as a list with several kinds of separators."""
    answer = short_answer(text)
    separated = re.split(r";|,\s+(?:and\s+)?|\s+and\s+", answer)
    readings = []
    for spans in ([answer], separated, answer.split(";")):
        words = [_words(span) for span in spans if span.strip()]
        if words and all(words):
            readings.append(words)
    return readings


def _is_correct(text: str, gold: Sequence[Spans]) -> bool:
    golds = [sorted(sorted(_words(span)) for span in spans) for spans in gold]
    return any(sorted(map(sorted, words)) in golds for words in _readings(text))


def _partial_credit(text: str, gold: Sequence[Spans]) -> float:
    golds = [[_words(span) for span in spans] for spans in gold]
    scores = (_aligned_f1(words, spans) for words in _readings(text) for spans in golds)
    return max(scores, default=0.0)


BENCHMARK = Benchmark(
    name="drop",
    title="discrete reasoning over a paragraph",
    record_format="passages by id with qa_pairs; or passage, question, answers_spans or answer",
    repo="ucinlp/drop",
    files=("data/validation-00000-of-00001.parquet",),
    templates={
        "answer": Template(
            "Read the passage and answer the question.\n\n"
            + _QUESTION
            + '\nThink step by step. End with "Answer: " and a number, a date, or words of the '
            "passage; separate several by semicolons."
        ),
        "short": Template(
            _QUESTION + "Answer with a number, a date, or words of the passage, and nothing else."
        ),
        "plain": Template(_QUESTION + "Answer:"),
        "base": Template(
            "Passage: Lea picked 12 plums and Tom picked 7.\n\n"
            "Question: How many more plums did Lea pick than Tom?\nAnswer: 5\n\n"
            "Passage: " + _QUESTION + "Answer:",
            ("\n",),
        ),
    },
    questions=_questions,
    is_correct=_is_correct,
    partial_credit=_partial_credit,
)
