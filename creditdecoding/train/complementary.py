"""The objective of `credit adapt`: two noisy copies with complementary masks beside a clean row.

As Fast-dLLM v2 trains (arXiv 2509.26328, section 3): blocks lie on the absolute grid of positions,
logits are shifted by one, and what one copy masks the other shows, so that every token of an answer
is predicted once. The token of position i is read at i - 1: in the same noisy copy, or in the clean
row if i begins a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from creditdecoding.train.objective import MaskedBatch, TrainingBatch
from creditdecoding.train.two_stream import two_stream_mask

COPIES = 2
MIN_RATIO = 0.05
ALL_MASKED_SHARE = 0.2  # of the blocks: decoding begins every block so
PADDING_WEIGHT = 0.15


@dataclass(frozen=True)
class AdaptBatch:
    """What `MaskedBatch` holds, and for each loss its block's `ratio` of masks and its `distance`
    from the last clean token before it, both [n].
    """

    masked: MaskedBatch
    ratio: Tensor
    distance: Tensor


def noisy_start(prompt_lengths: Tensor, block: int) -> Tensor:
    """The position at which the block that holds an answer's first token begins."""
    return prompt_lengths // block * block


def complementary_masks(
    may_mask: Tensor,
    block: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Masks of both copies [rows, width], which together cover `may_mask` and do not overlap.

    Every block has its own ratio, uniform in [MIN_RATIO, 1]; a share of the blocks is masked whole
    in the first copy.
    """
    rows, width = may_mask.shape
    blocks = width // block
    ratio = MIN_RATIO + (1 - MIN_RATIO) * torch.rand(rows, blocks, generator=generator)
    is_whole = torch.rand(rows, blocks, generator=generator) < ALL_MASKED_SHARE
    ratio = torch.where(is_whole, 1.0, ratio).repeat_interleave(block, dim=1)
    noise = torch.rand(rows, width, generator=generator)
    first = (noise < ratio) & may_mask
    return first, may_mask & ~first


@dataclass(frozen=True)
class NoisySpan:
    """The positions [rows, width] that a noisy copy covers, their clean tokens, and which of them
    are predicted: the answer, and padding to the end of the block in which it ends.
    """

    position: Tensor
    clean: Tensor
    is_answer: Tensor
    is_padding: Tensor

    @classmethod
    def of(
        cls,
        batch: TrainingBatch,
        block: int,
        width: int,
    ) -> NoisySpan:
        """The span from the block with each answer's first token."""
        length = batch.tokens.shape[1]
        prompt_end = batch.prompt_lengths[:, None]
        answer_end = prompt_end + batch.answer_lengths[:, None]
        block_end = (answer_end + block - 1) // block * block
        position = noisy_start(prompt_end, block) + torch.arange(width)
        return cls(
            position=position,
            clean=batch.tokens.gather(1, position.clamp(max=length - 1)),
            is_answer=(position >= prompt_end) & (position < answer_end),
            is_padding=(position >= answer_end) & (position < block_end.clamp(max=length)),
        )


def complementary_streams(
    batch: TrainingBatch,
    mask_id: int,
    block: int,
    width: int,
    generator: torch.Generator,
) -> AdaptBatch:
    """The clean rows [rows, length] and two noisy copies of `width` positions from the block with
    the answer's first token. `width` is a multiple of `block`. Padding has a low weight.
    """
    span = NoisySpan.of(batch, block, width)
    masks = complementary_masks(span.is_answer | span.is_padding, block, generator)
    row, column = torch.cat(masks, dim=1).nonzero(as_tuple=True)
    offset = column % width
    positions = _positions(batch, span)
    length = batch.tokens.shape[1]
    masked = MaskedBatch(
        tokens=_tokens(batch, span, masks, mask_id),
        loss_positions=(row, _read_column(span.position[row, offset], length + column, block)),
        target=span.clean[row, offset],
        weight=torch.where(span.is_padding[row, offset], PADDING_WEIGHT, 1.0),
        attention_mask=_attention_mask(positions, block, width),
        positions=positions,
    )
    return AdaptBatch(masked, *_ratio_and_distance(masks, block))


def _tokens(
    batch: TrainingBatch,
    span: NoisySpan,
    masks: tuple[Tensor, ...],
    mask_id: int,
) -> Tensor:
    """Clean rows and noisy copies, one after the other."""
    noisy = [span.clean.masked_fill(masked, mask_id) for masked in masks]
    return torch.cat((batch.tokens, *noisy), dim=1)


def _positions(batch: TrainingBatch, span: NoisySpan) -> Tensor:
    clean = torch.arange(batch.tokens.shape[1]).expand(len(batch.tokens), -1)
    return torch.cat((clean, *[span.position] * COPIES), dim=1)


def _attention_mask(
    positions: Tensor,
    block: int,
    width: int,
) -> Tensor:
    length = positions.shape[1] - COPIES * width
    sizes = torch.tensor([length, *[width] * COPIES])
    streams = torch.arange(1 + COPIES).repeat_interleave(sizes)
    return two_stream_mask(positions // block, streams)


def _read_column(
    position: Tensor,
    column: Tensor,
    block: int,
) -> Tensor:
    """The column at which the logits of each loss are read."""
    begins_block = position % block == 0
    return torch.where(begins_block, position - 1, column - 1)


def _ratio_and_distance(masks: tuple[Tensor, ...], block: int) -> tuple[Tensor, Tensor]:
    """`ratio` and `distance` of an `AdaptBatch`."""
    by_block = torch.stack(masks, dim=1).unflatten(-1, (-1, block))
    ratio = by_block.float().mean(-1, keepdim=True).expand(by_block.shape)
    return ratio[by_block], _distance(by_block)[by_block]


def _distance(masked: Tensor) -> Tensor:
    """How many positions before each one the last clean token of the text is; blocks are the last
    axis, and the token before a block is clean.
    """
    index = torch.arange(masked.shape[-1])
    last_clean = torch.where(masked, -1, index).cummax(dim=-1).values
    return index - last_clean
