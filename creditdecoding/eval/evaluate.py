"""Scores a model with one decoder: score, forward passes and tokens by task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request
from creditdecoding.errors import OptionError, TooLongError, prefix_errors
from creditdecoding.eval.model_timer import ModelTimer
from creditdecoding.eval.saved_answers import (
    SettingAnswers,
    restore_trace,
    shift_trace,
    trace_record,
)
from creditdecoding.lm import LM, Completion
from creditdecoding.tasks.base import Item, Split, Task, distinct_items, items_digest
from creditdecoding.trace import Event, FinishEvent, Totals, total

CHUNK_BATCHES = 4
"""A chunk holds as many rows as this many full batches."""

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer to an item, whether it is right, and partial credit (F1) if the task has it."""

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
            "right": None if self.item.is_open else self.right,
            **({} if self.grade is None else {"f1": round(self.grade, 4)}),
            "nfe": self.completion.nfe,
            "tokens": self.completion.trace.token_count,
        }


@dataclass(frozen=True)
class EvalReport:
    """All answers of an evaluation and its settings.

    `skipped` has by task the numbers, from 1, of items left out because they do not fit; None if
    leaving out was not asked for. `outside_share` is the share of the decoding time outside of the
    model's forward passes, None if no answer was decoded or the model cannot be timed.
    """

    samples: tuple[ScoredAnswer, ...]
    settings: dict[str, Any]
    skipped: dict[str, list[int]] | None = None
    outside_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Score (mean over tasks, in %), NFE, TPF and TPS; the same by task; settings.

        Open text has no score: None, and no part in the mean. `items_digest` identifies the items.
        """
        tasks = dict.fromkeys(sample.item.task for sample in self.samples)
        by_task = {
            name: _task_numbers([s for s in self.samples if s.item.task == name]) for name in tasks
        }
        totals = total([sample.completion.trace for sample in self.samples])
        scores = [n["score"] for n in by_task.values() if n["score"] is not None]
        report = {
            "score": round(sum(scores) / len(scores), 2) if scores else None,
            **_speed(totals, totals.seconds),
            "items": totals.requests,
            "items_digest": items_digest(sample.item for sample in self.samples),
            "sequence_forwards": totals.sequence_forwards,
            "batch_forwards": totals.forwards,
            "tokens": totals.tokens,
            "seconds": round(totals.seconds, 2),
            "outside_share": self.outside_share,
            "families": by_task,
        }
        if self.skipped is not None:
            report["skipped"] = sum(map(len, self.skipped.values()))
            report["skipped_items"] = self.skipped
        return {**report, "settings": self.settings}


def _speed(totals: Totals, seconds: float) -> dict[str, float]:
    return {
        "nfe": round(totals.nfe, 3),
        "tpf": round(totals.tpf, 3),
        "tps": round(totals.tokens / seconds, 1) if seconds else 0.0,
    }


def _task_numbers(samples: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """The numbers of one task; its tokens per second are over the time in which it ran."""
    traces = [sample.completion.trace for sample in samples]
    totals = total(traces)
    ends = [trace.finish for trace in traces if trace.finish is not None]
    first = min((end.began for end in ends), default=0.0)
    seconds = max((end.seconds for end in ends), default=0.0) - first
    score = round(100 * sum(sample.right for sample in samples) / len(samples), 2)
    numbers = {
        "score": None if samples[0].item.is_open else score,
        **_speed(totals, seconds),
        "items": len(samples),
        "items_digest": items_digest(sample.item for sample in samples),
    }
    grades = [sample.grade for sample in samples if sample.grade is not None]
    if grades:
        numbers["f1"] = round(100 * sum(grades) / len(grades), 2)
    return numbers


def evaluate(
    lm: LM,
    tasks: Sequence[Task],
    config: GenerationConfig,
    limit: int,
    split: Split = "test",
    seed: int = 0,
    on_event: OnEvent | None = None,
    raw: bool = False,
    skip_too_long: bool = False,
    saved: SettingAnswers | None = None,
) -> EvalReport:
    """Answer `limit` items of each task, task by task and short ones first.

    `on_event` gets every trace event; `raw` leaves out the chat template, for base models. An item
    that does not fit into the model raises `OptionError`, or with `skip_too_long` is left out.
    `saved` has answers of an interrupted run, and gets those of this one.
    """
    items = [item for task in tasks for item in distinct_items(task, split, seed, limit)]
    numbers = indices_in_task(items)
    skipped: dict[str, list[int]] = {}
    if skip_too_long:
        items, numbers, skipped = drop_too_long(lm, items, config, raw)
    with ModelTimer(lm) as timer:
        samples = answer_items(lm, tasks, items, config, on_event, raw, saved, numbers, timer)
    settings = {
        **(samples[0].completion.trace.settings if samples else {}),
        "limit": limit,
        "split": split,
        "item_seed": seed,
        "batch_size": lm.batch_size,
        "raw": raw,
        "tasks": {task.name: dict(task.metadata) for task in tasks},
    }
    share = timer.outside_share
    return EvalReport(
        samples,
        settings,
        skipped=skipped if skip_too_long else None,
        outside_share=None if share is None else round(share, 4),
    )


def drop_too_long(
    lm: LM, items: Sequence[Item], config: GenerationConfig, raw: bool = False
) -> tuple[list[Item], list[int], dict[str, list[int]]]:
    """The items that fit with their indices, and by task the numbers, from 1, of the others.

    Raises `OptionError` if none fits.
    """
    fitting = []
    indices = []
    skipped: dict[str, list[int]] = {}
    for item, index in zip(items, indices_in_task(items)):
        try:
            lm.new_requests([item.prompt], config, raw)
        except TooLongError:
            skipped.setdefault(item.task, []).append(index + 1)
        else:
            fitting.append(item)
            indices.append(index)
    if items and not fitting:
        raise OptionError(
            "no item fits into the model",
            given=f"gen_length {config.gen_length}",
            hint="Lower --gen-length.",
        )
    return fitting, indices, skipped


def requests_for(
    lm: LM,
    items: Sequence[Item],
    config: GenerationConfig,
    raw: bool = False,
    indices: Sequence[int] | None = None,
) -> list[Request]:
    """A request for each item. Raises `OptionError` that names the item at fault.

    An item draws by its index among those of its task, whatever other tasks are asked.
    """
    indices = indices_in_task(items) if indices is None else indices
    try:
        return lm.new_requests([item.prompt for item in items], config, raw, indices)
    except OptionError:
        for item, index in zip(items, indices):
            with prefix_errors(f"item {index + 1} of {item.task}"):
                lm.new_requests([item.prompt], config, raw)
        raise


def indices_in_task(items: Sequence[Item]) -> list[int]:
    """The index of each item among those of its task."""
    counts: dict[str, Iterator[int]] = {item.task: itertools.count() for item in items}
    return [next(counts[item.task]) for item in items]


def answer_items(
    lm: LM,
    tasks: Sequence[Task],
    items: Sequence[Item],
    config: GenerationConfig,
    on_event: OnEvent | None = None,
    raw: bool = False,
    saved: SettingAnswers | None = None,
    indices: Sequence[int] | None = None,
    timer: ModelTimer | None = None,
) -> tuple[ScoredAnswer, ...]:
    """Answer items and score the answers, in the order of the items.

    The work is cut into chunks that are always decoded whole, so that an interrupted run ends with
    the answers of an undisturbed one.
    """
    by_name = {task.name: task for task in tasks}
    order = {name: number for number, name in enumerate(by_name)}
    requests = requests_for(lm, items, config, raw, indices)
    requests.sort(key=lambda request: (order[items[request.index].task], len(request.canvas)))
    size = CHUNK_BATCHES * lm.batch_size
    answers: dict[int, ScoredAnswer] = {}
    forwards = 0
    seconds = 0.0
    for first in range(0, len(requests), size):
        chunk = requests[first : first + size]
        scored = _answer_chunk(lm, by_name, items, chunk, on_event, saved, timer)
        answers |= _shifted(scored, forwards, seconds)
        traces = [answer.completion.trace for answer in scored.values()]
        forwards += 1 + max((step.forward for trace in traces for step in trace.steps), default=0)
        seconds += max((trace.finish.seconds for trace in traces if trace.finish), default=0.0)
    return tuple(answers[index] for index in range(len(items)))


def _shifted(
    answers: Mapping[int, ScoredAnswer], forwards: int, seconds: float
) -> dict[int, ScoredAnswer]:
    """The answers of a chunk with their passes and times counted from the start of the run."""
    shifted = {}
    for index, answer in answers.items():
        trace = shift_trace(answer.completion.trace, forwards, seconds)
        shifted[index] = replace(answer, completion=replace(answer.completion, trace=trace))
    return shifted


def _answer_chunk(
    lm: LM,
    tasks: Mapping[str, Task],
    items: Sequence[Item],
    requests: Sequence[Request],
    on_event: OnEvent | None,
    saved: SettingAnswers | None,
    timer: ModelTimer | None,
) -> dict[int, ScoredAnswer]:
    """The answers of a chunk by the index of their item: those saved, or all decoded together."""
    known = {} if saved is None else saved.by_item
    answers = {
        request.index: _restore(lm, request, items[request.index], known[request.index])
        for request in requests
        if request.index in known
    }
    if len(answers) == len(requests):
        return answers

    def on_new_event(event: Event) -> None:
        if on_event is not None and event.row not in known:
            on_event(event)

    completions = stream_answers(lm, requests, on_new_event)
    for index, completion in completions if timer is None else timer.over(completions):
        if index not in known:
            answer = score_answer(tasks[items[index].task], items[index], completion)
            answers[index] = answer
            if saved is not None:
                saved.add(index, _saved_record(answer, saved.whole_traces))
    return answers


def stream_answers(
    lm: LM, requests: Sequence[Request], on_event: OnEvent | None = None
) -> Iterator[tuple[int, Completion]]:
    """Decode requests; each index with its answer as soon as it ends."""
    by_index = {request.index: request for request in requests}
    traces = {request.index: lm.new_trace(request) for request in requests}
    for event in lm.events(requests):
        traces[event.row].add(event)
        if isinstance(event, FinishEvent):
            yield event.row, lm.completion(by_index[event.row], traces[event.row])
        if on_event is not None:
            on_event(event)


def score_answer(task: Task, item: Item, answer: Completion) -> ScoredAnswer:
    """An answer with its verdict."""
    grade = None if task.partial_credit is None else task.partial_credit(answer.text, item)
    return ScoredAnswer(item, answer, task.score(answer.text, item), grade)


def _saved_record(answer: ScoredAnswer, whole_trace: bool) -> dict[str, Any]:
    completion = answer.completion
    verdict = {"text": completion.text, "right": answer.right, "grade": answer.grade}
    return {**verdict, **trace_record(completion.trace, whole_trace)}


def _restore(lm: LM, request: Request, item: Item, record: dict[str, Any]) -> ScoredAnswer:
    trace = restore_trace(record, lm.new_trace(request))
    completion = Completion(record["text"], record["finish"]["reason"], trace)
    return ScoredAnswer(item, completion, record["right"], record["grade"])
