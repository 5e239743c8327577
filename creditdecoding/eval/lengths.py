"""Forward passes per answer token over the length of the answer, over gen_length and over
block_length.

Items are drawn by the length of their reference answer: equally wide ranges of tokens, as many
items in each. Every sweep answers the
same items, so its points are paired.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from creditdecoding.bootstrap import RESAMPLES
from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import DEFAULT_BLOCK_LENGTH
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.eval.compare_report import measure
from creditdecoding.eval.evaluate import ScoredAnswer, answer_items, requests_for
from creditdecoding.eval.saved_answers import SavedAnswers
from creditdecoding.eval.speedups import check_decoders, numbers
from creditdecoding.eval.verdicts import scaling_words
from creditdecoding.lm import LM
from creditdecoding.tasks.base import Item, Split, Task, distinct_items
from creditdecoding.trace import Event

SWEEPS = ("answer", "gen", "gen-full", "block")
"""Over answer lengths, gen_length with early stop, gen_length without, block_length."""

GEN_LENGTHS = (64, 128, 256, 448)
BLOCK_LENGTHS = (8, 16, 32, 64, 128)
_POOL = 6  # items drawn for each one kept, so that rare lengths are found


@dataclass(frozen=True)
class Plan:
    """What is measured: `limit` items in each of `buckets` ranges of answer length. Lengths of
    None: the usual ones that fit the model.
    """

    families: tuple[Task, ...]
    decoders: tuple[str, ...]
    limit: int
    buckets: int = 4
    split: Split = "test"
    sweeps: tuple[str, ...] = SWEEPS
    gen_lengths: tuple[int, ...] | None = None
    block_lengths: tuple[int, ...] | None = None
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        check_decoders(self.decoders)
        for sweep in self.sweeps:
            if sweep not in SWEEPS:
                raise unknown_name("sweep", sweep, SWEEPS)


@dataclass(frozen=True)
class Bucket:
    """Items by the length of their reference answers, in tokens."""

    items: tuple[Item, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """A plan made ready for a model: what is asked, and under which options for each sweep and
    point.
    """

    plan: Plan
    buckets: tuple[Bucket, ...]
    points: Mapping[str, Mapping[int, GenerationConfig]]

    @property
    def items(self) -> list[Item]:
        """Every item, by bucket."""
        return [item for bucket in self.buckets for item in bucket.items]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every item's reference answer."""
        return [n for bucket in self.buckets for n in bucket.lengths]

    @property
    def strata(self) -> list[int]:
        """The bucket of every item."""
        return [number for number, bucket in enumerate(self.buckets) for _ in bucket.items]

    @property
    def cells(self) -> list[GenerationConfig]:
        """Everything to run, once each, with its decoder."""
        base = [self.plan.generation] if "answer" in self.plan.sweeps else []
        configs = dict.fromkeys(
            [*base, *(config for points in self.points.values() for config in points.values())]
        )
        return [replace(config, decoder=spec) for config in configs for spec in self.plan.decoders]


def lay_out(plan: Plan, lm: LM) -> Work:
    """Draw the items and choose the points. Raises `OptionError` where a length that was asked for
    does not fit the model.
    """
    width = plan.generation.block_length or lm.geometry.causal_block or DEFAULT_BLOCK_LENGTH
    plan = replace(plan, generation=replace(plan.generation, block_length=width))
    buckets = _buckets(plan, lm)
    items = [item for bucket in buckets for item in bucket.items]
    longest = max(
        row.answer_start for row in requests_for(lm, items, replace(plan.generation, gen_length=1))
    )
    grid = lm.geometry.causal_block
    gens = plan.gen_lengths or tuple(n for n in GEN_LENGTHS if longest + n <= lm.max_length)
    widths = plan.block_lengths or tuple(n for n in BLOCK_LENGTHS if grid is None or grid % n == 0)
    if not gens:
        raise OptionError(
            "none of the usual gen_lengths fits",
            given=lm.max_length,
            hint="Name some that are shorter: --gen-lengths.",
        )
    stop = replace(plan.generation, early_stop=True)
    points = {
        "gen": {n: replace(stop, gen_length=n) for n in gens},
        "gen-full": {n: replace(stop, gen_length=n, early_stop=False) for n in gens},
        "block": {n: replace(plan.generation, block_length=n) for n in widths},
    }
    work = Work(plan, buckets, {name: points[name] for name in points if name in plan.sweeps})
    for config in work.cells:
        requests_for(lm, items, config)
    return work


def _buckets(plan: Plan, lm: LM) -> tuple[Bucket, ...]:
    """Equally wide ranges of answer length with at most `limit` items in each; ranges with fewer
    than two items are left out.
    """
    turns = zip_longest(
        *(distinct_items(family, plan.split, 0, _pool(plan, family)) for family in plan.families)
    )
    drawn = [item for turn in turns for item in turn if item is not None]
    counted = [(len(lm.tokenizer.encode(item.answer)), item) for item in drawn]
    low, high = min(n for n, _ in counted), max(n for n, _ in counted) + 1
    found = []
    for number in range(plan.buckets):
        first, last = (low + (high - low) * edge / plan.buckets for edge in (number, number + 1))
        inside = [(n, item) for n, item in counted if first <= n < last][: plan.limit]
        if len(inside) > 1:
            lengths, items = zip(*inside)
            found.append(Bucket(items, lengths))
    if not found:
        raise OptionError(
            "too few items for an interval",
            given=len(drawn),
            hint="Raise the limit, or name other tasks.",
        )
    return tuple(found)


def _pool(plan: Plan, family: Task) -> int:
    wanted = _POOL * plan.limit * plan.buckets // len(plan.families) + 1
    return wanted if family.fixed_items is None else min(wanted, len(family.fixed_items))


def run(
    work: Work,
    lm: LM,
    on_event: Callable[[Event], None] | None = None,
    kept: SavedAnswers | None = None,
) -> dict[str, Any]:
    """Answer every item with every decoder at every point; JSON-ready. `kept` holds answers of an
    earlier run and takes those of this one.
    """
    answers = {}
    for config in work.cells:
        cell = None if kept is None else kept.of_setting(json.dumps(asdict(config)))
        answers[config] = answer_items(
            lm, work.plan.families, work.items, config, on_event, saved=cell
        )
    plan, lengths = work.plan, work.lengths
    whole = range(len(work.items))
    sweeps = []
    if "answer" in plan.sweeps:
        sweeps.append(
            _sweep(
                "answer",
                [_bucket_point(work, number, answers) for number in range(len(work.buckets))],
            )
        )
    for name, points in work.points.items():
        sweeps.append(
            _sweep(
                name,
                [
                    _point(work, value, str(value), config, answers, whole)
                    for value, config in points.items()
                ],
            )
        )
    report: dict[str, Any] = {
        "decoders": list(plan.decoders),
        "families": [family.name for family in plan.families],
        "items": len(lengths),
        "split": plan.split,
        "reference_tokens": {
            "mean": round(float(np.mean(lengths)), 2),
            "min": min(lengths),
            "max": max(lengths),
        },
        "generation": {
            name: value for name, value in asdict(plan.generation).items() if name != "decoder"
        },
        "sweeps": sweeps,
    }
    report["words"] = scaling_words(report)
    return report


_TITLES = {
    "answer": "length of the reference answer, tokens",
    "gen": "gen_length, early stop on",
    "gen-full": "gen_length, early stop off",
    "block": "block_length",
}


def _sweep(name: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "title": _TITLES[name], "points": points}


Answers = Mapping[GenerationConfig, Sequence[ScoredAnswer]]


def _bucket_point(work: Work, number: int, answers: Answers) -> dict[str, Any]:
    """The items of one range of lengths, at the base."""
    members, lengths = (
        [i for i, stratum in enumerate(work.strata) if stratum == number],
        work.buckets[number].lengths,
    )
    low, high = min(lengths), max(lengths)
    label = str(low) if low == high else f"{low} to {high}"
    return _point(work, float(np.mean(lengths)), label, work.plan.generation, answers, members)


def _point(
    work: Work,
    value: float,
    label: str,
    config: GenerationConfig,
    answers: Answers,
    members: Sequence[int],
) -> dict[str, Any]:
    """One point of a sweep: every decoder on some items, with the first one as what the others are
    held to.
    """
    specs = work.plan.decoders
    samples = {spec: [answers[replace(config, decoder=spec)][i] for i in members] for spec in specs}
    values = np.array([[numbers(samples[spec][i]) for spec in specs] for i in range(len(members))])
    m = measure(values, [work.strata[i] for i in members], specs, RESAMPLES, 0)
    return {
        "value": round(value, 2),
        "label": label,
        "items": len(members),
        "too_long": sum(work.lengths[i] >= config.gen_length for i in members),
        "decoders": [
            {
                "decoder": spec,
                **m.plain(spec),
                "tokens": round(
                    float(np.mean([s.completion.trace.token_count for s in samples[spec]])), 2
                ),
                "per_token": m.per_token(spec).rounded(4),
                "stopped": round(
                    100
                    * float(np.mean([s.completion.finish_reason == "stop" for s in samples[spec]])),
                    2,
                ),
                "against": {
                    other: {
                        "fewer": m.speedup(spec, other).rounded(3),
                        "difference": m.gain(spec, other).rounded(2),
                    }
                    for other in specs
                    if other != spec
                },
            }
            for spec in specs
        ],
    }
