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
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.models.precision import faster_products
from creditdecoding.models.transformer import Transformer
from creditdecoding.train.two_stream import two_stream_mask

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

    def to(self, device: torch.device) -> MaskedBatch:
        """The same batch on `device`."""
        rows, columns = self.loss_positions
        mask = self.attention_mask
        positions = self.positions
        return MaskedBatch(
            tokens=self.tokens.to(device),
            loss_positions=(rows.to(device), columns.to(device)),
            target=self.target.to(device),
            weight=self.weight.to(device),
            attention_mask=None if mask is None else mask.to(device),
            positions=None if positions is None else positions.to(device),
        )


def _mask_ratios(rows: int, generator: torch.Generator) -> Tensor:
    """Mask ratios in [MIN_RATIO, 1], stratified over the rows, in random order."""
    noise = torch.rand(rows, generator=generator)
    strata = (torch.arange(rows) + noise) / rows
    order = torch.randperm(rows, generator=generator)
    shuffled = strata[order]
    return MIN_RATIO + (1 - MIN_RATIO) * shuffled


def mask_uniform(batch: TrainingBatch, mask_id: int, generator: torch.Generator) -> MaskedBatch:
    """Mask the whole answer, padding included, with one ratio a row."""
    ratio = _mask_ratios(len(batch.tokens), generator)[:, None]
    column = torch.arange(batch.tokens.shape[1])[None]
    is_answer = column >= batch.prompt_lengths[:, None]
    noise = torch.rand(batch.tokens.shape, generator=generator)
    masked = (noise < ratio) & is_answer
    weight = (1 / ratio).expand_as(masked)
    return _masked(batch, masked, masked, weight, mask_id)


def mask_block(
    batch: TrainingBatch,
    mask_id: int,
    generator: torch.Generator,
    ordered: bool,
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
        share = torch.rand(rows, 1, generator=generator)
        point = start + (share * (end - start)).long()
        ratio = torch.where(column < point, 0.05, 1.0 - 0.3 * ratio)
    noise = torch.rand(rows, length, generator=generator)
    in_block = (column >= start) & (column < end)
    has_loss = in_block & (noise < ratio)
    masked = has_loss | (column >= end)
    weight = torch.ones_like(ratio) if ordered else 1 / ratio
    return _masked(batch, masked, has_loss, weight, mask_id)


def _random_blocks(batch: TrainingBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Start and end of one block of each answer [rows, 1]."""
    rows = len(batch.tokens)
    sizes = torch.tensor(BLOCK_LENGTHS)
    choice = torch.randint(len(sizes), (rows,), generator=generator)
    size = sizes[choice]
    blocks = (batch.answer_lengths + size - 1) // size
    noise = torch.rand(rows, generator=generator)
    block = (noise * blocks).long()
    start = batch.prompt_lengths + size * block
    end = start + size
    return start[:, None], end[:, None]


def _masked(
    batch: TrainingBatch,
    masked: Tensor,
    has_loss: Tensor,
    weight: Tensor,
    mask_id: int,
) -> MaskedBatch:
    """The rows with the positions `masked` replaced; losses and weights where `has_loss`."""
    rows, columns = has_loss.nonzero(as_tuple=True)
    return MaskedBatch(
        tokens=batch.tokens.masked_fill(masked, mask_id),
        loss_positions=(rows, columns),
        target=batch.tokens[rows, columns],
        weight=weight[rows, columns],
    )


def two_stream(
    batch: TrainingBatch,
    mask_id: int,
    block: int,
    width: int,
    generator: torch.Generator,
) -> MaskedBatch:
    """Clean rows [rows, length] followed by a noisy copy of the first `width` answer positions."""
    rows, length = batch.tokens.shape
    ratio = _two_stream_ratios(rows, block, generator)
    masked = torch.rand(rows, width, generator=generator) < ratio
    offset = torch.arange(width)[None]
    position = batch.prompt_lengths[:, None] + offset
    answer = batch.tokens.gather(1, position.clamp(max=length - 1))
    noisy = answer.masked_fill(masked, mask_id)
    has_loss = masked & _is_trained(batch, offset)
    row, column = has_loss.nonzero(as_tuple=True)
    clean_position = torch.arange(length).expand(rows, -1)
    return MaskedBatch(
        tokens=torch.cat((batch.tokens, noisy), dim=1),
        loss_positions=(row, column + length),
        target=answer[row, column],
        weight=1 / ratio[row, 0],
        attention_mask=_two_stream_mask(batch.prompt_lengths, length, block, width),
        positions=torch.cat((clean_position, position), dim=1),
    )


def _two_stream_ratios(rows: int, block: int, generator: torch.Generator) -> Tensor:
    """The mask ratio of each row [rows, 1]; blocks of one token are always masked."""
    if block == 1:
        return torch.ones(rows, 1)
    return _mask_ratios(rows, generator)[:, None]


def _is_trained(batch: TrainingBatch, offset: Tensor) -> Tensor:
    """Which answer positions have a target: the answer and a little padding, inside the row."""
    length = batch.tokens.shape[1]
    near_answer = offset < batch.answer_lengths[:, None] + PADDING_LOSSES
    in_row = batch.prompt_lengths[:, None] + offset < length
    return near_answer & in_row


def _two_stream_mask(
    prompt_lengths: Tensor,
    length: int,
    block: int,
    width: int,
) -> Tensor:
    """`two_stream_mask` of a row and one noisy copy, with blocks counted from the answer's start.

    The prompt is one block.
    """
    answer_offset = torch.arange(length)[None] - prompt_lengths[:, None]
    clean_block = torch.where(answer_offset < 0, -1, answer_offset // block)
    noisy_block = (torch.arange(width) // block).expand(len(prompt_lengths), -1)
    blocks = torch.cat((clean_block, noisy_block), dim=1)
    return two_stream_mask(blocks, torch.arange(length + width) >= length)


def token_losses(model: Transformer, batch: MaskedBatch) -> Tensor:
    """Cross-entropy of every loss position [n], computed in bfloat16 where that is faster."""
    return F.cross_entropy(loss_logits(model, batch), batch.target, reduction="none")


def loss_logits(
    model: Transformer,
    batch: MaskedBatch,
    extra_embeddings: Tensor | None = None,
    never: int | None = None,
) -> Tensor:
    """Logits of every loss position [n, vocabulary], computed in bfloat16 where that is faster.

    `extra_embeddings` are as in `Transformer.hidden_states`; the id `never` is no candidate.
    """
    rows, columns = batch.loss_positions
    with faster_products(batch.tokens.device):
        hidden = model.hidden_states(
            batch.tokens,
            batch.attention_mask,
            batch.positions,
            extra_embeddings=extra_embeddings,
        )
        logits = model.logits(hidden[rows, columns])
    logits = logits.float()
    if never is not None:
        logits[:, never] = float("-inf")
    return logits
