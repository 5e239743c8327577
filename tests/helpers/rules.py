"""Steps of a rule on predictions made from given probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from creditdecoding.decoders import create
from creditdecoding.decoders.base import (
    Block,
    Decision,
    Decoder,
    Prediction,
    Sampling,
    State,
    from_logits,
)

CPU = torch.device("cpu")
VOCAB = 16


def peaks(confidences: Sequence[float], ids: Sequence[int] | None = None) -> Tensor:
    """Distributions [length, vocab] with the given top-1 probabilities, the rest spread evenly."""
    made = torch.tensor([[(1 - c) / (VOCAB - 1)] * VOCAB for c in confidences], dtype=torch.float64)
    made[range(len(confidences)), list(ids or [3] * len(confidences))] = torch.tensor(
        list(confidences), dtype=torch.float64
    )
    return made


def predict(chances: Tensor, masked: Tensor | None = None, **options: Any) -> Prediction:
    """What a decoder sees of distributions [rows, length, vocab] (or of one row)."""
    chances = chances if chances.dim() == 3 else chances[None]
    masked = (
        torch.ones(chances.shape[:2], dtype=torch.bool)
        if masked is None
        else masked.view(chances.shape[:2])
    )
    zero = torch.zeros(len(chances), dtype=torch.long)
    sampling = Sampling(
        zero, torch.arange(chances.shape[1]).expand(len(chances), -1), zero, **options
    )
    return from_logits(chances.log().float(), masked, sampling)


def block_of(seen: Prediction, editable: Tensor | None = None, size: int | None = None) -> Block:
    rows, length = seen.masked.shape
    sizes = torch.full((rows,), length if size is None else size)
    return Block(
        torch.zeros(rows, length, dtype=torch.long),
        seen.masked,
        seen.masked if editable is None else editable,
        sizes,
        torch.zeros_like(sizes),
    )


def step(
    decoder: Decoder, seen: Prediction, state: State | None = None, **options: Any
) -> tuple[Decision, State]:
    state = decoder.init(*seen.masked.shape, seen.logits.shape[1], CPU) if state is None else state
    return decoder.step(seen, block_of(seen, **options), state)


def commits(
    name: str,
    chances: Tensor,
    masked: Tensor | None = None,
    editable: Tensor | None = None,
    **knobs: Any,
) -> list[int]:
    """The columns that a rule without a past commits in a single row."""
    decision, _ = step(create(name, **knobs), predict(chances, masked), editable=editable)
    return decision.commit[0].nonzero()[:, 0].tolist()
