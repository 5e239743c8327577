"""The masked-diffusion objective: what is masked, what each position may see, and what the loss
weighs.

Three ways of corrupting a row [prompt | answer, end of turn, end of text ...]:

- `uniform`: LLaDA's. Every answer position is masked with probability t, weight 1/t (arXiv
  2502.09992, Eq. 3).
- `blockwise`: as block-by-block decoding sees it. Blocks before are clean, blocks after are all
  masks, some masks inside.
- `two_stream`: block diffusion's training pass (arXiv 2503.09573): a clean copy of the answer rides
  beside the noisy one, and
  a noisy block sees itself and the clean blocks before it. At block length 1 this is next-token
  prediction through mask
  tokens, ten times as many useful losses a row; it teaches copying and arithmetic early, in the
  form decoding uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingBatch:
    """Rows of equal length: tokens [rows, length], length of each prompt and of each answer with
    its end of turn [rows].
    """

    tokens: Tensor
    prompt_lengths: Tensor
    answer_lengths: Tensor


@dataclass(frozen=True)
class MaskedBatch:
    """Network input and loss: `read` are (row, column) of masked positions, `target` and `weight`
    [n] belong to them.
    """

    tokens: Tensor
    loss_positions: tuple[Tensor, Tensor]
    target: Tensor
    weight: Tensor
    attention_mask: Tensor | None = None
    positions: Tensor | None = None


def _ratios(rows: int, generator: torch.Generator) -> Tensor:
    """Mask ratios in [0.02, 1], stratified over the rows, in random order."""
    strata = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    return 0.02 + 0.98 * strata[torch.randperm(rows, generator=generator)]


def mask_uniform(batch: TrainingBatch, mask_id: int, generator: torch.Generator) -> MaskedBatch:
    """LLaDA's corruption of the whole answer, padding included."""
    t = _ratios(len(batch.tokens), generator)[:, None]
    column = torch.arange(batch.tokens.shape[1])[None]
    masked = (torch.rand(batch.tokens.shape, generator=generator) < t) & (
        column >= batch.prompt_lengths[:, None]
    )
    return _corrupted(batch, masked, masked, (1 / t).expand_as(masked), mask_id)


def mask_block(
    batch: TrainingBatch, mask_id: int, generator: torch.Generator, ordered: bool
) -> MaskedBatch:
    """One block of 16, 32 or 64, the answer before it clean, all after it masked and without loss.

    Inside the block each position is masked with probability t; if `ordered`, more often behind a
    random point (0.7 to 1)
    than before it (0.05), as when a decoder is held up by the first token it is not sure of.
    """
    rows, length = batch.tokens.shape
    size = torch.tensor([16, 32, 64])[torch.randint(3, (rows,), generator=generator)]
    blocks = (batch.answer_lengths + size - 1) // size
    start = (batch.prompt_lengths + size * (torch.rand(rows, generator=generator) * blocks).long())[
        :, None
    ]
    end = start + size[:, None]
    column = torch.arange(length)[None]
    t = _ratios(rows, generator)[:, None].expand(rows, length)
    if ordered:
        point = start + (torch.rand(rows, 1, generator=generator) * (end - start)).long()
        t = torch.where(column < point, 0.05, 1.0 - 0.3 * t)
    lossy = (column >= start) & (column < end) & (torch.rand(rows, length, generator=generator) < t)
    weight = torch.ones_like(t) if ordered else 1 / t
    return _corrupted(batch, lossy | (column >= end), lossy, weight, mask_id)


def _corrupted(
    batch: TrainingBatch, masked: Tensor, lossy: Tensor, weight: Tensor, mask_id: int
) -> MaskedBatch:
    read = lossy.nonzero(as_tuple=True)
    return MaskedBatch(
        batch.tokens.masked_fill(masked, mask_id),
        (read[0], read[1]),
        batch.tokens[read],
        weight[read],
    )


def two_stream(
    batch: TrainingBatch, mask_id: int, block: int, width: int, generator: torch.Generator
) -> MaskedBatch:
    """Clean rows with a noisy copy of the first `width` answer positions appended; see the module's
    text.
    """
    rows, length = batch.tokens.shape
    t = _ratios(rows, generator)[:, None] if block > 1 else torch.ones(rows, 1)
    offset = torch.arange(width)[None]
    column = batch.prompt_lengths[:, None] + offset
    clean = batch.tokens.gather(1, column.clamp(max=length - 1))
    masked = torch.rand(rows, width, generator=generator) < t
    lossy = masked & (offset < batch.answer_lengths[:, None] + 4) & (column < length)
    place = torch.arange(length)[None] - batch.prompt_lengths[:, None]
    group = torch.cat(
        (torch.where(place < 0, -1, place // block), (offset // block).expand(rows, -1)), dim=1
    )
    noisy = torch.arange(length + width) >= length
    query, key = group[:, :, None], group[:, None, :]
    noisy_query, noisy_key = noisy[:, None], noisy[None, :]
    allowed = torch.where(
        noisy_key, noisy_query & (query == key), torch.where(noisy_query, key < query, key <= query)
    )
    tokens = torch.cat((batch.tokens, clean.masked_fill(masked, mask_id)), dim=1)
    positions = torch.cat((torch.arange(length).expand(rows, -1), column), dim=1)
    row, at = lossy.nonzero(as_tuple=True)
    return MaskedBatch(
        tokens,
        (row, at + length),
        clean[row, at],
        (1 / t).expand_as(lossy)[row, at],
        allowed,
        positions,
    )
