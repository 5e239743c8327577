"""Forward passes per answer token over the length of the answer, gen_length and block_length.

Items are drawn by the length of their reference answer: equally wide ranges of tokens, equally many
items in each. Every sweep answers the same items, so its points are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import DEFAULT_BLOCK_LENGTH
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.eval.evaluate import indices_in_task, requests_for
from creditdecoding.eval.grid import (
    CHUNK_BATCHES,
    Chunk,
    Grid,
    Items,
    OnStart,
    Setting,
    item_keys_by_length,
    no_progress,
    run_grid,
    setting_chunks,
)
from creditdecoding.eval.measures import Estimates, Row, answer_values
from creditdecoding.eval.saved_answers import answers_manifest
from creditdecoding.eval.speedups import KEY_NAMES, check_decoders
from creditdecoding.lm import LM
from creditdecoding.run_dir import Record
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

SWEEPS = {
    "answer": "length of the reference answer, tokens",
    "gen": "gen_length, early stop on",
    "gen-full": "gen_length, early stop off",
    "block": "block_length",
}
GEN_LENGTHS = (64, 128, 256, 448)
BLOCK_LENGTHS = (8, 16, 32, 64, 128)
_POOL = 6
"""Items drawn for each one kept, so that rare lengths are found."""


@dataclass(frozen=True)
class LengthsPlan:
    """What to measure: `limit` items in each of `buckets` ranges of answer length.

    Lengths of None are the usual ones that fit the model.
    """

    model: str
    tasks: tuple[Task, ...]
    decoders: tuple[str, ...]
    limit: int
    buckets: int = 4
    split: Split = "test"
    sweeps: tuple[str, ...] = tuple(SWEEPS)
    gen_lengths: tuple[int, ...] | None = None
    block_lengths: tuple[int, ...] | None = None
    generation: GenerationConfig = GenerationConfig()
    engine: EngineConfig = EngineConfig()

    def __post_init__(self) -> None:
        check_decoders(self.decoders)
        for sweep in self.sweeps:
            if sweep not in SWEEPS:
                raise unknown_name("sweep", sweep, tuple(SWEEPS))


@dataclass(frozen=True)
class Bucket:
    """Items by the length of their reference answers, in tokens."""

    items: tuple[Item, ...]
    lengths: tuple[int, ...]

    @property
    def label(self) -> str:
        """The range of lengths."""
        low, high = min(self.lengths), max(self.lengths)
        return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class LengthsLayout:
    """A plan made ready for a model: its items by bucket, and the options of every point."""

    plan: LengthsPlan
    buckets: tuple[Bucket, ...]
    points: Mapping[str, Mapping[int, GenerationConfig]]

    @property
    def items(self) -> list[Item]:
        """Every item, by bucket."""
        return [item for bucket in self.buckets for item in bucket.items]

    @property
    def rows(self) -> list[Row]:
        """Task and number of every item."""
        items = self.items
        return [(item.task, index) for item, index in zip(items, indices_in_task(items))]

    @property
    def lengths(self) -> list[int]:
        """Tokens of every item's reference answer."""
        return [length for bucket in self.buckets for length in bucket.lengths]

    @property
    def strata(self) -> list[int]:
        """The bucket of every item."""
        return [number for number, bucket in enumerate(self.buckets) for _ in bucket.items]

    @property
    def options(self) -> list[GenerationConfig]:
        """Everything to run once with every decoder."""
        base = [self.plan.generation] if "answer" in self.plan.sweeps else []
        swept = [options for points in self.points.values() for options in points.values()]
        return list(dict.fromkeys([*base, *swept]))

    def grid(self) -> Grid:
        """The grid of all points."""
        plan = self.plan
        split = str(plan.split)
        rows = zip(self.rows, self.items)
        items = {(split, task, number): item for (task, number), item in rows}
        chunks = self._chunks(items)
        names = list(dict.fromkeys(chunk.setting.name for chunk in chunks))
        options = {"generation": asdict(plan.generation), "columns": names}
        manifest = answers_manifest(
            "lengths", plan.model, plan.engine, plan.tasks, self.items, plan.decoders, **options
        )
        return Grid(
            tasks={task.name: task for task in plan.tasks},
            items=items,
            chunks=chunks,
            order=tuple(key for chunk in chunks for key in chunk.keys),
            manifest=manifest,
            key_names=KEY_NAMES,
        )

    def _chunks(self, items: Items) -> tuple[Chunk, ...]:
        item_keys = item_keys_by_length(items, self.plan.split)
        size = CHUNK_BATCHES * self.plan.engine.batch_size
        chunks: list[Chunk] = []
        for options in self.options:
            for spec in self.plan.decoders:
                decoding = replace(options, decoder=spec)
                setting = Setting(column(options, spec), decoding, self.plan.engine)
                chunks += setting_chunks(setting, item_keys, size)
        return tuple(chunks)


def column(options: GenerationConfig, spec: str) -> str:
    """Name of a decoder at a point."""
    early_stop = "early stop" if options.early_stop else "no early stop"
    return f"{options.gen_length}, blocks of {options.block_length}, {early_stop} / {spec}"


def lay_out(plan: LengthsPlan, lm: LM) -> LengthsLayout:
    """Draw the items and choose the points. Raises `OptionError` if a length does not fit."""
    causal_block = lm.geometry.causal_block
    width = plan.generation.block_length or causal_block or DEFAULT_BLOCK_LENGTH
    plan = replace(plan, generation=replace(plan.generation, block_length=width))
    buckets = _buckets(plan, lm)
    items = [item for bucket in buckets for item in bucket.items]
    gen_lengths = plan.gen_lengths or _fitting_lengths(plan, lm, items)
    block_lengths = plan.block_lengths or tuple(
        n for n in BLOCK_LENGTHS if causal_block is None or causal_block % n == 0
    )
    stop = replace(plan.generation, early_stop=True)
    points = {
        "gen": {n: replace(stop, gen_length=n) for n in gen_lengths},
        "gen-full": {n: replace(stop, gen_length=n, early_stop=False) for n in gen_lengths},
        "block": {n: replace(plan.generation, block_length=n) for n in block_lengths},
    }
    swept = {name: points[name] for name in points if name in plan.sweeps}
    layout = LengthsLayout(plan, buckets, swept)
    for options in layout.options:
        requests_for(lm, items, options)
    return layout


def _fitting_lengths(plan: LengthsPlan, lm: LM, items: Sequence[Item]) -> tuple[int, ...]:
    """The usual gen_lengths that fit after the longest prompt."""
    shortest = replace(plan.generation, gen_length=1)
    prompt = max(request.answer_start for request in requests_for(lm, items, shortest))
    fitting = tuple(n for n in GEN_LENGTHS if prompt + n <= lm.max_length)
    if not fitting:
        raise OptionError(
            "none of the usual gen_lengths fits",
            given=lm.max_length,
            hint="Name some that are shorter: --gen-lengths.",
        )
    return fitting


def _buckets(plan: LengthsPlan, lm: LM) -> tuple[Bucket, ...]:
    """Equally wide ranges of answer length with at most `limit` items in each.

    Ranges with fewer than two items are left out; if all are, there is one range.
    """
    items = _draw_in_turn(plan)
    lengths = [len(lm.tokenizer.encode(item.answer)) for item in items]
    buckets = _cut(items, lengths, plan.buckets, plan.limit) or _cut(items, lengths, 1, plan.limit)
    if not buckets:
        raise OptionError(
            "too few items for an interval",
            given=len(items),
            allowed="2 or more",
            hint="Raise the limit, or name other tasks.",
        )
    return buckets


def _cut(
    items: Sequence[Item], lengths: Sequence[int], ranges: int, limit: int
) -> tuple[Bucket, ...]:
    """The first `limit` items in each of some equally wide ranges of length that has two."""
    low = min(lengths)
    width = max(lengths) + 1 - low
    edges = [low + width * number / ranges for number in range(ranges + 1)]
    buckets = []
    for first, last in pairwise(edges):
        members = [n for n, length in enumerate(lengths) if first <= length < last][:limit]
        if len(members) > 1:
            bucket_items = tuple(items[n] for n in members)
            buckets.append(Bucket(bucket_items, tuple(lengths[n] for n in members)))
    return tuple(buckets)


def _draw_in_turn(plan: LengthsPlan) -> list[Item]:
    """Items of the tasks in turn, more than are kept."""
    pools = [distinct_items(task, plan.split, 0, _pool_size(plan, task)) for task in plan.tasks]
    return [item for turn in zip_longest(*pools) for item in turn if item is not None]


def _pool_size(plan: LengthsPlan, task: Task) -> int:
    size = _POOL * plan.limit * plan.buckets // len(plan.tasks) + 1
    return size if task.fixed_items is None else min(size, len(task.fixed_items))


def run(
    layout: LengthsLayout, lm: LM, folder: Path, on_start: OnStart = no_progress
) -> dict[str, Any]:
    """Answer every item with every decoder at every point; JSON-ready. Raises `CreditError`s."""
    grid = layout.grid()
    records = run_grid(lambda: grid, folder, lambda engine: lm, on_start=on_start).records
    plan, lengths = layout.plan, layout.lengths
    sweeps = [
        {
            "name": name,
            "title": SWEEPS[name],
            "points": points,
            "trends": _trends(plan.decoders, points),
        }
        for name, points in _sweeps(layout, records).items()
    ]
    generation = asdict(plan.generation)
    del generation["decoder"]
    return {
        "decoders": list(plan.decoders),
        "families": [task.name for task in plan.tasks],
        "items": len(lengths),
        "split": plan.split,
        "reference_tokens": {
            "mean": round(float(np.mean(lengths)), 2),
            "min": min(lengths),
            "max": max(lengths),
        },
        "generation": generation,
        "sweeps": sweeps,
    }


def _sweeps(layout: LengthsLayout, records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """The points of every sweep."""
    sweeps = {}
    if "answer" in layout.plan.sweeps:
        buckets = range(len(layout.buckets))
        sweeps["answer"] = [_bucket_point(layout, number, records) for number in buckets]
    everything = range(len(layout.items))
    for name, points in layout.points.items():
        sweeps[name] = [
            _point(layout, value, str(value), options, records, everything)
            for value, options in points.items()
        ]
    return sweeps


def _trends(decoders: Sequence[str], points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How passes per token change from the first to the last point, if the intervals are apart."""
    trends = {}
    for number, spec in enumerate(decoders):
        first = points[0]["decoders"][number]["per_token"]
        last = points[-1]["decoders"][number]["per_token"]
        if last["high"] < first["low"]:
            trends[spec] = "falls"
        elif last["low"] > first["high"]:
            trends[spec] = "grows"
        else:
            trends[spec] = "no significant change"
    return trends


def _bucket_point(layout: LengthsLayout, number: int, records: Sequence[Record]) -> dict[str, Any]:
    """The items of one range of lengths, at the base."""
    members = [row for row, stratum in enumerate(layout.strata) if stratum == number]
    bucket = layout.buckets[number]
    mean = float(np.mean(bucket.lengths))
    return _point(layout, mean, bucket.label, layout.plan.generation, records, members)


def _point(
    layout: LengthsLayout,
    value: float,
    label: str,
    options: GenerationConfig,
    records: Sequence[Record],
    members: Sequence[int],
) -> dict[str, Any]:
    """One point of a sweep: every decoder on some items."""
    specs = layout.plan.decoders
    names = [column(options, spec) for spec in specs]
    rows = [layout.rows[member] for member in members]
    records = [
        record
        for record in records
        if record["setting"] in names and (record["family"], record["item"]) in rows
    ]
    values = answer_values(records, rows, names, "setting")
    estimates = Estimates.of(values, [layout.strata[member] for member in members], names)
    decoders = []
    for spec, name in zip(specs, names):
        answers = [record for record in records if record["setting"] == name]
        others = {other: column(options, other) for other in specs if other != spec}
        decoders.append({"decoder": spec, **_cell(estimates, name, others, answers)})
    return {
        "value": round(value, 2),
        "label": label,
        "items": len(members),
        "too_long": sum(layout.lengths[member] >= options.gen_length for member in members),
        "decoders": decoders,
    }


def _cell(
    estimates: Estimates, name: str, others: Mapping[str, str], answers: Sequence[Record]
) -> dict[str, Any]:
    """The numbers of one decoder at one point, also against `others` by their columns."""
    stopped = [answer["finish"] == "stop" for answer in answers]
    return {
        **estimates.summary(name),
        "tokens": round(float(np.mean([answer["tokens"] for answer in answers])), 2),
        "per_token": estimates.per_token(name).rounded(4),
        "stopped": round(100 * float(np.mean(stopped)), 2),
        "against": {spec: estimates.compared(name, other) for spec, other in others.items()},
    }
