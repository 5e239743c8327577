"""What approximate caches cost: answers, score and passes with each cache beside those without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.eval.evaluate import EvalReport, evaluate
from creditdecoding.lm import LM
from creditdecoding.tasks.base import Split, Task
from creditdecoding.trace import Event, total


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Share of places at which two answers have the same token; a place that only one has counts as
    different.
    """
    longest = max(len(ours), len(theirs))
    return sum(a == b for a, b in zip(ours, theirs)) / longest if longest else 1.0


def drift(
    lm: LM,
    families: Sequence[Task],
    config: GenerationConfig,
    caches: Sequence[str],
    limit: int,
    split: Split = "test",
    on_event: Callable[[Event], None] | None = None,
) -> list[dict[str, Any]]:
    """A record for `none` and for each of `caches` on the same items, with the same decoder.

    `agreement` is the mean share of equal tokens (%), `same` the share of identical answers (%),
    `computed` the positions that
    went through the network, relative to no cache.
    """
    reports = {
        name: evaluate(lm, families, replace(config, cache=name), limit, split, on_event=on_event)
        for name in ("none", *caches)
    }
    plain = reports["none"]
    work = _computed(plain)
    found = []
    for name, report in reports.items():
        pairs = [
            (a.completion.trace.tokens, b.completion.trace.tokens)
            for a, b in zip(report.samples, plain.samples)
        ]
        numbers = report.to_json()
        found.append(
            {
                "cache": name,
                "agreement": round(
                    100 * sum(agreement(a, b) for a, b in pairs) / max(1, len(pairs)), 2
                ),
                "same": round(100 * sum(a == b for a, b in pairs) / max(1, len(pairs)), 2),
                "computed": round(_computed(report) / max(1, work), 4),
                **{key: numbers[key] for key in ("score", "nfe", "tpf", "items", "families")},
            }
        )
    return found


def _computed(report: EvalReport) -> int:
    return total([sample.completion.trace for sample in report.samples]).computed
