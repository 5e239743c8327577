"""What `credit adapt` learns from: conversations of files and items of tasks, as rows of ids."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import torch

from creditdecoding.errors import OptionError
from creditdecoding.tasks import benchmarks, custom, load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items
from creditdecoding.tasks.benchmarks.files import read
from creditdecoding.text.prompts import Message
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.complementary import COPIES, noisy_start
from creditdecoding.train.objective import TrainingBatch
from creditdecoding.train.rows import Row, check_can_train, padded

SAMPLE = 100  # rows of a source that are tried before a run begins
MOST_MISFITS = 0.98  # share of a source's rows that may fit into no bucket

Shape = tuple[int, int]
"""Positions of a bucket's clean rows and of a noisy copy."""


@dataclass(frozen=True)
class Example:
    """A conversation and the answer to it. `grade` scores another answer, 0 to 1."""

    source: str
    messages: Sequence[Message]
    answer: str
    grade: Callable[[str], float]


@dataclass(frozen=True)
class Source:
    """One file or task: `draw` makes an example to train on, `held_out` are never drawn. `weight`
    is how often it is drawn from, relative to the others.
    """

    name: str
    weight: float
    draw: Callable[[random.Random], Example]
    held_out: Sequence[Example]


def load_sources(specs: Sequence[str], held_out: int) -> list[Source]:
    """The sources that specs like FILE, TASK or TASK@2 name, with `held_out` examples of each. A
    spec of several tasks (pocket) shares its weight among them. Raises `OptionError`.
    """
    if not specs:
        raise OptionError(
            "there is nothing to learn from",
            hint="Give --data with a file of conversations or a task, or --self.",
        )
    return [source for spec in specs for source in _load(spec, held_out)]


def _load(spec: str, held_out: int) -> list[Source]:
    name, weight = name_and_weight(spec)
    if custom.is_file(name) and _has_messages(Path(name)):
        return [_conversations(name, weight, held_out)]
    tasks = load_tasks(name)
    return [_task_source(task, weight / len(tasks), held_out) for task in tasks]


def name_and_weight(spec: str) -> tuple[str, float]:
    """The two parts of NAME@WEIGHT; without @ the weight is 1. Raises `OptionError`."""
    name, mark, text = spec.rpartition("@")
    if not mark:
        return spec, 1.0
    try:
        weight = float(text)
    except ValueError:
        if benchmarks.is_benchmark(spec):
            return spec, 1.0  # what follows @ is a template
        weight = 0.0
    if not 0 < weight < 1e6:
        raise OptionError(
            "no weight after @",
            given=spec,
            allowed="a number above 0",
            hint="Write it like pocket@2.",
        )
    return name, weight


def _has_messages(path: Path) -> bool:
    first = next(iter(read(path)), None)
    return first is not None and "messages" in first[1]


def _conversations(
    name: str,
    weight: float,
    held_out: int,
) -> Source:
    """A file of {"messages": [...]}: every assistant message is an answer to what is before it."""
    examples = [
        example
        for location, record in read(Path(name))
        for example in _turns(name, location, record)
    ]
    kept: list[Example] = []
    train: list[Example] = []
    for example in examples:
        key = tuple(message["content"] for message in example.messages)
        is_train = Item("conversation", key[-1], example.answer, None, key).split == "train"
        (train if is_train else kept).append(example)
    if not train:
        raise OptionError(
            "too few conversations in this file",
            given=f"{len(examples)} in {name}",
            hint="Give more; one in seven is held out.",
        )
    return Source(name, weight, lambda rng: rng.choice(train), kept[:held_out])


def _turns(
    name: str,
    location: str,
    record: Mapping[str, Any],
) -> Iterator[Example]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise OptionError(
            "no conversation",
            given=location,
            allowed='{"messages": [{"role": "user", "content": ...}, ...]} with texts that are '
            "not empty",
            hint="Correct the line.",
        )
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or answers[0] == 0:
        raise OptionError(
            "a conversation without a question and its answer",
            given=location,
            allowed="a user's message, then the assistant's",
            hint="Correct the line.",
        )
    for i in answers:
        answer = messages[i]["content"]
        yield Example(name, messages[:i], answer, _similarity(answer))


def _is_message(message: object) -> bool:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    return isinstance(content, str) and bool(content.strip())


def _similarity(reference: str) -> Callable[[str], float]:
    """How alike the words of an answer and of the reference are, 0 to 1."""
    words = reference.split()
    return lambda text: SequenceMatcher(None, text.split(), words, autojunk=False).ratio()


def _task_source(
    task: Task,
    weight: float,
    held_out: int,
) -> Source:
    check_can_train([task])

    def example(item: Item) -> Example:
        messages = [{"role": "user", "content": item.prompt}]
        return Example(task.name, messages, item.answer, lambda text: float(task.score(text, item)))

    def draw(rng: random.Random) -> Example:
        while True:
            item = task.make(rng)
            if item.split == "train":
                return example(item)

    if task.fixed_items is None:
        kept = distinct_items(task, "dev", 0, held_out) if held_out else []
        return Source(task.name, weight, draw, [example(item) for item in kept])
    items = task.fixed_items
    train = [item for item in items if item.split == "train"]
    others = [item for item in items if item.split != "train"][:held_out]
    return Source(
        task.name,
        weight,
        lambda rng: example(rng.choice(train)),
        [example(item) for item in others],
    )


class RowMaker:
    """Draws the rows of a step from the sources, in batches of one shape each."""

    def __init__(
        self,
        config: AdaptConfig,
        tokenizer: Tokenizer,
        end_of_turn: int,
    ) -> None:
        self.shapes = list(config.shapes())
        self.block = config.block_length
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn
        self.rows_of = {
            shape: max(1, config.batch_positions // (shape[0] + COPIES * shape[1]))
            for shape in self.shapes
        }

    def encode(self, example: Example) -> Row:
        """The ids of an example."""
        prompt = self.tokenizer.encode_chat(example.messages)
        return prompt, [*self.tokenizer.encode_plain(example.answer), self.end_of_turn]

    def shape_of(self, row: Row) -> Shape | None:
        """The first bucket that a row fits into with its noisy copy; None if there is none."""
        prompt, answer = row
        start = noisy_start(torch.tensor(len(prompt)), self.block).item()
        end = len(prompt) + len(answer)
        fitting = (s for s in self.shapes if end <= s[0] and end - start <= s[1])
        return next(fitting, None)

    def left_out(self, source: Source) -> float:
        """The share of a source's rows that fit into no bucket, from a sample.

        Raises `OptionError` if hardly any fits.
        """
        rng = random.Random(0)
        rows = [self.encode(source.draw(rng)) for _ in range(SAMPLE)]
        misfits = [row for row in rows if self.shape_of(row) is None]
        if len(misfits) > MOST_MISFITS * SAMPLE:
            prompt, answer = misfits[0]
            raise OptionError(
                f"hardly any row of {source.name} fits into a bucket",
                given=f"{len(prompt)} ids of a prompt, {len(answer)} of an answer",
                allowed=", ".join(f"{length}:{width}" for length, width in self.shapes),
                hint="Give longer --buckets.",
            )
        return len(misfits) / SAMPLE

    def draw(
        self,
        sources: Sequence[Source],
        rng: random.Random,
    ) -> tuple[Row, Shape]:
        """A row that fits, and its bucket."""
        weights = [source.weight for source in sources]
        while True:
            source = rng.choices(sources, weights)[0]
            row = self.encode(source.draw(rng))
            shape = self.shape_of(row)
            if shape is not None:
                return row, shape

    def batch(
        self,
        sources: Sequence[Source],
        rng: random.Random,
    ) -> tuple[TrainingBatch, Shape]:
        """A full batch of one bucket, its rows filled up with the end of turn. Every row of the
        data is as likely as any other: a bucket of many rows is taken less often.
        """
        fewest = min(self.rows_of.values())
        while True:
            row, shape = self.draw(sources, rng)
            if rng.random() < fewest / self.rows_of[shape]:
                break
        rows = [row]
        while len(rows) < self.rows_of[shape]:
            row, other = self.draw(sources, rng)
            if other == shape:
                rows.append(row)
        return padded(rows, shape[0], self.end_of_turn), shape
