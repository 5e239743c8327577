"""The masked-diffusion objective: what is masked, what each position sees, and the loss weights.

Three ways of masking a row [prompt | answer, end of turn, end of text ...]:

- `mask_uniform`: LLaDA's. Every answer position is masked with probability t, weight 1/t (arXiv
  2502.09992, Eq. 3).
- `mask_block`: as in block-by-block decoding. Blocks before are clean, blocks after are all masks,
  some positions of the block are masks.
- `two_stream`: the training pass of block diffusion (arXiv 2503.09573). The row holds a clean and a
  noisy copy of the answer; a noisy block sees itself and the clean blocks before it. At block
  length 1 this is next-token prediction through mask tokens, with ten times as many losses a row;
  it teaches copying and arithmetic early, in the form that decoding uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_RATIO = 0.02
BLOCK_LENGTHS = (16, 32, 64)
PADDING_LOSSES = 4  # end-of-text positions after an answer that `two_stream` trains


@dataclass(frozen=True)
class TrainingBatch:
    """Rows of equal length: `tokens` [rows, length], the length of each prompt and of each answer
    with its end of turn [rows].
    """

    tokens: Tensor
    prompt_lengths: Tensor
    answer_lengths: Tensor


@dataclass(frozen=True)
class MaskedBatch:
    """Network input and loss: `loss_positions` are (row, column) of the masks that are predicted,
    `target` and `weight` [n] belong to them.
    """

    tokens: Tensor
    loss_positions: tuple[Tensor, Tensor]
    target: Tensor
    weight: Tensor
    attention_mask: Tensor | None = None
    positions: Tensor | None = None


def _mask_ratios(rows: int, generator: torch.Generator) -> Tensor:
    """Mask ratios in [MIN_RATIO, 1], stratified over the rows, in random order."""
    strata = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    shuffled = strata[torch.randperm(rows, generator=generator)]
    return MIN_RATIO + (1 - MIN_RATIO) * shuffled


def mask_uniform(batch: TrainingBatch, mask_id: int, generator: torch.Generator) -> MaskedBatch:
    """Mask the whole answer, padding included, with one ratio a row."""
    ratio = _mask_ratios(len(batch.tokens), generator)[:, None]
    column = torch.arange(batch.tokens.shape[1])[None]
    is_answer = column >= batch.prompt_lengths[:, None]
    masked = (torch.rand(batch.tokens.shape, generator=generator) < ratio) & is_answer
    return _masked(batch, masked, masked, (1 / ratio).expand_as(masked), mask_id)


def mask_block(
    batch: TrainingBatch, mask_id: int, generator: torch.Generator, ordered: bool
) -> MaskedBatch:
    """Mask some of one block; the answer before it is clean, all after it is masked without loss.

    Positions of the block are masked with one ratio a row. If `ordered`, they are masked rarely
    before a random point (0.05) and mostly after it (0.7 to 1), as when a decoder waits for the
    first token that it is not sure of.
    """
    rows, length = batch.tokens.shape
    start, end = _random_blocks(batch, generator)
    column = torch.arange(length)[None]
    ratio = _mask_ratios(rows, generator)[:, None].expand(rows, length)
    if ordered:
        point = start + (torch.rand(rows, 1, generator=generator) * (end - start)).long()
        ratio = torch.where(column < point, 0.05, 1.0 - 0.3 * ratio)
    is_drawn = torch.rand(rows, length, generator=generator) < ratio
    has_loss = (column >= start) & (column < end) & is_drawn
    weight = torch.ones_like(ratio) if ordered else 1 / ratio
    return _masked(batch, has_loss | (column >= end), has_loss, weight, mask_id)


def _random_blocks(batch: TrainingBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Start and end of one block of each answer [rows, 1]."""
    rows = len(batch.tokens)
    choice = torch.randint(len(BLOCK_LENGTHS), (rows,), generator=generator)
    size = torch.tensor(BLOCK_LENGTHS)[choice]
    blocks = (batch.answer_lengths + size - 1) // size
    block = (torch.rand(rows, generator=generator) * blocks).long()
    start = (batch.prompt_lengths + size * block)[:, None]
    return start, start + size[:, None]


def _masked(
    batch: TrainingBatch, masked: Tensor, has_loss: Tensor, weight: Tensor, mask_id: int
) -> MaskedBatch:
    rows, columns = has_loss.nonzero(as_tuple=True)
    return MaskedBatch(
        tokens=batch.tokens.masked_fill(masked, mask_id),
        loss_positions=(rows, columns),
        target=batch.tokens[rows, columns],
        weight=weight[rows, columns],
    )


def two_stream(
    batch: TrainingBatch, mask_id: int, block: int, width: int, generator: torch.Generator
) -> MaskedBatch:
    """Clean rows [rows, length] followed by a noisy copy of the first `width` answer positions."""
    rows, length = batch.tokens.shape
    ratio = _mask_ratios(rows, generator)[:, None] if block > 1 else torch.ones(rows, 1)
    masked = torch.rand(rows, width, generator=generator) < ratio
    offset = torch.arange(width)[None]
    position = batch.prompt_lengths[:, None] + offset
    clean = batch.tokens.gather(1, position.clamp(max=length - 1))
    is_trained = (offset < batch.answer_lengths[:, None] + PADDING_LOSSES) & (position < length)
    row, column = (masked & is_trained).nonzero(as_tuple=True)
    return MaskedBatch(
        tokens=torch.cat((batch.tokens, clean.masked_fill(masked, mask_id)), dim=1),
        loss_positions=(row, column + length),
        target=clean[row, column],
        weight=(1 / ratio).expand_as(masked)[row, column],
        attention_mask=_two_stream_mask(batch.prompt_lengths, length, block, width),
        positions=torch.cat((torch.arange(length).expand(rows, -1), position), dim=1),
    )


def _two_stream_mask(prompt_lengths: Tensor, length: int, block: int, width: int) -> Tensor:
    """Which keys each query sees [rows, length + width, length + width].

    Clean queries see clean blocks up to their own, noisy ones the clean blocks before and their own
    noisy block. The prompt is one block.
    """
    answer_offset = torch.arange(length)[None] - prompt_lengths[:, None]
    clean_block = torch.where(answer_offset < 0, -1, answer_offset // block)
    noisy_block = (torch.arange(width) // block).expand(len(prompt_lengths), -1)
    blocks = torch.cat((clean_block, noisy_block), dim=1)
    query, key = blocks[:, :, None], blocks[:, None, :]
    is_noisy = torch.arange(length + width) >= length
    noisy_query, noisy_key = is_noisy[:, None], is_noisy[None, :]
    sees_clean = torch.where(noisy_query, key < query, key <= query)
    return torch.where(noisy_key, noisy_query & (query == key), sees_clean)
