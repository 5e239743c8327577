"""Runs a grid of items, prompt templates and settings; each answer is a line of the run's folder.

Comparisons of decoders, of speed-ups and over lengths are grids: each lays out its chunks and makes
a report of the records. A chunk is always decoded whole and in the same batches, so a run that
was killed, or spread over processes, ends with the records of an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing as mp
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import median
from typing import Any

import torch

from creditdecoding import child_processes
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import Request
from creditdecoding.errors import CreditError, OptionError, prefix_errors
from creditdecoding.eval.evaluate import ScoredAnswer, score_answer, stream_answers
from creditdecoding.eval.model_timer import ModelTimer
from creditdecoding.lm import LM, Completion
from creditdecoding.run_dir import (
    Journal,
    Key,
    Record,
    open_journal,
    record_key,
    write_atomically,
)
from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.templates import apply_template
from creditdecoding.trace import Trace

KEY = ("split", "template", "decoder", "family", "item")
"""The fields that identify a sample of `credit compare`."""

CHUNK_BATCHES = 2
"""A chunk holds this many batches of rows."""

ItemKey = tuple[str, str, int]
"""Split, task and number of an item."""
Items = Mapping[ItemKey, Item]
Tick = Callable[[], None]
OnStart = Callable[[int, int], Tick]
"""Called with the answers done and in all; returns what counts one more."""
LoadModel = Callable[[EngineConfig], LM]


def no_progress(done: int, total: int) -> Tick:
    """An `OnStart` that shows nothing."""
    return lambda: None


@dataclass(frozen=True)
class Setting:
    """A column of a grid: its name, and the options it answers with."""

    name: str
    generation: GenerationConfig
    engine: EngineConfig


@dataclass(frozen=True)
class Chunk:
    """Answers that are decoded together under one setting, in this order."""

    setting: Setting
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Grid:
    """What to answer, and in which order records are written.

    A key is (split, template, setting, task, item number); `key_names` are its fields in a record.
    `manifest` is what records depend on. With `repeats` each chunk is timed so often and records
    also hold the ids; settings with another engine than the first may then fail.
    """

    tasks: Mapping[str, Task]
    items: Items
    chunks: tuple[Chunk, ...]
    order: tuple[Key, ...]
    manifest: Mapping[str, Any]
    key_names: tuple[str, ...] = KEY
    raw: bool = False
    repeats: int = 0

    def prompt(self, key: Key) -> str:
        """The prompt of an answer, in its template."""
        split, template, _, task, number = key
        return apply_template(template, self.items[split, task, number].prompt)

    def may_fail(self, engine: EngineConfig, error: Exception) -> bool:
        """Whether a run goes on without the settings of this engine."""
        if not self.repeats or engine == self.chunks[0].setting.engine:
            return False
        return isinstance(error, CreditError) or engine.compile


def setting_chunks(
    setting: Setting,
    item_keys: Sequence[ItemKey],
    size: int,
    template: str = "plain",
) -> list[Chunk]:
    """One setting on some items, cut into chunks of `size` answers."""
    keys = [(split, template, setting.name, task, number) for split, task, number in item_keys]
    return [
        Chunk(setting, tuple(keys[first : first + size])) for first in range(0, len(keys), size)
    ]


@dataclass(frozen=True)
class GridResult:
    """The records in order, and why the settings of an engine could not be measured."""

    records: list[Record]
    failures: dict[EngineConfig, str]


def item_keys_by_length(items: Items, split: str) -> list[ItemKey]:
    """The items of a split, short prompts first, so that a batch wastes little padding."""
    item_keys = [key for key in items if key[0] == split]
    return sorted(item_keys, key=lambda key: len(items[key].prompt))


def run_grid(
    lay_out: Callable[[], Grid],
    folder: Path,
    load_model: LoadModel,
    jobs: int = 1,
    on_start: OnStart = no_progress,
) -> GridResult:
    """Decode what a folder lacks of a grid, and return all of it. Raises `CreditError`s.

    With `jobs` above 1 both functions must be picklable: every process lays out and loads.
    """
    grid = lay_out()
    with open_journal(folder, grid.manifest, grid.key_names) as journal:
        _write_items(folder, grid)
        known = frozenset(journal.read())
        todo = [n for n, chunk in enumerate(grid.chunks) if not known.issuperset(chunk.keys)]
        work = Work(lay_out, load_model, journal, todo, known)
        tick = on_start(sum(key in known for key in grid.order), len(grid.order))
        failures: dict[EngineConfig, str] = {}
        if min(jobs, len(todo)) > 1:
            _run_in_processes(work, min(jobs, len(todo)), tick)
        elif todo:
            with journal.writer() as append:
                worker = Worker(grid, load_model, known, append, tick)
                worker.run(todo, todo)
                failures = worker.failures
        records = journal.read()
        order = [key for key in grid.order if key in records]
        journal.finalize(records, order)
        return GridResult([records[key] for key in order], failures)


def _write_items(folder: Path, grid: Grid) -> None:
    lines = [
        {
            "split": split,
            "family": task,
            "item": number,
            "prompt": item.prompt,
            "reference": item.answer,
        }
        for (split, task, number), item in grid.items.items()
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(folder / "items.jsonl", text)


@dataclass
class Worker:
    """Decodes chunks with one model at a time and appends the records that are not yet known."""

    grid: Grid
    load_model: LoadModel
    known: Collection[Key]
    append: Callable[[Record], object]
    tick: Tick
    failures: dict[EngineConfig, str] = field(default_factory=dict)
    _lm: LM | None = None
    _engine: EngineConfig | None = None

    def run(self, todo: Sequence[int], numbers: Iterable[int]) -> None:
        """Decode the chunks `numbers`, a part of all that are left `todo`."""
        for number in numbers:
            chunk = self.grid.chunks[number]
            engine = chunk.setting.engine
            if engine in self.failures:
                continue
            try:
                lm = self._model(engine, todo)
                for record in chunk_records(lm, self.grid, chunk):
                    if record_key(record, self.grid.key_names) not in self.known:
                        self.append(record)
                        self.tick()
            except (CreditError, RuntimeError) as error:
                if not self.grid.may_fail(engine, error):
                    raise
                self.failures[engine] = (str(error).splitlines() or [type(error).__name__])[0]

    def _model(self, engine: EngineConfig, todo: Sequence[int]) -> LM:
        """The model of an engine; the one before it is freed first."""
        if self._lm is None or engine != self._engine:
            self._lm = None
            self._lm = self.load_model(engine)
            self._engine = engine
            chunks = [self.grid.chunks[number] for number in todo]
            chunks = [chunk for chunk in chunks if chunk.setting.engine == engine]
            _check_prompts(self._lm, self.grid, chunks)
            if self.grid.repeats:
                _warm_up(self._lm, self.grid, chunks)
        return self._lm


def _check_prompts(lm: LM, grid: Grid, chunks: Sequence[Chunk]) -> None:
    """Refuse prompts that do not fit before any is answered. Raises `OptionError`."""
    checked = set()
    for chunk in chunks:
        options = dataclasses.replace(chunk.setting.generation, decoder="fixed")
        for key in chunk.keys:
            split, template, _, task, number = key
            question = (split, template, task, number, options)
            if question not in checked:
                checked.add(question)
                with prefix_errors(f"{split} item {number + 1} of {task}"):
                    lm.new_requests([grid.prompt(key)], chunk.setting.generation, grid.raw)


def _warm_up(lm: LM, grid: Grid, chunks: Sequence[Chunk]) -> None:
    """Decode untimed: every chunk if graphs are compiled for new shapes, else one per setting."""
    warmed = set()
    for chunk in chunks:
        if chunk.setting.engine.compile or chunk.setting.name not in warmed:
            warmed.add(chunk.setting.name)
            lm.collect(_requests(lm, grid, chunk))


def _requests(lm: LM, grid: Grid, chunk: Chunk) -> list[Request]:
    """The requests of a chunk, short ones first; their indices count the keys of the chunk."""
    prompts = [grid.prompt(key) for key in chunk.keys]
    numbers = [key[-1] for key in chunk.keys]
    requests = lm.new_requests(prompts, chunk.setting.generation, grid.raw, numbers)
    return sorted(requests, key=lambda request: len(request.canvas))


def chunk_records(lm: LM, grid: Grid, chunk: Chunk) -> Iterator[Record]:
    """The records of a chunk, as its answers end; of a timed one all at the end."""
    if grid.repeats:
        return _timed_records(lm, grid, chunk)
    return _streamed_records(lm, grid, chunk)


def _timed_records(lm: LM, grid: Grid, chunk: Chunk) -> Iterator[Record]:
    requests = _requests(lm, grid, chunk)
    clock = make_clock(lm)
    seconds = []
    for _ in range(grid.repeats):
        start = clock()
        completions = lm.collect(requests)
        seconds.append(clock() - start)
    for request, completion in zip(requests, completions):
        trace = completion.trace
        yield {
            **_record(grid, chunk.keys[request.index], completion),
            "batch_seconds": median(seconds),
            "ids": trace.tokens,
            "computed": sum(step.computed for step in trace.steps),
        }


def _streamed_records(lm: LM, grid: Grid, chunk: Chunk) -> Iterator[Record]:
    requests = _requests(lm, grid, chunk)
    with ModelTimer(lm) as timer:
        for index, completion in timer.over(stream_answers(lm, requests)):
            record = _record(grid, chunk.keys[index], completion)
            share = timer.outside_share
            yield record if share is None else {**record, "outside_share": round(share, 4)}


def _record(grid: Grid, key: Key, completion: Completion) -> Record:
    split, _, _, task, number = key
    answer = score_answer(grid.tasks[task], grid.items[split, task, number], completion)
    return {**dict(zip(grid.key_names, key)), **answer_record(answer)}


def make_clock(lm: LM) -> Callable[[], float]:
    """A clock in seconds: processor time on a CPU with one thread, which other programs do not
    change, else wall clock.
    """
    if lm.device.type == "cpu" and torch.get_num_threads() == 1:
        return time.thread_time
    return time.perf_counter


def answer_record(answer: ScoredAnswer) -> Record:
    """What is kept of an answer; `committed` has the pass that last wrote each answer token.

    Only `seconds` is not reproducible.
    """
    trace = answer.completion.trace
    return {
        "text": answer.completion.text,
        "right": None if answer.item.is_open else answer.right,
        "nfe": trace.nfe,
        "sequence_forwards": trace.sequence_forwards,
        "tokens": trace.token_count,
        "tpf": round(trace.tpf, 4),
        "finish": trace.finish.reason if trace.finish else None,
        "committed": _commit_passes(trace),
        "seconds": round(trace.seconds, 4),
    }


def _commit_passes(trace: Trace) -> list[int]:
    passes: dict[int, int] = {}
    for number, step in enumerate(trace.steps, 1):
        passes |= dict.fromkeys(step.commits(), number)
    start = len(trace.prompt)
    return [passes[position] for position in range(start, start + len(trace.tokens))]


@dataclass(frozen=True)
class Work:
    """What each process of a run is given: how to lay out and load, and what is left to do."""

    lay_out: Callable[[], Grid]
    load_model: LoadModel
    journal: Journal
    todo: Sequence[int]
    known: frozenset[Key]


@dataclass(frozen=True)
class SharedState:
    """What the processes of a run share: the next chunk, the answers done, and errors."""

    next_chunk: Any
    answers: Any
    errors: Any


def _run_in_processes(work: Work, jobs: int, tick: Tick) -> None:
    """Decode in several processes, each taking the next chunk when it is done with one."""
    context = mp.get_context("spawn")
    shared = SharedState(context.Value("l", 0), context.Value("l", 0), context.SimpleQueue())
    started: list[SpawnProcess] = []
    try:
        for number in range(jobs):
            started.append(child_processes.start_process(_process, (number, work, shared)))
        seen = 0
        running = list(started)
        while running:
            wait([process.sentinel for process in running], timeout=0.2)
            running = [process for process in running if process.exitcode is None]
            while seen < shared.answers.value:
                tick()
                seen += 1
            _check_processes(started, shared)
    finally:
        child_processes.end_processes(started)


def _check_processes(started: Sequence[SpawnProcess], shared: SharedState) -> None:
    """Raise the error that a process sent, or that it ended early."""
    if not shared.errors.empty():
        what, hint, value, allowed = shared.errors.get()
        raise CreditError(what, hint=hint, given=value, allowed=allowed)
    codes = [process.exitcode for process in started if process.exitcode]
    if codes:
        raise OptionError(
            "a process of the run ended early",
            given=f"exit code {codes[0]}",
            hint="Run it again: finished answers are kept. Or lower --jobs.",
        )


def _process(
    number: int, work: Work, shared: SharedState
) -> None:  # pragma: no cover - in another process
    """The body of one process."""
    child_processes.end_with_parent()

    def tick() -> None:
        with shared.answers.get_lock():
            shared.answers.value += 1

    def numbers() -> Iterator[int]:
        while True:
            with shared.next_chunk.get_lock():
                index = shared.next_chunk.value
                shared.next_chunk.value += 1
            if index >= len(work.todo):
                return
            yield work.todo[index]

    try:
        with work.journal.writer(number) as append:
            worker = Worker(work.lay_out(), work.load_model, work.known, append, tick)
            worker.run(work.todo, numbers())
    except CreditError as error:
        shared.errors.put((error.what, error.hint, error.given, error.allowed))
