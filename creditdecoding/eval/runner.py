"""Runs a model over task families with one decoder: score, NFE, TPF, TPS by family.

Leaves to others: what is asked and how it is judged (tasks/), what is counted (trace.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, Completion
from creditdecoding.tasks.base import Family, Item, Split, distinct_items
from creditdecoding.trace import Event, total


@dataclass(frozen=True)
class Sample:
    """One item with its answer and verdict, and the partial credit of a family that gives some (F1)."""

    item: Item
    completion: Completion
    right: bool
    grade: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "family": self.item.family,
            "prompt": self.item.prompt,
            "text": self.completion.text,
            "reference": self.item.answer,
            "right": self.right,
            **({} if self.grade is None else {"f1": round(self.grade, 4)}),
            "nfe": self.completion.nfe,
            "tokens": self.completion.trace.count,
        }


@dataclass(frozen=True)
class Report:
    """All samples of one evaluation with its settings."""

    samples: tuple[Sample, ...]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Score (mean over families, in %), NFE, TPF and TPS; the same by family; settings."""
        names = list(dict.fromkeys(sample.item.family for sample in self.samples))
        by_family = {name: _numbers([s for s in self.samples if s.item.family == name]) for name in names}
        totals = total([s.completion.trace for s in self.samples])
        return {
            "score": round(sum(numbers["score"] for numbers in by_family.values()) / max(1, len(names)), 2),
            "nfe": round(totals.nfe, 3),
            "tpf": round(totals.tpf, 3),
            "tps": round(totals.tokens / totals.seconds, 1) if totals.seconds else 0.0,
            "items": totals.requests,
            "sequence_forwards": totals.sequence_forwards,
            "batch_forwards": totals.forwards,
            "tokens": totals.tokens,
            "seconds": round(totals.seconds, 2),
            "families": by_family,
            "settings": self.settings,
        }


def _numbers(samples: Sequence[Sample]) -> dict[str, Any]:
    totals = total([s.completion.trace for s in samples])
    score = 100 * sum(s.right for s in samples) / len(samples)
    ends = [s.completion.trace.finish for s in samples if s.completion.trace.finish is not None]
    span = max((end.seconds for end in ends), default=0.0) - min((end.began for end in ends), default=0.0)
    tps = round(totals.tokens / span, 1) if span else 0.0
    found = {"score": round(score, 2), "nfe": round(totals.nfe, 3), "tpf": round(totals.tpf, 3), "tps": tps, "items": len(samples)}
    grades = [s.grade for s in samples if s.grade is not None]
    return {**found, "f1": round(100 * sum(grades) / len(grades), 2)} if grades else found


def evaluate(
    lm: LM,
    families: Sequence[Family],
    config: GenerationConfig,
    limit: int,
    split: Split = "test",
    seed: int = 0,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
) -> Report:
    """Answer `limit` items of each family in one run, family by family and short ones first; `on_event` sees every trace event.

    `raw` asks without the chat template, for base models.
    """
    items = [item for family in families for item in distinct_items(family, split, seed, limit)]
    samples = answered(lm, families, items, config, on_event, raw)
    first = samples[0].completion.trace.settings if samples else {}
    tasks = {family.name: dict(family.about) for family in families}
    asked = {"limit": limit, "split": split, "item_seed": seed, "batch_size": lm.batch_size, "raw": raw, "tasks": tasks}
    return Report(samples, {**first, **asked})


def answered(
    lm: LM,
    families: Sequence[Family],
    items: Sequence[Item],
    config: GenerationConfig,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
) -> tuple[Sample, ...]:
    """Answer `items` of `families` in one run and judge them; samples in the order of `items`.

    An item draws by its number among those of its family, whatever other families are asked.
    """
    by_name = {family.name: family for family in families}
    order = {name: place for place, name in enumerate(by_name)}
    count = {name: itertools.count() for name in by_name}
    numbers = [next(count[item.family]) for item in items]
    rows = lm.rows([item.prompt for item in items], config, raw, numbers)
    rows.sort(key=lambda row: (order[items[row.index].family], len(row.canvas)))
    answers = {row.index: answer for row, answer in zip(rows, lm.collect(rows, on_event))}
    return tuple(judged(by_name[item.family], item, answers[i]) for i, item in enumerate(items))


def judged(family: Family, item: Item, answer: Completion) -> Sample:
    """An answer with its verdict."""
    return Sample(item, answer, family.score(answer.text, item), None if family.grade is None else family.grade(answer.text, item))
