"""Answers that a run keeps beside its output until that is written, so that the same command goes
on where it was stopped.

    with keeping(Path("e.json"), manifest("eval", ...)) as kept:
        report = evaluate(..., kept=kept.cell("credit"))
        write(Path("e.json"), report)

They lie in the folder e.json.partial, which is gone when the body has ended well. A cell is what
items are answered with: a decoder, a
setting. Of a trace the line holds what reports are made of: passes, what they wrote and computed,
times.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding import run_dir as journal
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig
from creditdecoding.decoders import load
from creditdecoding.decoders import settings as decoder_settings
from creditdecoding.fingerprint import checkpoint_digest
from creditdecoding.tasks.base import Item, Task
from creditdecoding.trace import FinishEvent, StepEvent, Trace

KEY = ("cell", "item")
WHERE = ("offline", "cache_dir")
"""Engine options that say where a checkpoint lies and not what it answers."""

Record = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class SettingAnswers:
    """The answers of one cell by the number of their item, and how one is added."""

    name: str
    by_item: Mapping[int, Record]
    append: Callable[[Record], object]

    def add(self, item: int, record: Record) -> None:
        """Keep an answer."""
        self.append({"cell": self.name, "item": item, **record})


@dataclass(frozen=True)
class SavedAnswers:
    """All answers of a run that were there when it began."""

    records: Mapping[Key, Record]
    append: Callable[[Record], object]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.records)

    def of_setting(self, name: str) -> SettingAnswers:
        """The answers of one cell."""
        known = {item: record for (cell, item), record in self.records.items() if cell == name}
        return SettingAnswers(name, known, self.append)


@contextmanager
def save_answers(out: Path | None, settings: Mapping[str, Any]) -> Iterator[SavedAnswers | None]:
    """Keep answers beside `out` for the time of the body; None without an output. Raises
    `OptionError` where other settings are kept there.
    """
    if out is None:
        yield None
        return
    folder = partial_folder(out)
    with journal.open_run(folder, settings), journal.record_writer(folder, 0) as append:
        yield SavedAnswers(journal.read_records(folder, KEY), append)
    journal.delete_run(folder)


def partial_folder(out: Path) -> Path:
    """The folder of what is kept until `out` is written."""
    return out.with_name(f"{out.name}.partial")


def answers_manifest(
    kind: str,
    model: str,
    engine: EngineConfig,
    families: Sequence[Task],
    items: Sequence[Item],
    decoders: Sequence[str],
    **more: Any,
) -> dict[str, Any]:
    """What answers depend on: the checkpoint's bytes, the engine, the texts of the items, the
    decoders' knobs, and what else a command names.
    """
    texts = json.dumps([[item.task, item.prompt, repr(item.gold)] for item in items])
    options = {
        name: value for name, value in dataclasses.asdict(engine).items() if name not in WHERE
    }
    return {
        "kind": kind,
        "model": model,
        "checkpoint": checkpoint_digest(
            resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir)
        ),
        "tasks": {family.name: dict(family.metadata) for family in families},
        "items": {
            "count": len(items),
            "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
        },
        "engine": options,
        "rules": {spec: decoder_settings(load(spec)[0]) for spec in decoders},
        **more,
    }


def compact_trace(trace: Trace) -> Record:
    """A finished trace without what no report is made of."""
    assert trace.finish is not None
    return {
        "steps": [_brief_step(step) for step in trace.steps],
        "finish": dataclasses.asdict(trace.finish),
    }


def _brief_step(step: StepEvent) -> Record:
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
    """Fill an empty trace from what `brief` gave; confidences and choices that were not committed
    are not there.
    """
    finish = {**record["finish"], "tokens": tuple(record["finish"]["tokens"])}
    for step in record["steps"]:
        trace.add(_step_of(step, finish["row"]))
    trace.add(FinishEvent(**finish))
    return trace


def _step_of(step: Record, row: int) -> StepEvent:
    positions = tuple(step["positions"])
    return StepEvent(
        row=row,
        forward=step["forward"],
        block=step["block"],
        step=step["step"],
        positions=positions,
        tokens=tuple(step["tokens"]),
        confidence=(),
        credit=None,
        committed=(True,) * len(positions),
        seconds=step["seconds"],
        computed=step["computed"],
        sequences=step["sequences"],
        revoked=tuple(step["revoked"]),
    )


def shift_trace(trace: Trace, forwards: int, seconds: float) -> Trace:
    """The trace of a chunk as one of the whole run, before which there were so many passes and
    seconds.
    """
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
    return Trace(trace.prompt, steps, finish, trace.settings)
