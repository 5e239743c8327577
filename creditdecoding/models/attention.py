"""One adapter over the attention implementations, and the pattern of block-causal models.

Leaves to others: projections, rotary embedding (transformer.py) and which keys a row has (the caller's `allowed`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKENDS = ("sdpa", "math")


def block_causal(queries: Int[Tensor, "*rows queries"], keys: Int[Tensor, "*rows keys"], block: int) -> Bool[Tensor, "rows_or_1 queries keys"]:
    """True where the query's block of `block` positions is the key's or a later one."""
    found = (queries // block)[..., :, None] >= (keys // block)[..., None, :]
    return found if found.dim() == 3 else found[None]


def attention(
    q: Float[Tensor, "rows heads length dim"],
    k: Float[Tensor, "rows kv_heads keys dim"],
    v: Float[Tensor, "rows kv_heads keys dim"],
    allowed: Bool[Tensor, "rows_or_1 queries keys"] | None,
    backend: str = "sdpa",
) -> Float[Tensor, "rows heads length dim"]:
    """Scaled dot-product attention, scale 1/sqrt(dim), grouped queries; `allowed` is True where a query sees a key.

    `allowed` may have 1 in place of rows or `queries` (the same for all). `None` lets every query see every key.
    "sdpa" is torch's fused kernel; "math" is the plain formula, several times faster in a bfloat16 backward pass on a CPU.
    """
    mask = None if allowed is None else allowed[:, None]
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
