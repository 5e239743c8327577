"""Attention: one interface to the fused kernel and the plain formula, and the block-causal mask."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

SPLIT_BELOW = 0.8
"""Rows are computed one by one if they use less than this share of the padded keys."""


def block_causal_mask(
    queries: Int[Tensor, "*rows queries"], keys: Int[Tensor, "*rows keys"], block: int
) -> Bool[Tensor, "rows_or_1 queries keys"]:
    """True where a key is in the query's block of `block` positions or an earlier one."""
    mask = (queries // block)[..., :, None] >= (keys // block)[..., None, :]
    return mask if mask.dim() == 3 else mask[None]


def attention(
    q: Float[Tensor, "rows heads length dim"],
    k: Float[Tensor, "rows kv_heads keys dim"],
    v: Float[Tensor, "rows kv_heads keys dim"],
    attention_mask: Bool[Tensor, "rows_or_1 queries keys"] | None,
    backend: str = "sdpa",
) -> Float[Tensor, "rows heads length dim"]:
    """Scaled dot-product attention with grouped queries and scale 1/sqrt(dim).

    `attention_mask` is True where a query sees a key; its size may be 1 in place of `rows` or
    `queries`. None lets every query see every key. Backend "sdpa" is torch's fused kernel; "math"
    is the plain formula, several times faster in a bfloat16 backward pass on a CPU.
    """
    mask = None if attention_mask is None else attention_mask[:, None]
    key_counts = None
    if backend != "math":
        key_counts = _uneven_key_counts(attention_mask, q.device)
    if key_counts is None:
        return masked_attention(q, k, v, mask, backend)
    rows = [
        masked_attention(
            q[row : row + 1], k[row : row + 1, :, :count], v[row : row + 1, :, :count], None
        )
        for row, count in enumerate(key_counts)
    ]
    return torch.cat(rows)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: str = "sdpa"
) -> Tensor:
    """As `attention`, of all rows in one call.

    - `q` [rows, heads, queries, dim]; `k`, `v` [rows, kv_heads, keys, dim].
    - `mask`: [queries, keys], or [rows_or_1, 1, queries_or_1, keys]: with a dimension for heads.

    Neither way waits for the device: what a query does not see is ruled out by its score.
    """
    if backend == "math":
        return _plain_attention(q, k, v, mask)
    if q.shape[1] == k.shape[1]:  # a compiled graph wants the flag written out
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k = k.repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def _uneven_key_counts(attention_mask: Tensor | None, device: torch.device) -> list[int] | None:
    """The number of keys of each row, if computing the rows one by one is faster; else None.

    On a CPU a masked key costs as much as any other. With 64 to 512 keys a row, leaving them out
    halves the time (docs/research/log.md).
    """
    if attention_mask is None or device.type != "cpu" or torch.compiler.is_compiling():
        return None
    rows, queries, keys = attention_mask.shape
    if rows == 1 or queries != 1:
        return None
    mask = attention_mask[:, 0]
    counts = mask.sum(-1)
    is_prefix = torch.equal(mask, torch.arange(keys) < counts[:, None])
    if not is_prefix or int(counts.sum()) > SPLIT_BELOW * mask.numel():
        return None
    return [int(count) for count in counts]
