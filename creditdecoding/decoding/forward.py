"""One forward pass: from requests to the logits at their positions.

`pass_logits` leaves out requests that share a row with another, adds an unconditional row for each
guided request, runs the model once, mixes the guided logits, and rules out what must not be
written. `_lay_out` makes the rows: the columns that the cache policies ask for, padding, and
leave-one-out columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoding.constrained import allowed_ids, rule_out_disallowed
from creditdecoding.decoding.dedup import copy_cached, unique_reads
from creditdecoding.decoding.guidance import add_unconditional, guide
from creditdecoding.decoding.leave_one_out import ExtraColumns, extra_columns
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache, LayerCache, PackedLayerCache
from creditdecoding.models.packed_rows import PackedRows, RowSpan, pack_rows
from creditdecoding.ops.head_logits import HeadLogits, ModelLogits, lines_of
from creditdecoding.ops.transfer import is_host, upload

LONG_ROW = 128
"""Block-causal rows of more positions are packed also if they are alone: their mask is dear."""


class Denoiser(Protocol):
    """Any callable from ids to logits.

    `tokens` [rows, length]; `logit_positions` = (row, column), both [n]: which logits [n, vocab] to
    return; `attention_mask` [rows, 1, length] is True at visible columns, None if all are. The
    caller may change the logits in place. A model that keeps keys and values also has `geometry`,
    `new_cache()` and the further arguments of `Transformer.forward`. One whose geometry names a
    `fused_head` returns `HeadLogits` if it is called with `write_logits=False`.
    """

    def __call__(
        self,
        tokens: Tensor,
        logit_positions: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        /,
    ) -> ModelLogits: ...


def logits_at(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    reads: LogitReads,
) -> Tensor:
    """The written logits of `reads`, as in `pass_logits`, without a cache."""
    logits = pass_logits(model, requests, vocab, device, reads)
    assert isinstance(logits, Tensor)
    return logits


def pass_logits(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    reads: LogitReads,
    cache: KVCache | None = None,
    representative: Sequence[int] | None = None,
    prefill: Sequence[Request] = (),
    fused: bool = False,
) -> ModelLogits:
    """The logits of `reads`, [n, vocab], guided for guided requests; -inf where an id must not be
    written: the mask, control tokens, unused ids, end tokens if the request forbids them, and what
    its constraint does not allow.

    `representative` is as in `unique_reads`; the requests of `prefill` share the pass, and nothing
    is read from them. If `fused` the logits are not written; guidance needs written ones.

    Raises `ModelError` if the logits have the wrong shape.
    """
    batch = requests
    batch_reads = reads
    inverse = None
    if representative is not None:
        computed, batch_reads, inverse = unique_reads(representative, reads)
        batch = [requests[i] for i in computed]
    everyone = [*batch, *prefill]
    rows, row_reads, entries = add_unconditional(everyone, batch_reads, vocab.mask_id)
    run = _run_packed if is_packed(model, rows) else _run
    logits = run(_network(model, fused), rows, row_reads, vocab, device, cache)
    if isinstance(logits, Tensor):
        logits = guide(logits, batch, batch_reads, entries)
    if representative is not None and inverse is not None:
        (line,) = upload([inverse.numpy()], logits.device)
        logits = lines_of(logits, line)
        if cache is not None:
            copy_cached(cache, requests, representative)
    return _rule_out(logits, requests, reads, vocab)


def _network(model: Denoiser, fused: bool) -> Denoiser:
    """The model, as one that returns `HeadLogits` if the pass is `fused`.

    Only a model whose geometry names a `fused_head` has such passes.
    """
    if not fused:
        return model
    network: Any = model
    return functools.partial(network, write_logits=False)


def _rule_out(
    logits: ModelLogits, requests: Sequence[Request], reads: LogitReads, vocab: SpecialTokens
) -> ModelLogits:
    """The logits, -inf at ids that must not be written; written ones are changed in place, and
    nothing waits for the device.
    """
    no_stop = [r.config.logits_eos_inf or not r.may_stop_early for r in requests]
    lines = None
    if any(no_stop):
        (lines,) = upload([np.array(no_stop)[reads.row.numpy()]], logits.device)
    if isinstance(logits, HeadLogits):
        banned = (vocab.mask_id, *vocab.control_ids)
        weight = logits.weight[: vocab.size]
        allowed = allowed_ids(requests, reads, vocab.size, logits.device)
        return HeadLogits(
            logits.hidden, weight, banned, vocab.stop_ids, no_stop=lines, allowed=allowed
        )
    rule_out_ids(logits, vocab)
    if lines is not None:
        for token in vocab.stop_ids:
            logits[:, token].masked_fill_(lines, -torch.inf)
    rule_out_disallowed(logits, requests, reads)
    return logits


def rule_out_ids(logits: Tensor, vocab: SpecialTokens) -> None:
    """Set the logits of the mask, control tokens and unused ids to -inf, in place."""
    for token in (vocab.mask_id, *vocab.control_ids):
        logits[:, token].fill_(-torch.inf)
    if vocab.size < logits.shape[1]:
        logits[:, vocab.size :].fill_(-torch.inf)


@dataclass(frozen=True)
class _Layout:
    """The rows of a pass, on the host, as numpy arrays.

    `tokens` and `positions` are [rows, width], and -1 in `positions` is padding; the first
    `text_width` columns are text, the others leave-one-out columns. `column` [n]: where to read the
    logits. `visible`: the positions that some row sees. `attention_mask`: None if all rows see all.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    text_width: int
    column: NDArray[np.int64]
    visible: int
    attention_mask: NDArray[np.bool_] | None


def _lay_out(requests: Sequence[Request], reads: LogitReads, mask_id: int) -> _Layout:
    """A row for each request."""
    spans = [request.computed_span for request in requests]
    canvases = [request.canvas.numpy()[a:b] for request, (a, b) in zip(requests, spans)]
    tokens = pad_rows(canvases, mask_id)
    positions = pad_rows([np.arange(a, b) for a, b in spans], -1)
    width = tokens.shape[1]
    column = reads.position.numpy() - positions[reads.row.numpy(), 0]
    visible = np.array([request.visible for request in requests])
    longest = int(visible.max())
    attention_mask = None
    if len(visible) > 1 and int(visible.min()) < longest:
        attention_mask = (np.arange(longest) < visible[:, None])[:, None]
    layout = _Layout(tokens, positions, width, column, longest, attention_mask)
    extra = extra_columns(requests, mask_id)
    return layout if extra is None else _with_extra(layout, extra, reads, visible)


def _with_extra(
    layout: _Layout, extra: ExtraColumns, reads: LogitReads, visible: NDArray[np.int64]
) -> _Layout:
    """The layout with leave-one-out columns after the text."""
    width = layout.text_width
    extra_column = (width + extra.column_of(reads)).numpy()
    return replace(
        layout,
        tokens=np.concatenate((layout.tokens, extra.tokens.numpy()), axis=1),
        positions=np.concatenate((layout.positions, extra.position.numpy()), axis=1),
        column=np.where(reads.leave_one_out.numpy(), extra_column, layout.column),
        attention_mask=extra.attention_mask(width, torch.from_numpy(visible)).numpy(),
    )


def _run(
    model: Denoiser,
    requests: Sequence[Request],
    reads: LogitReads,
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None,
) -> ModelLogits:
    """Run the model over a row for each request and return the logits of `reads`."""
    arguments, more = padded_pass(requests, reads, vocab, device, cache)
    logits = model(*arguments, **more)
    return checked(logits, len(reads.row), vocab.size)


def padded_pass(
    requests: Sequence[Request],
    reads: LogitReads,
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None,
) -> tuple[tuple[Tensor, tuple[Tensor, Tensor], Tensor | None], dict[str, Any]]:
    """What the model is called with for a row of each request, by position and by name."""
    layout = _lay_out(requests, reads, vocab.mask_id)
    uses_cache = cache is not None and any(request.uses_cache for request in requests)
    arrays = _arrays(layout, reads, needs_positions=uses_cache)
    tokens, row, column, *others = upload(arrays, device)
    mask = None if layout.attention_mask is None else others.pop(0)
    more: dict[str, Any] = {"positions": others[0]} if others else {}
    if uses_cache and cache is not None:
        more["caches"] = _layer_caches(cache, requests, layout)
    if not is_host(device) and requests[0].geometry.supports_kv_cache:
        more["most_reads"] = int(np.bincount(reads.row.numpy()).max(initial=1))
    return (tokens, (row, column), mask), more


def can_pack(model: Denoiser) -> bool:
    """Whether the model takes rows of unlike length in one line (`PackedRows`)."""
    return bool(getattr(model, "packs_rows", False))


def is_packed(model: Denoiser, requests: Sequence[Request]) -> bool:
    """Whether the rows go in one line.

    They do if the model can, and padding, or the mask of a long block-causal row, would cost more.
    Rows that are alike are computed as they are, and leave-one-out columns have masks of their own.
    """
    if not can_pack(model):
        return False
    is_causal = requests[0].geometry.causal_block is not None
    if len(requests) == 1 and not is_causal:
        return False
    if any(request.capabilities.leave_one_out for request in requests):
        return False
    spans = [request.computed_span for request in requests]
    shapes = {(end - start, r.visible) for (start, end), r in zip(spans, requests)}
    return len(shapes) > 1 or (is_causal and max(shapes)[0] > LONG_ROW)


def _run_packed(
    model: Denoiser,
    requests: Sequence[Request],
    reads: LogitReads,
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None,
) -> ModelLogits:
    """As `_run`, with the rows one after another in a line.

    Positions are those in the texts, so that the rotary embedding and the caches are as in padded
    rows. With shifted logits a prediction is read one position earlier, at the first at 0.
    """
    positions = [np.arange(*request.computed_span) for request in requests]
    row = reads.row.numpy()
    read_at = np.maximum(reads.position.numpy() - int(requests[0].geometry.logit_shift), 0)
    canvases = [request.canvas.numpy()[own] for request, own in zip(requests, positions)]
    column = read_at + _offsets(positions)[row]
    arrays = [np.concatenate(canvases), np.concatenate(positions), row, column]
    tokens, position, *read = upload(arrays, device)
    caches = _packed_caches(cache, requests, position)
    packed = _packed_rows(requests, positions, (row, read_at), caches is not None)
    more: dict[str, Any] = {"positions": position[None], "caches": caches}
    logits = model(tokens[None], tuple(read), packed, **more)  # type: ignore[arg-type]
    return checked(logits, len(row), vocab.size)


def _packed_caches(
    cache: KVCache | None, requests: Sequence[Request], position: Tensor
) -> list[PackedLayerCache] | None:
    """The caches of a packed pass; None if no request uses them."""
    if cache is None or not any(request.uses_cache for request in requests):
        return None
    lengths = [end - start for start, end in (request.computed_span for request in requests)]
    slots = np.repeat([request.cache_slot for request in requests], lengths)
    return cache.packed_layer_caches(slots, position)


def _offsets(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """What to add to a position of each row for its column in the line."""
    offsets: NDArray[np.int64] = _starts(rows) - np.array([row[0] for row in rows])
    return offsets


def _starts(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Where each row begins in the line."""
    lengths = np.array([len(row) for row in rows])
    starts: NDArray[np.int64] = lengths.cumsum() - lengths
    return starts


def _packed_rows(
    requests: Sequence[Request],
    positions: Sequence[NDArray[np.int64]],
    reads: tuple[NDArray[np.int64], NDArray[np.int64]],
    is_cached: bool,
) -> PackedRows:
    """Who attends to what; `reads`: row and position, in the order of the rows."""
    row, read_at = reads
    assert (np.diff(row) >= 0).all()
    ends = np.bincount(row, minlength=len(requests)).cumsum()
    keys = [r.cache_slot for r in requests] if is_cached else _starts(positions).tolist()
    spans = [RowSpan(own, r.visible, key) for own, r, key in zip(positions, requests, keys)]
    causal_block = requests[0].geometry.causal_block
    return pack_rows(spans, np.split(read_at, ends[:-1]), causal_block, is_cached)


def _arrays(layout: _Layout, reads: LogitReads, needs_positions: bool) -> list[NDArray[Any]]:
    """What the network takes: ids, rows and columns to read, the mask and positions if needed."""
    arrays: list[NDArray[Any]] = [layout.tokens, reads.row.numpy(), layout.column]
    if layout.attention_mask is not None:
        arrays.append(layout.attention_mask)
    if needs_positions or layout.tokens.shape[1] > layout.text_width:
        arrays.append(np.maximum(layout.positions, 0))
    return arrays


def _layer_caches(cache: KVCache, requests: Sequence[Request], layout: _Layout) -> list[LayerCache]:
    slots = [request.cache_slot for request in requests]
    assert len(set(slots)) == len(slots)
    columns = torch.from_numpy(layout.positions[:, : layout.text_width])
    return cache.layer_caches(slots, columns, layout.visible)


def pad_rows(rows: Sequence[NDArray[Any]], fill: int = 0) -> NDArray[Any]:
    """The rows in one array, `fill` after the end of the shorter ones."""
    if len(rows) == 1:
        return rows[0][None]
    padded = np.full((len(rows), max(map(len, rows))), fill, dtype=rows[0].dtype)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    return padded


def checked(logits: ModelLogits, count: int, vocab_size: int) -> ModelLogits:
    """The model's logits, if they have the right shape."""
    if len(logits.shape) != 2 or len(logits) != count or logits.shape[1] < vocab_size:
        raise ModelError(
            "the model returned logits of the wrong shape",
            given=tuple(logits.shape),
            allowed=f"({count}, at least {vocab_size})",
            hint="Check the model.",
        )
    return logits
