"""Decoders compared over sweeps of their knobs: a grid of tasks, templates and settings.

Settings are chosen on the dev split and reported on the test split, so both are answered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import origins
from creditdecoding.decoding.request import check_supported
from creditdecoding.errors import OptionError
from creditdecoding.eval.compare_report import BOUND, compare_report
from creditdecoding.eval.grid import (
    CHUNK_BATCHES,
    Chunk,
    Grid,
    ItemKey,
    Items,
    LoadModel,
    OnStart,
    Setting,
    item_keys_by_length,
    no_progress,
    run_grid,
    setting_chunks,
)
from creditdecoding.eval.quality import decoder_quality, judge_of
from creditdecoding.eval.saved_answers import engine_options
from creditdecoding.eval.sweep import REFERENCE, DecoderCurve, all_specs, parse_curves
from creditdecoding.fingerprint import model_digest, weights_digest
from creditdecoding.lm import LM, load
from creditdecoding.options import StrPath, from_mapping
from creditdecoding.run_dir import Record
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import DefaultLimit, Item, Split, Task, distinct_items
from creditdecoding.tasks.templates import parse_templates

SPLITS: tuple[Split, ...] = ("dev", "test")
LEAST = 2
"""Items of a task and split without which there is no interval."""


@dataclass(frozen=True)
class ComparePlan:
    """What to compare: `dev_limit` and `limit` are items of each task on the dev and test split.

    `tasks` are names, comma-separated, or tasks; `raw` leaves out the chat template.
    """

    model: str
    tasks: str | tuple[Task, ...]
    templates: tuple[str, ...]
    curves: tuple[DecoderCurve, ...]
    dev_limit: int
    limit: int
    generation: GenerationConfig = GenerationConfig()
    engine: EngineConfig = EngineConfig()
    raw: bool = False

    def __post_init__(self) -> None:
        for name, limit in (("limit", self.limit), ("dev_limit", self.dev_limit)):
            if limit < LEAST:
                raise OptionError(
                    f"{name} is too small for an interval",
                    given=limit,
                    allowed=f"{LEAST} items of each task or more",
                    hint="Raise it.",
                )


def lay_out(plan: ComparePlan, checkpoint: str = "") -> Grid:
    """The grid of a plan; `checkpoint` is the digest of its model.

    Raises `OptionError` if a task has too few items.
    """
    tasks = load_tasks(plan.tasks, open_text=True) if isinstance(plan.tasks, str) else plan.tasks
    by_name = {task.name: task for task in tasks}
    items: dict[ItemKey, Item] = {}
    for task in by_name.values():
        for split, listed in zip(SPLITS, split_items(task, plan.dev_limit, plan.limit)):
            items |= {(split, task.name, number): item for number, item in enumerate(listed)}
    specs = all_specs(plan.curves)
    order = [
        (split, template, spec, task, number)
        for split in SPLITS
        for template in plan.templates
        for spec in specs
        for item_split, task, number in items
        if item_split == split
    ]
    return Grid(
        tasks=by_name,
        items=items,
        chunks=tuple(_chunks(plan, items, specs)),
        order=tuple(order),
        manifest=_manifest(plan, by_name, items, checkpoint),
        raw=plan.raw,
    )


def _chunks(plan: ComparePlan, items: Items, specs: Sequence[str]) -> list[Chunk]:
    size = CHUNK_BATCHES * plan.engine.batch_size
    chunks: list[Chunk] = []
    for split in SPLITS:
        item_keys = item_keys_by_length(items, split)
        for template in plan.templates:
            for spec in specs:
                options = dataclasses.replace(plan.generation, decoder=spec)
                setting = Setting(spec, options, plan.engine)
                chunks += setting_chunks(setting, item_keys, size, template)
    return chunks


def split_items(task: Task, dev_limit: int, limit: int) -> tuple[list[Item], list[Item]]:
    """Items of dev and of test.

    Published items have no dev split: one draw is dealt out to the two. If both limits are defaults
    and the list is shorter, all of it is, in the same proportion. Raises `OptionError` if there are
    too few.
    """
    if task.fixed_items is None:
        dev = distinct_items(task, "dev", 0, dev_limit)
        test = distinct_items(task, "test", 0, limit)
    else:
        total = dev_limit + limit
        available = len(task.fixed_items)
        are_defaults = isinstance(limit, DefaultLimit) and isinstance(dev_limit, DefaultLimit)
        if are_defaults and available < total:
            dev_limit = max(LEAST, round(dev_limit * available / total))
            total = available
        drawn = distinct_items(task, "test", 0, total)
        random.Random(f"{task.name}/dev").shuffle(drawn)
        dev, test = drawn[:dev_limit], drawn[dev_limit:]
    for split, items in (("dev", dev), ("test", test)):
        if len(items) < LEAST:
            raise OptionError(
                f"{task.name} has too few {split} items for an interval",
                given=len(items),
                allowed=f"{LEAST} items or more",
                hint="Leave the task out, or add items.",
            )
    return dev, test


def _manifest(
    plan: ComparePlan,
    tasks: Mapping[str, Task],
    items: Items,
    checkpoint: str,
) -> dict[str, Any]:
    """What the records depend on: settings, the checkpoint, the texts of the items."""
    texts = json.dumps([[*key, item.prompt, repr(item.gold)] for key, item in items.items()])
    generation = dataclasses.asdict(plan.generation)
    del generation["decoder"]
    sources = origins(all_specs(plan.curves))
    return {
        "model": plan.model,
        "checkpoint": checkpoint,
        "tasks": {name: dict(task.metadata) for name, task in tasks.items()},
        "items": {
            "dev": plan.dev_limit,
            "test": plan.limit,
            "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        },
        "templates": plan.templates,
        "decoders": [dataclasses.asdict(curve) for curve in plan.curves],
        "generation": generation,
        "engine": engine_options(plan.engine),
        **({"raw": True} if plan.raw else {}),
        **({"sources": sources} if sources else {}),
    }


def run(
    plan: ComparePlan,
    folder: Path,
    jobs: int = 1,
    on_start: OnStart = no_progress,
    load_model: LoadModel | None = None,
    checkpoint: str | None = None,
) -> list[Record]:
    """Answer what a folder lacks of a plan; all its records in order. Raises `CreditError`s.

    Models run on one thread unless more are asked for. `load_model` and the digest `checkpoint`
    replace the plan's model by one in memory.
    """
    engine = dataclasses.replace(plan.engine, threads=plan.engine.threads or 1)
    plan = dataclasses.replace(plan, engine=engine)
    if checkpoint is None:
        checkpoint = model_digest(plan.model, engine)
    load_model = load_model or partial(load, plan.model)
    return run_grid(partial(lay_out, plan, checkpoint), folder, load_model, jobs, on_start).records


def quality_of(
    plan: ComparePlan, records: Sequence[Record], base: AutoregressiveLM | None
) -> dict[str, Any]:
    """What `eval/quality.py` measures of the test answers of each decoder, as fields of a report:
    the `base`, and `quality` by decoder.
    """
    grid = lay_out(plan)
    prompts = {
        (template, task, number): grid.prompt((split, template, spec, task, number))
        for split, template, spec, task, number in grid.order
        if split == "test"
    }
    quality = decoder_quality(records, prompts, REFERENCE, base, plan.raw)
    return {"base": None if base is None else base.name, "quality": quality}


def _supported_curves(
    decoders: str, lm: LM, generation: Mapping[str, Any]
) -> tuple[DecoderCurve, ...]:
    """The curves that `decoders` names. Raises `OptionError` if one does not fit the model, or if
    `generation` names a decoder.
    """
    if "decoder" in generation:
        raise OptionError(
            "compare runs several decoders",
            given=generation["decoder"],
            hint="Name them in decoders.",
        )
    curves = tuple(parse_curves(decoders))
    for spec in all_specs(curves):
        check_supported(spec, lm.geometry)
    return curves


def compare(
    lm: LM,
    decoders: str = "fixed threshold credit",
    tasks: str | Sequence[Task] = "pocket",
    *,
    templates: str = "plain",
    limit: int = 100,
    dev_limit: int = 50,
    bound: float = BOUND,
    raw: bool = False,
    base: StrPath | AutoregressiveLM | None = None,
    out: StrPath | None = None,
    **generation: Any,
) -> dict[str, Any]:
    """Compare decoders on a model in memory; the report of `credit compare`.

    `decoders` and `templates` are as on the command line, `tasks` names or tasks of your own,
    `generation` fields of `GenerationConfig`. Where a `base` is given or `lm` is an adapter's, the
    report has the quality of the text under it. With a folder `out` the answers are kept there, and
    an interrupted run is continued. Raises `CreditError`s.
    """
    curves = _supported_curves(decoders, lm, generation)
    judge = judge_of(lm, base)
    plan = ComparePlan(
        model="",
        tasks=tasks if isinstance(tasks, str) else tuple(tasks),
        templates=tuple(parse_templates(templates)),
        curves=curves,
        dev_limit=dev_limit,
        limit=limit,
        generation=from_mapping(GenerationConfig, generation),
        engine=EngineConfig(batch_size=lm.batch_size),
        raw=raw,
    )
    with tempfile.TemporaryDirectory() as temporary:
        records = run(
            plan, Path(out or temporary), 1, no_progress, lambda _: lm, weights_digest(lm)
        )
        report = compare_report(records, curves, bound, gen_length=plan.generation.gen_length)
    if judge is not None or report["open_text"]:
        report |= quality_of(plan, records, judge)
    return report
