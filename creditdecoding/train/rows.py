"""Training rows from the task families: the same batch for the same seed and step, so that a run
resumes without state.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from creditdecoding.tasks.base import Item, Task
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.objective import TrainingBatch

LENGTH_MULTIPLE = 32  # row lengths are multiples of this, so that few shapes are compiled


def draw_items(families: Sequence[Task], count: int, rng: random.Random) -> list[Item]:
    """`count` training items, families in turn by their share, starting anywhere."""
    turn = [family for family in families for _ in range(family.train_weight)]
    start = rng.randrange(len(turn))
    found: list[Item] = []
    while len(found) < count:
        item = turn[(start + len(found)) % len(turn)].make(rng)
        if item.split == "train":
            found.append(item)
    return found


def make_batches(
    items: Sequence[Item],
    tokenizer: Tokenizer,
    end_of_turn: int,
    end: int,
    parts: int,
    rng: random.Random,
) -> list[TrainingBatch]:
    """The items as `parts` batches of near-equal length, each filled up with end-of-text to a
    multiple of `STEP`.

    One part in five gets up to 96 positions more, so that the canvas at decoding time (longer than
    the answer) is no surprise.
    """
    rows = []
    for item in items:
        prompt = tokenizer.encode_chat([{"role": "user", "content": item.prompt}])
        rows.append((prompt, [*tokenizer.encode(item.answer), end_of_turn]))
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    size = len(rows) // parts
    found = []
    for part in range(parts):
        chosen = rows[part * size : (part + 1) * size]
        longest = max(len(prompt) + len(answer) for prompt, answer in chosen)
        length = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        if rng.random() < 1 / 5:
            length = max(length, min(length + LENGTH_MULTIPLE * rng.randint(1, 3), 192))
        tokens = torch.full((len(chosen), length), end)
        for i, (prompt, answer) in enumerate(chosen):
            tokens[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        lengths = torch.tensor([[len(prompt), len(answer)] for prompt, answer in chosen])
        found.append(TrainingBatch(tokens, lengths[:, 0], lengths[:, 1]))
    return found
