"""Runs a model over task families with one decoder: score, NFE, TPF, TPS by family."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request
from creditdecoding.errors import OptionError, TooLongError, prefix_errors
from creditdecoding.eval.saved_answers import (
    SettingAnswers,
    compact_trace,
    restore_trace,
    shift_trace,
)
from creditdecoding.lm import LM, Completion
from creditdecoding.tasks.base import Item, Split, Task, distinct_items, items_digest
from creditdecoding.trace import Event, FinishEvent, total

CHUNK_BATCHES = 4  # a chunk holds as many rows as this many full batches


@dataclass(frozen=True)
class ScoredAnswer:
    """One item with its answer and verdict, and the partial credit of a family that gives some
    (F1).
    """

    item: Item
    completion: Completion
    right: bool
    grade: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "family": self.item.task,
            "prompt": self.item.prompt,
            "text": self.completion.text,
            "reference": self.item.answer,
            "right": self.right,
            **({} if self.grade is None else {"f1": round(self.grade, 4)}),
            "nfe": self.completion.nfe,
            "tokens": self.completion.trace.token_count,
        }


@dataclass(frozen=True)
class EvalReport:
    """All samples of one evaluation with its settings; by family the numbers of items left out
    because they do not fit, if that was asked for.
    """

    samples: tuple[ScoredAnswer, ...]
    settings: dict[str, Any]
    skipped: dict[str, list[int]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Score (mean over families, in %), NFE, TPF and TPS; the same by family; settings.

        `items_digest` says which items these are (`tasks.base.digest`).
        """
        names = list(dict.fromkeys(sample.item.task for sample in self.samples))
        by_family = {
            name: _numbers([s for s in self.samples if s.item.task == name]) for name in names
        }
        totals = total([s.completion.trace for s in self.samples])
        return {
            "score": round(
                sum(numbers["score"] for numbers in by_family.values()) / max(1, len(names)), 2
            ),
            "nfe": round(totals.nfe, 3),
            "tpf": round(totals.tpf, 3),
            "tps": round(totals.tokens / totals.seconds, 1) if totals.seconds else 0.0,
            "items": totals.requests,
            "items_digest": items_digest(sample.item for sample in self.samples),
            "sequence_forwards": totals.sequence_forwards,
            "batch_forwards": totals.forwards,
            "tokens": totals.tokens,
            "seconds": round(totals.seconds, 2),
            "families": by_family,
            **(
                {}
                if self.skipped is None
                else {
                    "skipped": sum(map(len, self.skipped.values())),
                    "skipped_items": self.skipped,
                }
            ),
            "settings": self.settings,
        }


def _numbers(samples: Sequence[ScoredAnswer]) -> dict[str, Any]:
    totals = total([s.completion.trace for s in samples])
    score = 100 * sum(s.right for s in samples) / len(samples)
    ends = [s.completion.trace.finish for s in samples if s.completion.trace.finish is not None]
    span = max((end.seconds for end in ends), default=0.0) - min(
        (end.began for end in ends), default=0.0
    )
    tps = round(totals.tokens / span, 1) if span else 0.0
    found = {
        "score": round(score, 2),
        "nfe": round(totals.nfe, 3),
        "tpf": round(totals.tpf, 3),
        "tps": tps,
        "items": len(samples),
        "items_digest": items_digest(sample.item for sample in samples),
    }
    grades = [s.grade for s in samples if s.grade is not None]
    return {**found, "f1": round(100 * sum(grades) / len(grades), 2)} if grades else found


def evaluate(
    lm: LM,
    families: Sequence[Task],
    config: GenerationConfig,
    limit: int,
    split: Split = "test",
    seed: int = 0,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
    skip_too_long: bool = False,
    saved: SettingAnswers | None = None,
) -> EvalReport:
    """Answer `limit` items of each family, family by family and short ones first; `on_event` sees
    every trace event.

    `raw` asks without the chat template, for base models. An item that does not fit into the model
    is named in an `OptionError`, or with
    `skip_too_long` left out and counted. `kept` holds answers of an earlier run and takes those of
    this one.
    """
    items = [item for family in families for item in distinct_items(family, split, seed, limit)]
    numbers = indices_in_family(items)
    skipped: dict[str, list[int]] = {}
    if skip_too_long:
        items, numbers, skipped = drop_too_long(lm, items, config, raw)
    samples = answer_items(lm, families, items, config, on_event, raw, saved, numbers)
    first = samples[0].completion.trace.settings if samples else {}
    tasks = {family.name: dict(family.metadata) for family in families}
    asked = {
        "limit": limit,
        "split": split,
        "item_seed": seed,
        "batch_size": lm.batch_size,
        "raw": raw,
        "tasks": tasks,
    }
    return EvalReport(samples, {**first, **asked}, skipped if skip_too_long else None)


def drop_too_long(
    lm: LM, items: Sequence[Item], config: GenerationConfig, raw: bool = False
) -> tuple[list[Item], list[int], dict[str, list[int]]]:
    """The items that fit into the model with their numbers, and by family which do not, counted
    from 1. Raises `OptionError` if none fits.
    """
    fitting = []
    numbers = []
    skipped: dict[str, list[int]] = {}
    for item, number in zip(items, indices_in_family(items)):
        try:
            lm.new_requests([item.prompt], config, raw)
        except TooLongError:
            skipped.setdefault(item.task, []).append(number + 1)
        else:
            fitting.append(item)
            numbers.append(number)
    if items and not fitting:
        raise OptionError(
            "no item fits into the model",
            given=f"gen_length {config.gen_length}",
            hint="Lower --gen-length.",
        )
    return fitting, numbers, skipped


def requests_for(
    lm: LM,
    items: Sequence[Item],
    config: GenerationConfig,
    raw: bool = False,
    numbers: Sequence[int] | None = None,
) -> list[Request]:
    """A row an item. Raises `OptionError` that names the item at fault.

    An item draws by its number among those of its family, whatever other families are asked.
    """
    numbers = indices_in_family(items) if numbers is None else numbers
    try:
        return lm.new_requests([item.prompt for item in items], config, raw, numbers)
    except OptionError:
        for item, number in zip(items, numbers):
            with prefix_errors(f"item {number + 1} of {item.task}"):
                lm.new_requests([item.prompt], config, raw)
        raise


def indices_in_family(items: Sequence[Item]) -> list[int]:
    """The place of each item among those of its family, from 0."""
    counts: dict[str, Iterator[int]] = {item.task: itertools.count() for item in items}
    return [next(counts[item.task]) for item in items]


def answer_items(
    lm: LM,
    families: Sequence[Task],
    items: Sequence[Item],
    config: GenerationConfig,
    on_event: Callable[[Event], None] | None = None,
    raw: bool = False,
    saved: SettingAnswers | None = None,
    numbers: Sequence[int] | None = None,
) -> tuple[ScoredAnswer, ...]:
    """Answer `items` of `families` and judge them; samples in the order of `items`. `numbers` are
    those of the items in their families.

    The work is cut into chunks that are always decoded whole, so that a run that was stopped ends
    with the answers of an undisturbed one.
    """
    by_name = {family.name: family for family in families}
    order = {name: place for place, name in enumerate(by_name)}
    rows = requests_for(lm, items, config, raw, numbers)
    rows.sort(key=lambda row: (order[items[row.index].task], len(row.canvas)))
    size = CHUNK_BATCHES * lm.batch_size
    found: dict[int, ScoredAnswer] = {}
    forwards = 0
    seconds = 0.0
    for first in range(0, len(rows), size):
        chunk = _chunk(lm, by_name, items, rows[first : first + size], on_event, saved)
        traces = [sample.completion.trace for sample in chunk.values()]
        found |= {index: _later(sample, forwards, seconds) for index, sample in chunk.items()}
        forwards += 1 + max((step.forward for trace in traces for step in trace.steps), default=0)
        seconds += max((trace.finish.seconds for trace in traces if trace.finish), default=0.0)
    return tuple(found[index] for index in range(len(items)))


def _chunk(
    lm: LM,
    families: Mapping[str, Task],
    items: Sequence[Item],
    rows: Sequence[Request],
    on_event: Callable[[Event], None] | None,
    kept: SettingAnswers | None,
) -> dict[int, ScoredAnswer]:
    """The samples of some rows by the number of their item: those kept, or all decoded together and
    those kept that are not yet.
    """
    known = {} if kept is None else kept.by_item
    found = {
        row.index: _sample_of(lm, row, items[row.index], known[row.index])
        for row in rows
        if row.index in known
    }
    if len(found) == len(rows):
        return found
    traces = {row.index: lm.new_trace(row) for row in rows}
    by_index = {row.index: row for row in rows}
    for event in lm.events(rows):
        trace = traces[event.row]
        trace.add(event)
        if event.row in found:
            continue
        if isinstance(event, FinishEvent):
            item = items[event.row]
            sample = score_answer(
                families[item.task], item, lm.completion(by_index[event.row], trace)
            )
            found[event.row] = sample
            if kept is not None:
                kept.add(event.row, _record_of(sample))
        if on_event is not None:
            on_event(event)
    return found


def _record_of(sample: ScoredAnswer) -> dict[str, Any]:
    """A sample as a line of what is kept."""
    completion = sample.completion
    return {
        "text": completion.text,
        "right": sample.right,
        "grade": sample.grade,
        **compact_trace(completion.trace),
    }


def _sample_of(lm: LM, row: Request, item: Item, record: dict[str, Any]) -> ScoredAnswer:
    """The sample of a kept line."""
    trace = restore_trace(record, lm.new_trace(row))
    completion = Completion(record["text"], record["finish"]["reason"], trace)
    return ScoredAnswer(item, completion, record["right"], record["grade"])


def _later(sample: ScoredAnswer, forwards: int, seconds: float) -> ScoredAnswer:
    completion = sample.completion
    return replace(
        sample,
        completion=replace(completion, trace=shift_trace(completion.trace, forwards, seconds)),
    )


def score_answer(family: Task, item: Item, answer: Completion) -> ScoredAnswer:
    """An answer with its verdict."""
    grade = None if family.partial_credit is None else family.partial_credit(answer.text, item)
    return ScoredAnswer(item, answer, family.score(answer.text, item), grade)
