"""Training rows from the tasks: the same batches for the same seed and step, so that a run resumes
without saving its place in the data.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import torch

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.tasks.base import Item, Task
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.objective import TrainingBatch

LENGTH_MULTIPLE = 32  # of row lengths, so that few shapes are compiled
LONGEST_EXTENDED = 192  # rows are not extended beyond this
MAX_SHARE = 1000

Row = tuple[list[int], list[int]]
"""Ids of a prompt, and of its answer with the end of turn."""


def with_shares(tasks: Sequence[Task], shares: str) -> list[Task]:
    """The tasks, drawn as often as `shares` says: `NAME=NUMBER`, comma-separated. A task that is
    not named keeps its `train_weight`. Raises `OptionError`.
    """
    weights = {task.name: task.train_weight for task in tasks}
    named = set()
    for part in filter(None, shares.split(",")):
        name, _, number = (text.strip() for text in part.partition("="))
        if name not in weights:
            raise unknown_name("task in --shares", name, weights)
        if name in named:
            raise OptionError(f"the share of {name} is given twice", given=shares, hint="Give one.")
        if not number.isdecimal() or not 1 <= int(number) <= MAX_SHARE:
            raise OptionError(
                "a share is no whole number of turns",
                given=part,
                allowed=f"{name}=1 to {name}={MAX_SHARE}",
                hint="Leave a task out of --tasks to draw none of it.",
            )
        named.add(name)
        weights[name] = int(number)
    return [dataclasses.replace(task, train_weight=weights[task.name]) for task in tasks]


def check_can_train(tasks: Sequence[Task]) -> None:
    """Refuse a task of listed items none of which is in split train. Raises `OptionError`."""
    for task in tasks:
        items = task.fixed_items
        if items is not None and all(item.split != "train" for item in items):
            raise OptionError(
                "too few questions to learn from",
                given=f"{len(items)} in {task.name}, all held out",
                hint="Give more; one in seven is held out.",
            )


def draw_items(tasks: Sequence[Task], count: int, rng: random.Random) -> list[Item]:
    """`count` training items, from the tasks in turn by their weight, starting anywhere."""
    turns = [task for task in tasks for _ in range(task.train_weight)]
    start = rng.randrange(len(turns))
    items: list[Item] = []
    while len(items) < count:
        turn = (start + len(items)) % len(turns)
        item = turns[turn].make(rng)
        if item.split == "train":
            items.append(item)
    return items


def end_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that end a turn and a text; one id where the tokenizer has no other."""
    end = int(tokenizer.backend.eos_token_id)
    return next((i for i in tokenizer.stop_ids if i != end), end), end


def make_batches(
    items: Sequence[Item],
    tokenizer: Tokenizer,
    end_of_turn: int,
    end: int,
    parts: int,
    rng: random.Random,
) -> list[TrainingBatch]:
    """The items as `parts` batches of similar row length, padded with end-of-text to a multiple of
    `LENGTH_MULTIPLE`.

    One batch in five gets up to 96 positions more, as decoding often has more positions than the
    answer needs.
    """
    rows: list[Row] = []
    for item in items:
        message = {"role": "user", "content": item.prompt}
        prompt = tokenizer.encode_chat([message])
        answer = [*tokenizer.encode(item.answer), end_of_turn]
        rows.append((prompt, answer))
    rows.sort(key=_row_length)
    size = len(rows) // parts
    batches = []
    for part in range(parts):
        start = part * size
        part_rows = rows[start : start + size]
        longest = max(map(_row_length, part_rows))
        length = math.ceil(longest / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        if rng.random() < 1 / 5:
            extended = length + LENGTH_MULTIPLE * rng.randint(1, 3)
            length = max(length, min(extended, LONGEST_EXTENDED))
        batches.append(padded(part_rows, length, end))
    return batches


def _row_length(row: Row) -> int:
    prompt, answer = row
    return len(prompt) + len(answer)


def padded(rows: Sequence[Row], length: int, padding: int) -> TrainingBatch:
    """The rows as one batch of `length` columns, filled up with `padding`."""
    tokens = torch.full((len(rows), length), padding)
    for number, (prompt, answer) in enumerate(rows):
        ids = prompt + answer
        tokens[number, : len(ids)] = torch.tensor(ids)
    prompt_lengths = [len(prompt) for prompt, _ in rows]
    answer_lengths = [len(answer) for _, answer in rows]
    return TrainingBatch(
        tokens=tokens,
        prompt_lengths=torch.tensor(prompt_lengths),
        answer_lengths=torch.tensor(answer_lengths),
    )
