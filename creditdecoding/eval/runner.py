"""Runs a model over task families with one decoder: score, NFE, TPF, TPS by family.

Leaves to others: what is asked and how it is judged (tasks/), what is counted (trace.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, Completion
from creditdecoding.tasks.base import Family, Item, Split, distinct_items
from creditdecoding.trace import Event, total


@dataclass(frozen=True)
class Sample:
    """One item with its answer and verdict."""

    item: Item
    completion: Completion
    right: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "family": self.item.family,
            "prompt": self.item.prompt,
            "text": self.completion.text,
            "reference": self.item.answer,
            "right": self.right,
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
    return {"score": round(score, 2), "nfe": round(totals.nfe, 3), "tpf": round(totals.tpf, 3), "items": len(samples)}


def evaluate(
    lm: LM,
    families: Sequence[Family],
    config: GenerationConfig,
    limit: int,
    split: Split = "test",
    seed: int = 0,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Answer `limit` items of each family in one run, short ones first; `on_event` sees every trace event."""
    items = [item for family in families for item in distinct_items(family, split, seed, limit)]
    score = {family.name: family.score for family in families}
    rows = sorted(lm.rows([item.prompt for item in items], config), key=lambda row: len(row.canvas))
    answers = {row.index: answer for row, answer in zip(rows, lm.collect(rows, on_event))}
    samples = tuple(Sample(item, answers[i], score[item.family](answers[i].text, item)) for i, item in enumerate(items))
    first = samples[0].completion.trace.settings if samples else {}
    return Report(samples, {**first, "limit": limit, "split": split, "item_seed": seed, "batch_size": lm.batch_size})
