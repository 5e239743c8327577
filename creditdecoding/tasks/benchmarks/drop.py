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
from creditdecoding.tasks.benchmarks.extract import short

_MOST = 12  # spans that are aligned at most
_ASKED = "{passage}\n\nQuestion: {question}\n"
Spans = tuple[str, ...]


def _questions(record: Mapping[str, Any]) -> Iterator[Question]:
    if "passage" in record:  # rows: of the hub's data set, or with the released file's answers
        if "answers_spans" in record:
            golds: list[Spans] = [(str(each),) for each in record["answers_spans"]["spans"]]
        else:
            golds = [_spans(record["answer"]), *_validated(record.get("validated_answers"))]
        yield _question(record["passage"], record["question"], golds)
        return
    for passage in record.values():  # the released file: passages by id
        for pair in passage["qa_pairs"]:
            yield _question(
                passage["passage"],
                pair["question"],
                [_spans(pair["answer"]), *_validated(pair.get("validated_answers"))],
            )


def _question(passage: str, question: str, golds: Sequence[Spans]) -> Question:
    found = tuple(dict.fromkeys(spans for spans in golds if any(spans)))
    if not found:
        raise ValueError("a question without an answer")
    return Question(
        {"passage": passage.strip(), "question": question.strip()},
        f"Answer: {'; '.join(found[0])}",
        found,
    )


def _validated(found: Any) -> list[Spans]:
    """The other annotators' answers: a list of answers, or one answer whose every part is a list."""
    if isinstance(found, Mapping):
        count = len(found["number"])
        found = [{part: values[i] for part, values in found.items()} for i in range(count)]
    return [_spans(answer) for answer in found or ()]


def _spans(answer: Mapping[str, Any]) -> Spans:
    """An annotated answer: a number, spans, or a date."""
    if str(answer.get("number") or "").strip():
        return (str(answer["number"]).strip(),)
    if answer.get("spans"):
        return tuple(str(span) for span in answer["spans"])
    date = answer.get("date") or {}
    return (" ".join(str(date[part]) for part in ("day", "month", "year") if date.get(part)),)


def _word(word: str) -> str:
    """A word without case and punctuation; a number as its value."""
    plain = (
        word.strip(string.punctuation.replace("-", "").replace(".", ""))
        .rstrip(".")
        .replace(",", "")
        .removeprefix("$")
    )
    try:
        return str(float(plain))
    except ValueError:
        return "".join(c for c in word.lower() if c not in string.punctuation)


def _words(text: str) -> frozenset[str]:
    parts = re.split(r"\s+|(?<=\w)-(?=\w)", text.replace("\u2212", "-"))
    return frozenset(word for word in map(_word, parts) if word and word not in ("a", "an", "the"))


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+\.\d+", word) is not None


def _f1(given: frozenset[str], wanted: frozenset[str]) -> float:
    """F1 of two bags; 0 where the reference has numbers and none of them is given."""
    needed = {word for word in wanted if _is_number(word)}
    if needed and not needed & given:
        return 0.0
    if not given or not wanted:
        return float(given == wanted)
    return 2 * len(given & wanted) / (len(given) + len(wanted))


def _aligned(given: Sequence[frozenset[str]], wanted: Sequence[frozenset[str]]) -> float:
    """Mean F1 under the best one-to-one alignment of spans."""
    given, wanted = given[:_MOST], wanted[:_MOST]

    @functools.cache
    def best(at: int, left: frozenset[int]) -> float:
        if at == len(wanted):
            return 0.0
        return max(
            [
                best(at + 1, left),
                *(_f1(given[i], wanted[at]) + best(at + 1, left - {i}) for i in left),
            ]
        )

    return best(0, frozenset(range(len(given)))) / max(len(given), len(wanted))


def _readings(text: str) -> list[list[frozenset[str]]]:
    """The answer as one span, and as a list."""
    found = short(text)
    parts = [part for part in re.split(r";|,\s+(?:and\s+)?|\s+and\s+", found) if part.strip()]
    lists = [[found], parts, [part for part in found.split(";") if part.strip()]]
    return [bags for each in lists if (bags := [_words(span) for span in each]) and all(bags)]


def _judge(text: str, gold: Sequence[Spans]) -> bool:
    wanted = [sorted(map(sorted, map(_words, spans))) for spans in gold]
    return any(sorted(map(sorted, bags)) in wanted for bags in _readings(text))


def _grade(text: str, gold: Sequence[Spans]) -> float:
    return max(
        (
            _aligned(bags, [_words(span) for span in spans])
            for bags in _readings(text)
            for spans in gold
        ),
        default=0.0,
    )


BENCHMARK = Benchmark(
    "drop",
    "discrete reasoning over a paragraph",
    "passages by id with qa_pairs; or passage, question, answers_spans or answer",
    "ucinlp/drop",
    ("data/validation-00000-of-00001.parquet",),
    {
        "answer": Template(
            "Read the passage and answer the question.\n\n"
            + _ASKED
            + '\nThink step by step. End with "Answer: " and a number, a date, or words of the passage; separate several by semicolons.'
        ),
        "short": Template(
            _ASKED + "Answer with a number, a date, or words of the passage, and nothing else."
        ),
        "plain": Template(_ASKED + "Answer:"),
        "base": Template(
            "Passage: Lea picked 12 plums and Tom picked 7.\n\nQuestion: How many more plums did Lea pick than Tom?\nAnswer: 5\n\n"
            "Passage: " + _ASKED + "Answer:",
            ("\n",),
        ),
    },
    _questions,
    _judge,
    _grade,
)
