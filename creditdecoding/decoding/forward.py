"""One forward pass: from requests to the logits at their positions.

`logits_at` leaves out requests that share a row with another, adds an unconditional row for each
guided request, runs the model once, mixes the guided logits, and rules out what must not be
written. `_lay_out` makes the rows: the columns that the cache policies ask for, padding, and
leave-one-out columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.decoding.dedup import copy_cached, unique_reads
from creditdecoding.decoding.guidance import add_unconditional, guide
from creditdecoding.decoding.leave_one_out import extra_columns
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache


class Denoiser(Protocol):
    """Any callable from ids to logits.

    `tokens` [rows, length]; `logit_positions` = (row, column), both [n]: which logits [n, vocab] to
    return; `attention_mask` [rows, 1, length] is True at visible columns, None if all are. The
    caller may change the logits in place. A model that keeps keys and values also has `geometry`,
    `new_cache()` and the further arguments of `Transformer.forward`.
    """

    def __call__(
        self,
        tokens: Tensor,
        logit_positions: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        /,
    ) -> Tensor: ...


def logits_at(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    reads: LogitReads,
    cache: KVCache | None = None,
    representative: Sequence[int] | None = None,
) -> Tensor:
    """The logits of `reads`, [n, vocab], guided for guided requests; -inf where an id must not be
    written: the mask, control tokens, unused ids, and end tokens if the request forbids them.

    `representative` is as in `unique_reads`. Raises `ModelError` if the logits have the wrong
    shape.
    """
    batch = requests
    batch_reads = reads
    inverse = None
    if representative is not None:
        computed, batch_reads, inverse = unique_reads(representative, reads)
        batch = [requests[i] for i in computed]
    rows, row_reads, entries = add_unconditional(batch, batch_reads, vocab.mask_id)
    logits = _run(model, rows, row_reads, vocab, device, cache)
    logits = guide(logits, batch, batch_reads, entries)
    if representative is not None and inverse is not None:
        logits = logits[inverse.to(logits.device)]
        if cache is not None:
            copy_cached(cache, requests, representative)
    _rule_out(logits, requests, reads, vocab)
    return logits


def _rule_out(
    logits: Tensor, requests: Sequence[Request], reads: LogitReads, vocab: SpecialTokens
) -> None:
    """Set the logits of ids that must not be written to -inf, without waiting for the device."""
    for token in (vocab.mask_id, *vocab.control_ids):
        logits[:, token] = -torch.inf
    logits[:, vocab.size :] = -torch.inf
    no_stop = [r.config.logits_eos_inf or not r.may_stop_early for r in requests]
    if any(no_stop):
        lines = torch.tensor(no_stop)[reads.row].to(logits.device)
        for token in vocab.stop_ids:
            logits[:, token].masked_fill_(lines, -torch.inf)


@dataclass(frozen=True)
class _Layout:
    """The rows of a pass, on the host.

    `tokens` and `positions` are [rows, width], and -1 in `positions` is padding; the first
    `text_width` columns are text, the others leave-one-out columns. `column` [n]: where to read the
    logits. `visible`: the positions that some row sees. `attention_mask`: None if all rows see all.
    """

    tokens: Tensor
    positions: Tensor
    text_width: int
    column: Tensor
    visible: int
    attention_mask: Tensor | None


def _lay_out(requests: Sequence[Request], reads: LogitReads, mask_id: int) -> _Layout:
    """A row for each request."""
    tokens, positions = _text_columns(requests, mask_id)
    width = tokens.shape[1]
    column = reads.position - positions[reads.row, 0]
    visible = torch.tensor([request.block_position.length for request in requests])
    longest = int(visible.max())
    attention_mask = None
    if int(visible.min()) < longest:
        attention_mask = (torch.arange(longest) < visible[:, None])[:, None]
    extra = extra_columns(requests, mask_id)
    if extra is not None:
        tokens = torch.cat((tokens, extra.tokens), dim=1)
        positions = torch.cat((positions, extra.position), dim=1)
        column = torch.where(reads.leave_one_out, width + extra.column_of(reads), column)
        attention_mask = extra.attention_mask(width, visible)
    return _Layout(tokens, positions, width, column, longest, attention_mask)


def _run(
    model: Denoiser,
    requests: Sequence[Request],
    reads: LogitReads,
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None,
) -> Tensor:
    """Run the model over a row for each request and return the logits of `reads`."""
    layout = _lay_out(requests, reads, vocab.mask_id)
    arguments: dict[str, Any] = {}
    if cache is not None and any(request.uses_cache for request in requests):
        slots = [request.cache_slot for request in requests]
        assert len(set(slots)) == len(slots)
        columns = layout.positions[:, : layout.text_width]
        arguments["caches"] = cache.layer_caches(slots, columns, layout.visible)
    if arguments or layout.tokens.shape[1] > layout.text_width:
        arguments["positions"] = layout.positions.clamp(min=0).to(device)
    mask = layout.attention_mask
    logits = model(
        layout.tokens.to(device),
        (reads.row.to(device), layout.column.to(device)),
        None if mask is None else mask.to(device),
        **arguments,
    )
    return _checked(logits, len(reads.row), vocab.size)


def _text_columns(requests: Sequence[Request], mask_id: int) -> tuple[Tensor, Tensor]:
    """The ids that a pass computes and their positions, [rows, width]; padding is at -1."""
    spans = [request.computed_span for request in requests]
    canvases = [request.canvas[a:b] for request, (a, b) in zip(requests, spans)]
    positions = [torch.arange(a, b) for a, b in spans]
    return (
        pad_sequence(canvases, batch_first=True, padding_value=mask_id),
        pad_sequence(positions, batch_first=True, padding_value=-1),
    )


def _checked(logits: Tensor, count: int, vocab_size: int) -> Tensor:
    """The model's logits, if they have the right shape."""
    if logits.dim() != 2 or len(logits) != count or logits.shape[1] < vocab_size:
        raise ModelError(
            "the model returned logits of the wrong shape",
            given=tuple(logits.shape),
            allowed=f"({count}, at least {vocab_size})",
            hint="Check the model.",
        )
    return logits
