"""Whether what a decoder gains is kept under early stop, caches, torch.compile and int8 weights:
one table.

Each setting changes one thing of the base. All cells answer the same items in the same batches,
each batch decoded whole, decoders
and settings in turn, so that a change of the machine's speed falls on all of them. Leaves to
others: bootstrap (statistics.py,
summary.py), sentences (verdicts.py), what a setting does (cache.py, models/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from creditdecoding.bootstrap import RESAMPLES, Interval
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import load
from creditdecoding.decoding.cache_policy import parse_policy, supported_policies
from creditdecoding.decoding.request import Request
from creditdecoding.errors import CreditError, OptionError, unknown_name
from creditdecoding.eval.compare_report import Measured, measure
from creditdecoding.eval.evaluate import ScoredAnswer, requests_for, score_answer
from creditdecoding.eval.verdicts import orthogonality_words
from creditdecoding.lm import LM
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.tasks.base import Item, Split, Task, distinct_items

KINDS = ("early-stop", "cache", "compile", "int8", "together")
"""What can be changed: early stop, each cache, torch.compile, int8 weights, and the last three at
once.
"""

Start = Callable[[int, int], Callable[[], None]]
"""Called with the batches done and to be done, gives what counts one."""


@dataclass(frozen=True)
class Setting:
    """A row of the table: its name and the options it runs with."""

    name: str
    generation: GenerationConfig
    engine: EngineConfig


@dataclass(frozen=True)
class Plan:
    """What is measured: `limit` items a family, each batch timed `repeats` times; `generation` and
    `engine` are the base.
    """

    families: tuple[Task, ...]
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
            if kind not in KINDS:
                raise unknown_name("setting", kind, KINDS)


def check_decoders(specs: Sequence[str]) -> None:
    """Raises `OptionError` where one is unknown, or two are the same."""
    seen: dict[Any, str] = {}
    for spec in specs:
        other = seen.setdefault(load(spec), spec)
        if other != spec or list(specs).count(spec) > 1:
            raise OptionError(
                "two decoders are the same",
                given=f"{other} and {spec}",
                hint="Leave one of them out.",
            )
    if not specs:
        raise OptionError(
            "no decoder to measure", hint='Name some: --decoders "fixed threshold credit".'
        )


@dataclass
class _Cell:
    """One decoder under one setting: samples in the order of the items, seconds of each batch."""

    samples: dict[int, ScoredAnswer]
    seconds: list[float]


def settings(plan: Plan, layout: ModelGeometry) -> list[Setting]:
    """The base, then what differs from it."""
    g, e, fits = plan.generation, plan.engine, supported_policies(layout)
    own = parse_policy(g.cache, layout)
    caches = [name for name in fits if parse_policy(name, layout) != own]
    cache = next((name for name in ("block", "dual") if name in fits), g.cache)
    found = {
        "early-stop": [
            Setting(
                f"early stop {'off' if g.early_stop else 'on'}",
                replace(g, early_stop=not g.early_stop),
                e,
            )
        ],
        "cache": [Setting(f"cache {name}", replace(g, cache=name), e) for name in caches],
        "compile": [Setting("torch.compile", g, replace(e, compile=True))],
        "int8": [Setting("int8 weights", g, replace(e, quantize="int8"))],
        "together": [
            Setting(
                f"cache {cache}, compile, int8",
                replace(g, cache=cache),
                replace(e, compile=True, quantize="int8"),
            )
        ],
    }
    every = [
        Setting("base", g, e),
        *(setting for kind in KINDS if kind in plan.kinds for setting in found[kind]),
    ]
    once: dict[tuple[GenerationConfig, EngineConfig], Setting] = {}
    for each in every:
        once.setdefault((each.generation, each.engine), each)
    return list(once.values())


def run(plan: Plan, load: Callable[[EngineConfig], LM], start: Start) -> dict[str, Any]:
    """Measure every decoder under every setting; JSON-ready. A setting that cannot run here says
    why instead of numbers.
    """
    items = [
        item
        for family in plan.families
        for item in distinct_items(family, plan.split, 0, plan.limit)
    ]
    opened = [load(plan.engine)]
    wanted, clock = settings(plan, opened[0].geometry), _clock(opened[0])
    batches = -(-len(items) // opened[0].batch_size)
    warming = sum(
        _warming(setting, spec, plan, batches) for setting in wanted for spec in plan.decoders
    )
    tick = start(0, batches * len(wanted) * len(plan.decoders) * plan.repeats + warming)
    cells: dict[tuple[str, str], _Cell] = {}
    reasons: dict[str, str] = {}
    for engine in dict.fromkeys(setting.engine for setting in wanted):
        members = [setting for setting in wanted if setting.engine == engine]
        try:
            cells |= _under(
                opened.pop if opened else partial(load, engine), plan, items, members, tick
            )
        except (CreditError, RuntimeError) as error:
            if engine == plan.engine or not (isinstance(error, CreditError) or engine.compile):
                raise
            reasons |= {
                setting.name: (str(error).splitlines() or [type(error).__name__])[0]
                for setting in members
            }
    return _report(plan, items, wanted, cells, reasons, clock is time.thread_time)


def _clock(lm: LM) -> Callable[[], float]:
    """Seconds that other programs on the machine do not lengthen where that can be had: on a CPU
    with one thread.
    """
    return (
        time.thread_time
        if lm.device.type == "cpu" and torch.get_num_threads() == 1
        else time.perf_counter
    )


def _warming(setting: Setting, spec: str, plan: Plan, batches: int) -> int:
    """Batches to decode before timing: all where a graph is compiled for each new shape, else one,
    with the last decoder.
    """
    return batches if setting.engine.compile else int(spec == plan.decoders[-1])


def _under(
    load: Callable[[], LM],
    plan: Plan,
    items: Sequence[Item],
    members: Sequence[Setting],
    tick: Callable[[], None],
) -> dict[tuple[str, str], _Cell]:
    """The cells of the settings that share an engine, whose model lives no longer than this call."""
    lm = load()
    clock, by_name = _clock(lm), {family.name: family for family in plan.families}
    rows = {
        (setting.name, spec): _batches(lm, items, replace(setting.generation, decoder=spec))
        for setting in members
        for spec in plan.decoders
    }
    for setting in members:
        for spec in plan.decoders:
            batches = rows[setting.name, spec]
            for batch in batches[: _warming(setting, spec, plan, len(batches))]:
                lm.collect(batch)
                tick()
    cells = {key: _Cell({}, []) for key in rows}
    for number in range(len(next(iter(rows.values())))):
        for key, cell in cells.items():
            batch, seconds = rows[key][number], []
            for _ in range(plan.repeats):
                began = clock()
                found = lm.collect(batch)
                seconds.append(clock() - began)
                tick()
            cell.seconds.append(median(seconds))
            cell.samples |= {
                row.index: score_answer(by_name[items[row.index].task], items[row.index], answer)
                for row, answer in zip(batch, found)
            }
    return cells


def _batches(lm: LM, items: Sequence[Item], config: GenerationConfig) -> list[list[Request]]:
    """The rows of the items in batches, short prompts first."""
    rows = sorted(requests_for(lm, items, config), key=lambda row: len(row.canvas))
    return [rows[first : first + lm.batch_size] for first in range(0, len(rows), lm.batch_size)]


def _report(
    plan: Plan,
    items: Sequence[Item],
    wanted: Sequence[Setting],
    cells: Mapping[tuple[str, str], _Cell],
    reasons: Mapping[str, str],
    quiet: bool,
) -> dict[str, Any]:
    families = [family.name for family in plan.families]
    values = np.array(
        [[numbers(cell.samples[i]) for cell in cells.values()] for i in range(len(items))]
    )
    strata = [families.index(item.task) for item in items]
    found = _Found(
        plan.decoders,
        measure(values, strata, [" / ".join(key) for key in cells], RESAMPLES, 0),
        cells,
    )
    report: dict[str, Any] = {
        "decoders": list(plan.decoders),
        "families": families,
        "items": len(items),
        "split": plan.split,
        "repeats": plan.repeats,
        "clock": "processor time of one thread" if quiet else "wall clock",
        "base": {"generation": _options(plan.generation), "engine": asdict(plan.engine)},
        "settings": [
            {
                "name": setting.name,
                "changed": _changed(setting, plan),
                "reason": reasons.get(setting.name),
                "decoders": []
                if setting.name in reasons
                else [found.record(setting.name, spec) for spec in plan.decoders],
            }
            for setting in wanted
        ],
    }
    report["words"] = orthogonality_words(report)
    return report


def numbers(sample: ScoredAnswer) -> list[float]:
    """The fields that `summary.measure` takes: score in percent, passes, sequence-forwards, tokens."""
    trace = sample.completion.trace
    return [100.0 * sample.right, trace.nfe, trace.sequence_forwards, trace.token_count]


def _options(config: GenerationConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name != "decoder"}


def _changed(setting: Setting, plan: Plan) -> dict[str, Any]:
    """The options in which a setting differs from the base."""
    pairs = (
        (asdict(setting.generation), asdict(plan.generation)),
        (asdict(setting.engine), asdict(plan.engine)),
    )
    return {name: mine[name] for mine, base in pairs for name in mine if mine[name] != base[name]}


@dataclass(frozen=True)
class _Found:
    """All that was measured, and the records of the report made from it."""

    decoders: tuple[str, ...]
    measured: Measured
    cells: Mapping[tuple[str, str], _Cell]

    def record(self, setting: str, spec: str) -> dict[str, Any]:
        """One cell: itself, beside the same decoder at the base, and beside every other decoder
        under the same setting.
        """
        m, key, seconds = self.measured, f"{setting} / {spec}", self.cells[setting, spec].seconds
        return {
            "decoder": spec,
            **m.plain(key),
            "seconds": round(sum(seconds) / len(self.cells[setting, spec].samples), 5),
            "against_base": {
                "difference": m.gain(key, f"base / {spec}").rounded(2),
                "faster": self._faster((setting, spec), ("base", spec)),
            },
            "against": {
                other: {
                    "fewer": m.speedup(key, f"{setting} / {other}").rounded(3),
                    "difference": m.gain(key, f"{setting} / {other}").rounded(2),
                    "faster": self._faster((setting, spec), (setting, other)),
                    "kept": round(
                        self._ratio((setting, spec), (setting, other))
                        / self._ratio(("base", spec), ("base", other)),
                        4,
                    ),
                }
                for other in self.decoders
                if other != spec
            },
        }

    def _ratio(self, one: tuple[str, str], other: tuple[str, str]) -> float:
        """Time of `other` divided by that of `one`."""
        return sum(self.cells[other].seconds) / max(1e-9, sum(self.cells[one].seconds))

    def _faster(self, one: tuple[str, str], other: tuple[str, str]) -> dict[str, float]:
        """The same with the lowest and highest ratio that a batch has."""
        ratios = [
            b / max(1e-9, a) for a, b in zip(self.cells[one].seconds, self.cells[other].seconds)
        ]
        return Interval(self._ratio(one, other), min(ratios), max(ratios)).rounded(3)
