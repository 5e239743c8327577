"""Does a decoder's gain persist under other speed-ups, and what do these cost in answers?

A grid of decoders and variants, each of which changes one thing of the base: early stop, the cache,
torch.compile, int8 weights. All cells answer the same items in the same batches, and variants and
decoders take turns batch by batch, so that a change of the machine's speed falls on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from creditdecoding.bootstrap import Interval
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import load
from creditdecoding.decoding.cache_policy import parse_policy, supported_policies
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.eval.grid import (
    Chunk,
    Grid,
    GridResult,
    ItemKey,
    LoadModel,
    OnStart,
    Setting,
    item_keys_by_length,
    make_clock,
    no_progress,
    run_grid,
    setting_chunks,
)
from creditdecoding.eval.measures import Estimates, answer_values
from creditdecoding.eval.saved_answers import answers_manifest
from creditdecoding.lm import LM
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.run_dir import Record
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

KINDS = ("early-stop", "cache", "compile", "int8", "together")
"""What can be changed: early stop, each cache, torch.compile, int8 weights, the last three at once.
`cache:NAME` is one cache alone.
"""
BASE = "base"
KEY_NAMES = ("split", "template", "setting", "family", "item")
VERDICTS = {
    "persists": "The last decoder takes significantly fewer passes than the first under every "
    "setting.",
    "lost": "The last decoder takes significantly fewer passes than the first at the base, but not "
    "under every setting (no * there).",
    "none": "The last decoder does not take significantly fewer passes than the first at the base.",
}
"""One fixed line for each verdict of a report."""


@dataclass(frozen=True)
class Variant:
    """A set of options with its name in the table."""

    name: str
    generation: GenerationConfig
    engine: EngineConfig


@dataclass(frozen=True)
class SpeedupPlan:
    """What to measure: `limit` items of each task, each batch timed `repeats` times."""

    model: str
    tasks: tuple[Task, ...]
    decoders: tuple[str, ...]
    limit: int
    split: Split = "test"
    kinds: tuple[str, ...] = KINDS
    repeats: int = 3
    generation: GenerationConfig = GenerationConfig()
    engine: EngineConfig = EngineConfig()

    def __post_init__(self) -> None:
        check_decoders(self.decoders)
        for kind in self.kinds:
            if kind not in KINDS and not kind.startswith("cache:"):
                raise unknown_name("setting", kind, (*KINDS, "cache:NAME"))


def check_decoders(specs: Sequence[str]) -> None:
    """Raise `OptionError` if there is no decoder, one is unknown, or two are the same."""
    if not specs:
        raise OptionError(
            "no decoder to measure", hint='Name some: --decoders "fixed threshold credit".'
        )
    seen: dict[Any, str] = {}
    for spec in specs:
        decoder = load(spec)
        if decoder in seen:
            raise OptionError(
                "two decoders are the same",
                given=f"{seen[decoder]} and {spec}",
                hint="Leave one of them out.",
            )
        seen[decoder] = spec


def variants(plan: SpeedupPlan, geometry: ModelGeometry) -> list[Variant]:
    """The base, then what differs from it, without repeats."""
    generation, engine = plan.generation, plan.engine
    flipped = replace(generation, early_stop=not generation.early_stop)
    early_stop = "on" if flipped.early_stop else "off"
    supported = supported_policies(geometry)
    cache = next((name for name in ("block", "dual") if name in supported), generation.cache)
    cached = replace(generation, cache=cache)
    both = replace(engine, compile=True, quantize="int8")
    by_kind = {
        "early-stop": [Variant(f"early stop {early_stop}", flipped, engine)],
        "cache": _cache_variants(plan, geometry),
        "compile": [Variant("torch.compile", generation, replace(engine, compile=True))],
        "int8": [Variant("int8 weights", generation, replace(engine, quantize="int8"))],
        "together": [Variant(f"cache {cache}, compile, int8", cached, both)],
    }
    listed = [Variant(BASE, generation, engine)]
    for kind in KINDS:
        if kind in plan.kinds or kind == "cache":
            listed += by_kind[kind]
    unique: dict[tuple[GenerationConfig, EngineConfig], Variant] = {}
    for variant in listed:
        unique.setdefault((variant.generation, variant.engine), variant)
    return list(unique.values())


def _cache_variants(plan: SpeedupPlan, geometry: ModelGeometry) -> list[Variant]:
    """Every supported cache that is not the base's, or those that were named."""
    names = [kind.partition(":")[2] for kind in plan.kinds if kind.startswith("cache:")]
    if "cache" in plan.kinds:
        base = parse_policy(plan.generation.cache, geometry)
        supported = supported_policies(geometry)
        names += [name for name in supported if parse_policy(name, geometry) != base]
    return [
        Variant(f"cache {name}", replace(plan.generation, cache=name), plan.engine)
        for name in dict.fromkeys(names)
    ]


def column(variant: str, spec: str) -> str:
    """Name of a cell of the table."""
    return f"{variant} / {spec}"


def lay_out(plan: SpeedupPlan, listed: Sequence[Variant]) -> Grid:
    """The grid of some variants: by engine, then batch by batch through variants and decoders."""
    items: dict[ItemKey, Item] = {}
    for task in plan.tasks:
        drawn = distinct_items(task, plan.split, 0, plan.limit)
        items |= {(plan.split, task.name, number): item for number, item in enumerate(drawn)}
    chunks = _chunks(plan, listed, item_keys_by_length(items, plan.split))
    options = {
        "generation": _options(plan.generation),
        "variants": [_changes(variant, plan) for variant in listed],
        "repeats": plan.repeats,
    }
    drawn = list(items.values())
    manifest = answers_manifest(
        "speedups", plan.model, plan.engine, plan.tasks, drawn, plan.decoders, **options
    )
    return Grid(
        tasks={task.name: task for task in plan.tasks},
        items=items,
        chunks=chunks,
        order=tuple(key for chunk in chunks for key in chunk.keys),
        manifest=manifest,
        key_names=KEY_NAMES,
        repeats=plan.repeats,
    )


def _chunks(
    plan: SpeedupPlan, listed: Sequence[Variant], item_keys: Sequence[ItemKey]
) -> tuple[Chunk, ...]:
    size = plan.engine.batch_size
    chunks: list[Chunk] = []
    for engine in dict.fromkeys(variant.engine for variant in listed):
        settings = [
            Setting(column(variant.name, spec), replace(variant.generation, decoder=spec), engine)
            for variant in listed
            if variant.engine == engine
            for spec in plan.decoders
        ]
        for first in range(0, len(item_keys), size):
            batch = item_keys[first : first + size]
            for setting in settings:
                chunks += setting_chunks(setting, batch, size)
    return tuple(chunks)


class ModelHandover:
    """Loads models, and keeps what was looked at until it is taken: then only its taker holds it
    and can free it.
    """

    def __init__(self, load_model: LoadModel) -> None:
        self._load_model = load_model
        self._kept: dict[EngineConfig, LM] = {}

    def look_at(self, engine: EngineConfig) -> LM:
        """The model of an engine, which stays here."""
        if engine not in self._kept:
            self._kept[engine] = self._load_model(engine)
        return self._kept[engine]

    def take(self, engine: EngineConfig) -> LM:
        """The model of an engine; nothing stays here."""
        kept = self._kept.pop(engine, None)
        self._kept.clear()
        return self._load_model(engine) if kept is None else kept


def run(
    plan: SpeedupPlan, load_model: LoadModel, folder: Path, on_start: OnStart = no_progress
) -> dict[str, Any]:
    """Measure every decoder under every variant; JSON-ready.

    A variant that cannot run here has a reason instead of numbers. Raises `CreditError`s.
    """
    models = ModelHandover(load_model)
    listed = variants(plan, models.look_at(plan.engine).geometry)
    grid = lay_out(plan, listed)
    clock = _clock_name(models.look_at(plan.engine))
    result = run_grid(lambda: grid, folder, models.take, on_start=on_start)
    return _report(plan, grid, listed, result, clock)


def _clock_name(lm: LM) -> str:
    return "processor time of one thread" if make_clock(lm) is time.thread_time else "wall clock"


def _report(
    plan: SpeedupPlan, grid: Grid, listed: Sequence[Variant], result: GridResult, clock: str
) -> dict[str, Any]:
    measured = [variant for variant in listed if variant.engine not in result.failures]
    cells = Cells(plan, grid, measured, result.records)
    settings = []
    for variant in listed:
        reason = result.failures.get(variant.engine)
        numbers = [] if reason else [cells.numbers(variant.name, spec) for spec in plan.decoders]
        changed = _changes(variant, plan)
        settings.append(
            {"name": variant.name, "changed": changed, "reason": reason, "decoders": numbers}
        )
    return {
        "decoders": list(plan.decoders),
        "families": [task.name for task in plan.tasks],
        "items": len(grid.items),
        "split": plan.split,
        "repeats": plan.repeats,
        "clock": clock,
        "base": {"generation": _options(plan.generation), "engine": asdict(plan.engine)},
        "settings": settings,
        "verdict": _verdict(plan.decoders, settings),
    }


def _options(config: GenerationConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name != "decoder"}


def _changes(variant: Variant, plan: SpeedupPlan) -> dict[str, Any]:
    """The options in which a variant differs from the base."""
    options = {**asdict(variant.generation), **asdict(variant.engine)}
    base = {**asdict(plan.generation), **asdict(plan.engine)}
    return {name: value for name, value in options.items() if value != base[name]}


def _verdict(decoders: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether the last decoder takes fewer passes than the first: a key of `VERDICTS`."""
    if len(decoders) < 2:
        return None
    lows = [
        setting["decoders"][-1]["against"][decoders[0]]["speedup"]["low"]
        for setting in settings
        if setting["decoders"]
    ]
    if lows[0] <= 1:
        return "none"
    return "persists" if min(lows) > 1 else "lost"


@dataclass(frozen=True)
class Cells:
    """The records of a grid by variant and decoder, and the numbers made of them."""

    plan: SpeedupPlan
    grid: Grid
    measured: Sequence[Variant]
    records: Sequence[Record]

    @cached_property
    def _by_column(self) -> dict[str, dict[tuple[str, int], Record]]:
        cells: dict[str, dict[tuple[str, int], Record]] = {}
        for record in self.records:
            cell = cells.setdefault(record["setting"], {})
            cell[record["family"], record["item"]] = record
        return cells

    @cached_property
    def _seconds(self) -> dict[str, list[float]]:
        """The seconds of each batch, by column."""
        seconds: dict[str, list[float]] = {}
        for chunk in self.grid.chunks:
            _, _, name, task, number = chunk.keys[0]
            if name in self._by_column:
                record = self._by_column[name][task, number]
                seconds.setdefault(name, []).append(record["batch_seconds"])
        return seconds

    @cached_property
    def _estimates(self) -> Estimates:
        rows = [(task, number) for _, task, number in self.grid.items]
        columns = [
            column(variant.name, spec) for variant in self.measured for spec in self.plan.decoders
        ]
        names = [task.name for task in self.plan.tasks]
        records = [record for record in self.records if record["setting"] in columns]
        values = answer_values(records, rows, columns, "setting")
        return Estimates.of(values, [names.index(task) for task, _ in rows], columns)

    def numbers(self, variant: str, spec: str) -> dict[str, Any]:
        """One cell by itself, against the same decoder at the base, and against the others."""
        name, base = column(variant, spec), column(BASE, spec)
        return {
            "decoder": spec,
            **self._estimates.summary(name),
            "seconds": round(sum(self._seconds[name]) / len(self.grid.items), 5),
            "against_base": {
                "difference": self._estimates.difference(name, base).rounded(2),
                "faster": self._faster(name, base),
                **self._agreement(name, base),
            },
            "against": {
                other: self._gain(variant, spec, other)
                for other in self.plan.decoders
                if other != spec
            },
        }

    def _gain(self, variant: str, spec: str, other: str) -> dict[str, Any]:
        """A decoder against another under one variant; `gain_retained` is the share of the base's
        ratio of times.
        """
        name, against = column(variant, spec), column(variant, other)
        ratio = self._time_ratio(name, against)
        base_ratio = self._time_ratio(column(BASE, spec), column(BASE, other))
        return {
            **self._estimates.compared(name, against),
            "faster": self._faster(name, against),
            "gain_retained": round(ratio / base_ratio, 4),
        }

    def _time_ratio(self, name: str, other: str) -> float:
        """Time of `other` divided by that of `name`."""
        return sum(self._seconds[other]) / max(1e-9, sum(self._seconds[name]))

    def _faster(self, name: str, other: str) -> dict[str, float]:
        """The same with the lowest and the highest ratio of a batch."""
        batches = zip(self._seconds[name], self._seconds[other])
        ratios = [others_seconds / max(1e-9, ours) for ours, others_seconds in batches]
        return Interval(self._time_ratio(name, other), min(ratios), max(ratios)).rounded(3)

    def _agreement(self, name: str, other: str) -> dict[str, float]:
        """Mean share of equal tokens, share of identical answers (%), and positions computed,
        relative to `other`.
        """
        ours, others = self._by_column[name], self._by_column[other]
        pairs = [(ours[row]["ids"], others[row]["ids"]) for row in ours]
        computed = sum(record["computed"] for record in ours.values())
        base_computed = sum(record["computed"] for record in others.values())
        return {
            "agreement": round(100 * sum(token_agreement(*pair) for pair in pairs) / len(pairs), 2),
            "identical": round(100 * sum(a == b for a, b in pairs) / len(pairs), 2),
            "computed": round(computed / max(1, base_computed), 4),
        }


def token_agreement(ids: Sequence[int], other: Sequence[int]) -> float:
    """Share of positions with the same token; one that an answer lacks counts as different."""
    longest = max(len(ids), len(other))
    return sum(a == b for a, b in zip(ids, other)) / longest if longest else 1.0


OLD_KEYS = {"fewer": "speedup", "kept": "gain_retained"}


def read_report(report: Any) -> Any:
    """A report of this version from one of any version: keys of earlier ones are renamed."""
    if isinstance(report, list):
        return [read_report(entry) for entry in report]
    if isinstance(report, dict):
        return {OLD_KEYS.get(key, key): read_report(value) for key, value in report.items()}
    return report
