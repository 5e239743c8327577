"""One forward pass: from requests to the logits at their positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.decoding.cache_policy import NoCache
from creditdecoding.decoding.dedup import shared
from creditdecoding.decoding.guidance import guided
from creditdecoding.decoding.leave_one_out import shadows_of
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache


class Denoiser(Protocol):
    """Any callable from ids to logits: (tokens [rows, length], read = (row, column) [n], allowed
    [rows, 1, length]) -> [n, vocab].

    The logits must be the caller's to change: banned ids are overwritten in place. One that keeps
    keys and values also has `geometry`,
    `new_cache()` and the further arguments of `models.transformer.Transformer.forward`.
    """

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor: ...


def logits_at(
    model: Denoiser,
    rows: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    at_row: Tensor,
    position: Tensor,
    cache: KVCache | None = None,
    leads: Sequence[int] | None = None,
) -> Tensor:
    """Logits at (row, position) [n], those of guided rows guided, with -inf for whatever must not
    be written there.

    `~p` in place of a position p asks at its shadow, in rows whose rule has some; `leads` as in
    sharing.py. Forbidden are the mask
    token, control tokens, ids that mean nothing, and end tokens where the row's options or the text
    around a gap forbid them.
    Raises `ModelError` when the model's logits have the wrong shape.
    """
    forward = partial(_ask, model, vocab, device, cache)

    def ask(group: Sequence[Request], index: Tensor, positions: Tensor) -> Tensor:
        return guided(forward, group, vocab.mask_id, index, positions)

    flat = (
        ask(rows, at_row, position)
        if leads is None
        else shared(ask, rows, leads, at_row, position, cache)
    )
    for forbidden in (vocab.mask_id, *vocab.control_ids):
        flat[:, forbidden] = -torch.inf
    flat[:, vocab.size :] = -torch.inf
    never = torch.tensor([row.config.logits_eos_inf or not row.may_stop_early for row in rows])[
        at_row
    ].to(flat.device)
    if bool(never.any()):
        stops = list(vocab.stop_ids)
        flat[:, stops] = flat[:, stops].masked_fill(never[:, None], -torch.inf)
    return flat


def _ask(
    model: Denoiser,
    words: SpecialTokens,
    device: torch.device,
    store: KVCache | None,
    rows: Sequence[Request],
    at_row: Tensor,
    position: Tensor,
) -> Tensor:
    """One pass: the model's logits at (row, position) [n]. Each row is computed where its cache
    policy says; shorter rows are padded.
    """
    spans, shadows = (
        torch.tensor([row.computed_span for row in rows]),
        shadows_of(rows, words.mask_id),
    )
    seen = torch.tensor([row.block_position.length for row in rows])
    first, count = spans[:, 0], spans[:, 1] - spans[:, 0]
    width, longest = int(count.max()), int(seen.max())
    tokens = torch.stack(
        [
            F.pad(row.canvas[a:b], (0, width - (b - a)), value=words.mask_id)
            for row, (a, b) in zip(rows, spans.tolist())
        ]
    )
    allowed = (
        (torch.arange(longest) < seen[:, None])[:, None].to(device)
        if int(seen.min()) < longest
        else None
    )
    column, more = position - first[at_row], dict[str, Any]()
    kept = None if all(isinstance(row.cache_policy, NoCache) for row in rows) else store
    place = torch.arange(width)
    columns = torch.where(place < count[:, None], first[:, None] + place, -1)
    if kept is not None:
        assert len({row.cache_slot for row in rows}) == len(rows)
        more["caches"] = kept.layer_caches([row.cache_slot for row in rows], columns, longest)
    if shadows is not None:
        tokens, allowed = (
            torch.cat((tokens, shadows.tokens), dim=1),
            shadows.allowed(width, seen, longest).to(device),
        )
        column = torch.where(position < 0, width + shadows.column(at_row, ~position), column)
        columns = torch.cat((columns, shadows.at), dim=1)
    if more or shadows is not None:
        more["positions"] = columns.clamp(min=0).to(device)
    found = model(tokens.to(device), (at_row.to(device), column.to(device)), allowed, **more)
    return _checked(found, len(at_row), words)


def _checked(flat: Tensor, n: int, words: SpecialTokens) -> Tensor:
    """The model's logits, if they have the shape that was asked for."""
    if flat.dim() != 2 or len(flat) != n or flat.shape[1] < words.size:
        shape = f"({n}, at least {words.size})"
        raise ModelError(
            "the model returned logits of the wrong shape",
            given=tuple(flat.shape),
            allowed=shape,
            hint="Check the model.",
        )
    return flat
