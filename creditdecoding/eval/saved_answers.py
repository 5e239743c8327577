"""Answers of a run that is not finished, in a folder next to its output file.

    with save_answers(Path("e.json"), answers_manifest("eval", ...)) as saved:
        report = evaluate(..., saved=saved.of_setting("credit"))
        write(Path("e.json"), report)

The folder is e.json.partial; it is deleted when the body ends without an error. Until then the same
command continues where it stopped. Unless whole traces are asked for, only what reports need of one
is saved: the passes, what they wrote and computed, and times.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.config import EngineConfig
from creditdecoding.decoders import load
from creditdecoding.decoders import settings as decoder_settings
from creditdecoding.fingerprint import model_digest
from creditdecoding.run_dir import Journal, Key, Record, open_journal
from creditdecoding.tasks.base import Item, Task
from creditdecoding.trace import FinishEvent, StepEvent, Trace

KEY = ("cell", "item")
WHERE = ("offline", "cache_dir", "prefix_cache")
"""Engine options that say where a checkpoint is, or are not used, and do not change an answer."""


@dataclass(frozen=True)
class SettingAnswers:
    """The answers of one setting by the index of their item."""

    name: str
    by_item: Mapping[int, Record]
    append: Callable[[Record], object]
    whole_traces: bool = False

    def add(self, item: int, record: Record) -> None:
        """Save an answer."""
        self.append({"cell": self.name, "item": item, **record})


@dataclass(frozen=True)
class SavedAnswers:
    """All answers that a run found when it began."""

    records: Mapping[Key, Record]
    append: Callable[[Record], object]
    whole_traces: bool = False

    @property
    def count(self) -> int:
        """Number of answers."""
        return len(self.records)

    def of_setting(self, name: str) -> SettingAnswers:
        """The answers of one setting."""
        by_item = {item: record for (cell, item), record in self.records.items() if cell == name}
        return SettingAnswers(name, by_item, self.append, self.whole_traces)


@contextmanager
def save_answers(
    out: Path | None, manifest: Mapping[str, Any], whole_traces: bool = False
) -> Iterator[SavedAnswers | None]:
    """Save answers next to `out` while the body runs; None without an output.

    With `whole_traces` predictions and confidences are saved too, for analyses. Raises
    `OptionError` if the folder has answers of other settings.
    """
    if out is None:
        yield None
        return
    with (
        open_journal(partial_folder(out), manifest, KEY) as journal,
        journal.writer() as append,
    ):
        yield SavedAnswers(journal.read(), append, whole_traces)
    journal.delete()


@contextmanager
def grid_folder(out: Path | None) -> Iterator[Path]:
    """A folder for a grid whose report goes to `out`: kept if the body fails; without an output a
    temporary one.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        yield partial_folder(out)
        Journal(partial_folder(out), KEY).delete()


def partial_folder(out: Path) -> Path:
    """The folder of an unfinished run that writes `out`."""
    return out.with_name(f"{out.name}.partial")


def answers_manifest(
    kind: str,
    model: str,
    engine: EngineConfig,
    tasks: Sequence[Task],
    items: Sequence[Item],
    decoders: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """What answers depend on: checkpoint, engine, items, the knobs of the decoders, and `more`."""
    texts = json.dumps([[item.task, item.prompt, repr(item.gold)] for item in items])
    return {
        "kind": kind,
        "model": model,
        "checkpoint": model_digest(model, engine),
        "tasks": {task.name: dict(task.metadata) for task in tasks},
        "items": {
            "count": len(items),
            "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        },
        "engine": engine_options(engine),
        "rules": {spec: decoder_settings(load(spec)[0]) for spec in decoders},
        **more,
    }


def engine_options(engine: EngineConfig) -> dict[str, Any]:
    """The engine options that answers depend on."""
    options = dataclasses.asdict(engine)
    return {name: value for name, value in options.items() if name not in WHERE}


def trace_record(trace: Trace, whole: bool = False) -> Record:
    """A finished trace to save: all of it if `whole`, else what reports of an evaluation need."""
    assert trace.finish is not None
    steps = [dataclasses.asdict(step) if whole else _compact_step(step) for step in trace.steps]
    return {"steps": steps, "finish": dataclasses.asdict(trace.finish)}


def _compact_step(step: StepEvent) -> Record:
    """A step without predictions that were not committed, and without confidences."""
    written = step.commits()
    return {
        "forward": step.forward,
        "block": step.block,
        "step": step.step,
        "seconds": step.seconds,
        "computed": step.computed,
        "sequences": step.sequences,
        "positions": list(written),
        "tokens": list(written.values()),
        "revoked": list(step.revoked),
    }


def restore_trace(record: Record, trace: Trace) -> Trace:
    """Fill an empty trace with a record of `trace_record`."""
    for step in record["steps"]:
        missing = {
            "row": record["finish"]["row"],
            "confidence": (),
            "credit": None,
            "committed": (True,) * len(step["positions"]),
        }
        trace.add(StepEvent(**_with_tuples({**missing, **step})))
    trace.add(FinishEvent(**_with_tuples(record["finish"])))
    return trace


def _with_tuples(record: Record) -> Record:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }


def shift_trace(trace: Trace, forwards: int, seconds: float) -> Trace:
    """The trace of a chunk that came after `forwards` passes and `seconds` of its run."""
    if not forwards:
        return trace
    steps = [
        dataclasses.replace(step, forward=step.forward + forwards, seconds=step.seconds + seconds)
        for step in trace.steps
    ]
    finish = trace.finish
    if finish is not None:
        finish = dataclasses.replace(
            finish, seconds=finish.seconds + seconds, began=finish.began + seconds
        )
    return dataclasses.replace(trace, steps=steps, finish=finish)
