"""Runs a model over tasks with many decoders and settings, every sample a line of a run's folder.

The work is cut into chunks of rows that share decoder, template and split. A chunk is always
decoded whole and in the same batches,
on one thread unless more are asked for, whoever decodes it: so a run that was killed, or spread
over processes, ends with the rows
of an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing as mp
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from creditdecoding import child_processes as children
from creditdecoding import run_dir as journal
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import check_supported
from creditdecoding.errors import CreditError, OptionError, prefix_errors
from creditdecoding.eval.compare_report import BOUND, compare_report
from creditdecoding.eval.sweep import DecoderCurve, all_specs, parse_curves
from creditdecoding.fingerprint import checkpoint_digest, weights_digest
from creditdecoding.lm import LM, load
from creditdecoding.models.weights import Progress
from creditdecoding.options import from_mapping
from creditdecoding.run_dir import Key
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Split, Task, distinct_items
from creditdecoding.tasks.templates import apply_template
from creditdecoding.tasks.templates import parse_templates as named
from creditdecoding.trace import FinishEvent, Trace

_SPLITS: tuple[Split, ...] = ("dev", "test")
_BATCHES = 2  # a chunk holds as many rows as this many batches


@dataclass(frozen=True)
class ComparePlan:
    """All that decides the rows of a run. `dev_limit` and `limit` are items a family of the dev and
    the test split.

    `tasks` are names, comma-separated, or families; `raw` asks without the chat template.
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
            if limit < 2:
                raise OptionError(
                    f"{name} is too small for an interval",
                    given=limit,
                    allowed="2 items a family or more",
                    hint="Raise it.",
                )


@dataclass(frozen=True)
class Chunk:
    """Rows that are decoded together, in this order."""

    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Work:
    """A plan with its items: what is to be done, and in which order it is written down."""

    plan: ComparePlan
    items: Mapping[tuple[str, str, int], Item]
    families: Mapping[str, Task]
    chunks: tuple[Chunk, ...]

    @property
    def order(self) -> list[Key]:
        """Every sample in the order of the finished file."""
        numbers = {name: i for i, name in enumerate((*_SPLITS, *self.plan.templates))}
        decoders = {name: i for i, name in enumerate(all_specs(self.plan.curves))}
        ranks = {family: i for i, family in enumerate(self.families)}
        every = (key for chunk in self.chunks for key in chunk.keys)
        return sorted(
            every,
            key=lambda key: (
                numbers[key[0]],
                numbers[key[1]],
                decoders[key[2]],
                ranks[key[3]],
                key[4],
            ),
        )

    def item(self, key: Key) -> Item:
        """The item of a sample."""
        return self.items[key[0], key[3], key[4]]


def lay_out(plan: ComparePlan) -> Work:
    """The items of a plan and its chunks, short prompts first. Raises `OptionError` where a family
    has too few items.
    """
    asked = {
        family.name: family
        for family in (load_tasks(plan.tasks) if isinstance(plan.tasks, str) else plan.tasks)
    }
    items: dict[tuple[str, str, int], Item] = {}
    for family in asked.values():
        for split, chosen in zip(_SPLITS, _split(family, plan.dev_limit, plan.limit)):
            if len(chosen) < 2:
                raise OptionError(
                    f"{family.name} has too few {split} items for an interval",
                    given=len(chosen),
                    hint="Leave the task out.",
                )
            items |= {(split, family.name, i): item for i, item in enumerate(chosen)}
    size, chunks = _BATCHES * plan.engine.batch_size, []
    for split in _SPLITS:
        inside = sorted(
            (place for place in items if place[0] == split),
            key=lambda place: len(items[place].prompt),
        )
        for template in plan.templates:
            for spec in all_specs(plan.curves):
                for start in range(0, len(inside), size):
                    chunks.append(
                        Chunk(
                            tuple(
                                (split, template, spec, family, i)
                                for _, family, i in inside[start : start + size]
                            )
                        )
                    )
    return Work(plan, items, asked, tuple(chunks))


def _split(family: Task, dev_limit: int, limit: int) -> tuple[list[Item], list[Item]]:
    """Items of dev and of test. Published items have no split of ours: one draw is dealt out to the
    two.
    """
    if family.fixed_items is None:
        return distinct_items(family, "dev", 0, dev_limit), distinct_items(family, "test", 0, limit)
    drawn = distinct_items(family, "test", 0, dev_limit + limit)
    random.Random(f"{family.name}/dev").shuffle(drawn)
    return drawn[:dev_limit], drawn[dev_limit:]


def manifest(work: Work, lm: LM | None = None) -> dict[str, Any]:
    """What a folder's samples depend on: settings, the checkpoint's bytes (of `lm`, where there is
    one, its weights), the items' texts.
    """
    plan = work.plan
    engine = {
        f.name: getattr(plan.engine, f.name)
        for f in dataclasses.fields(plan.engine)
        if f.name not in ("offline", "cache_dir")
    }
    asked = {
        f.name: getattr(plan.generation, f.name)
        for f in dataclasses.fields(plan.generation)
        if f.name != "decoder"
    }
    texts = json.dumps(
        [[*place, item.prompt, repr(item.gold)] for place, item in work.items.items()]
    )
    return {
        "model": plan.model,
        "checkpoint": checkpoint_digest(
            resolve_checkpoint(
                plan.model, plan.engine.revision, plan.engine.offline, plan.engine.cache_dir
            )
        )
        if lm is None
        else weights_digest(lm),
        "tasks": {name: dict(family.metadata) for name, family in work.families.items()},
        "items": {
            "dev": plan.dev_limit,
            "test": plan.limit,
            "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        },
        "templates": plan.templates,
        "decoders": [dataclasses.asdict(curve) for curve in plan.curves],
        "generation": asked,
        "engine": engine,
        **({"raw": True} if plan.raw else {}),
    }


def refuse_too_long(lm: LM, work: Work, todo: Sequence[int]) -> None:
    """Look at every prompt before any is answered. Raises `OptionError` that names the item at
    fault.
    """
    plan = work.plan
    keys = [key for number in todo for key in work.chunks[number].keys]
    config = dataclasses.replace(plan.generation, decoder=keys[0][2])
    asked = dict.fromkeys((key[0], key[1], key[3], key[4]) for key in keys)
    for split, template, family, number in asked:
        with prefix_errors(f"{split} item {number + 1} of {family}"):
            lm.new_requests(
                [apply_template(template, work.items[split, family, number].prompt)],
                config,
                plan.raw,
            )


def answers(lm: LM, work: Work, chunk: Chunk) -> Iterator[dict[str, Any]]:
    """The samples of a chunk as they are finished."""
    config = dataclasses.replace(work.plan.generation, decoder=chunk.keys[0][2])
    prompts = [apply_template(key[1], work.item(key).prompt) for key in chunk.keys]
    rows = lm.new_requests(
        prompts, config, work.plan.raw, seed_indices=[key[4] for key in chunk.keys]
    )
    rows.sort(key=lambda row: len(row.canvas))
    of, traces = {row.index: row for row in rows}, {row.index: lm.new_trace(row) for row in rows}
    for event in lm.events(rows):
        traces[event.row].add(event)
        if isinstance(event, FinishEvent):
            key, trace = chunk.keys[event.row], traces.pop(event.row)
            text = lm.completion(of[event.row], trace).text
            yield {
                **dict(zip(journal.KEY, key)),
                "text": text,
                "right": work.families[key[3]].score(text, work.item(key)),
                **_counts(trace),
            }


def _counts(trace: Trace) -> dict[str, Any]:
    """Passes, tokens, and for each answer token the pass that wrote it last; seconds are the only
    field that is not reproducible.
    """
    wrote: dict[int, int] = {}
    for number, step in enumerate(trace.steps, 1):
        wrote |= dict.fromkeys(step.commits(), number)
    start = len(trace.prompt)
    return {
        "nfe": trace.nfe,
        "sequence_forwards": trace.sequence_forwards,
        "tokens": trace.token_count,
        "tpf": round(trace.tpf, 4),
        "finish": trace.finish.reason if trace.finish else None,
        "committed": [wrote[position] for position in range(start, start + len(trace.tokens))],
        "seconds": round(trace.seconds, 4),
    }


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
    out: Path | None = None,
    **generation: Any,
) -> dict[str, Any]:
    """What `credit compare` reports, of a model in memory: the `summarise`d report, whose "words"
    say it in sentences.

    `decoders`, `templates` as on the command line, `tasks` also as families of your own,
    `generation` fields of `GenerationConfig`. With a
    folder `out` the samples are kept there, and a run that was stopped goes on. Raises
    `CreditError`s.
    """
    if "decoder" in generation:
        raise OptionError(
            "compare runs several decoders",
            given=generation["decoder"],
            hint="Name them in decoders.",
        )
    found, asked = tuple(parse_curves(decoders)), tasks if isinstance(tasks, str) else tuple(tasks)
    for spec in all_specs(found):
        check_supported(spec, lm.geometry)
    engine = EngineConfig(batch_size=lm.batch_size)
    plan = ComparePlan(
        "",
        asked,
        tuple(named(templates)),
        found,
        dev_limit,
        limit,
        from_mapping(GenerationConfig, generation),
        engine,
        raw,
    )
    with tempfile.TemporaryDirectory() as passing:
        return compare_report(run(plan, out or Path(passing), lm=lm), found, bound)


def run(
    plan: ComparePlan,
    folder: Path,
    jobs: int = 1,
    on_start: Callable[[int, int], Callable[[], None]] | None = None,
    on_load: Progress | None = None,
    lm: LM | None = None,
) -> list[dict[str, Any]]:
    """Do what is left of a plan in its folder; all its samples, in order. Raises `CreditError`s.

    `on_start` is told how many samples there are already and in all, and gives a function to call
    at each further one. With `lm` that
    model does it, in this process; otherwise the plan's is loaded.
    """
    plan = dataclasses.replace(
        plan, engine=dataclasses.replace(plan.engine, threads=plan.engine.threads or 1)
    )
    work = lay_out(plan)
    order = work.order
    with journal.open_run(folder, manifest(work, lm)):
        _write_items(folder, work)
        found = journal.read_records(folder)
        tick = (
            on_start(sum(key in found for key in order), len(order)) if on_start else lambda: None
        )
        todo = [
            number
            for number, chunk in enumerate(work.chunks)
            if any(key not in found for key in chunk.keys)
        ]
        jobs = min(jobs, len(todo))
        if jobs == 1 or (lm is not None and todo):
            lm = load(plan.model, plan.engine, on_load) if lm is None else lm
            refuse_too_long(lm, work, todo)
            with journal.record_writer(folder, 0) as append:
                for number in todo:
                    _do(lm, work, work.chunks[number], found.keys(), append, tick)
        elif todo:
            _spread(plan, folder, todo, frozenset(found), jobs, tick)
        found = journal.read_records(folder)
        journal.finalize(folder, found, order)
        return [found[key] for key in order]


def _write_items(folder: Path, work: Work) -> None:
    lines = [
        {
            "split": split,
            "family": family,
            "item": i,
            "prompt": item.prompt,
            "reference": item.answer,
        }
        for (split, family, i), item in work.items.items()
    ]
    journal.write_atomically(
        folder / "items.jsonl",
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
    )


def _do(
    lm: LM,
    work: Work,
    chunk: Chunk,
    known: Any,
    append: Callable[[dict[str, Any]], Any],
    tick: Callable[[], None],
) -> None:
    """Decode a chunk whole and write down what is not yet known of it."""
    for record in answers(lm, work, chunk):
        if journal.record_key(record) not in known:
            append(record)
            tick()


def _spread(
    plan: ComparePlan,
    folder: Path,
    todo: Sequence[int],
    known: frozenset[Key],
    jobs: int,
    tick: Callable[[], None],
) -> None:
    """The same in several processes, each taking the next chunk when it is done with one."""
    context = mp.get_context("spawn")
    taken, done, said = context.Value("l", 0), context.Value("l", 0), context.SimpleQueue()
    shared = (plan, folder, todo, known, taken, done, said)
    started: list[SpawnProcess] = []
    try:
        for number in range(jobs):
            started.append(children.start_process(_help, (number, *shared)))
        seen, alive = 0, list(started)
        while alive:
            wait([process.sentinel for process in alive], timeout=0.2)
            alive = [process for process in alive if process.exitcode is None]
            for _ in range(done.value - seen):
                tick()
                seen += 1
            if not said.empty():
                what, hint, given, allowed = said.get()
                raise CreditError(what, hint=hint, given=given, allowed=allowed)
            codes = [process.exitcode for process in started if process.exitcode]
            if codes:
                raise OptionError(
                    "a process of the run ended early",
                    given=f"exit code {codes[0]}",
                    hint="Run it again: finished samples are kept. Or lower --jobs.",
                )
    finally:
        children.end_processes(started)


def _help(
    number: int,
    plan: ComparePlan,
    folder: Path,
    todo: Sequence[int],
    known: frozenset[Key],
    taken: Any,
    done: Any,
    said: Any,
) -> None:  # pragma: no cover - in another process
    """Body of one process; it ends with the process that started it, whatever ends that."""
    children.end_with_parent()

    def tick() -> None:
        with done.get_lock():
            done.value += 1

    try:
        work, lm = lay_out(plan), load(plan.model, plan.engine)
        refuse_too_long(lm, work, todo)
        with journal.record_writer(folder, number) as append:
            while True:
                with taken.get_lock():
                    place = taken.value
                    taken.value += 1
                if place >= len(todo):
                    return
                _do(lm, work, work.chunks[todo[place]], known, append, tick)
    except CreditError as error:
        said.put((error.what, error.hint, error.given, error.allowed))
