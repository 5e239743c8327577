"""One adapter over the attention implementations, and the pattern of block-causal models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKENDS = ("sdpa", "math")
PACK_BELOW = 0.8


def block_causal_mask(
    queries: Int[Tensor, "*rows queries"], keys: Int[Tensor, "*rows keys"], block: int
) -> Bool[Tensor, "rows_or_1 queries keys"]:
    """True where the query's block of `block` positions is the key's or a later one."""
    found = (queries // block)[..., :, None] >= (keys // block)[..., None, :]
    return found if found.dim() == 3 else found[None]


def _uneven_lengths(allowed: Tensor | None, device: torch.device) -> list[int] | None:
    """Keys of each row, where going through the rows one by one pays: on a CPU, rows that use less
    than `WORTH` of the padded keys.

    On a CPU a masked key costs as much as a seen one; at 64 to 512 keys a row this halves the time
    (docs/log.md).
    """
    if (
        allowed is None
        or allowed.shape[1] != 1
        or device.type != "cpu"
        or torch.compiler.is_compiling()
    ):
        return None
    lengths = allowed[:, 0].sum(-1)
    first = torch.arange(allowed.shape[2]) < lengths[:, None]
    if (
        len(allowed) == 1
        or int(lengths.sum()) > PACK_BELOW * first.numel()
        or not torch.equal(first, allowed[:, 0])
    ):
        return None
    return [int(n) for n in lengths]


def attention(
    q: Float[Tensor, "rows heads length dim"],
    k: Float[Tensor, "rows kv_heads keys dim"],
    v: Float[Tensor, "rows kv_heads keys dim"],
    attention_mask: Bool[Tensor, "rows_or_1 queries keys"] | None,
    backend: str = "sdpa",
) -> Float[Tensor, "rows heads length dim"]:
    """Scaled dot-product attention, scale 1/sqrt(dim), grouped queries; `allowed` is True where a
    query sees a key.

    `allowed` may have 1 in place of rows or `queries` (the same for all). `None` lets every query
    see every key.
    "sdpa" is torch's fused kernel; "math" is the plain formula, several times faster in a bfloat16
    backward pass on a CPU.
    """
    mask = None if attention_mask is None else attention_mask[:, None]
    grouped = q.shape[1] != k.shape[1]
    if backend == "sdpa":
        lengths = _uneven_lengths(attention_mask, q.device)
        if lengths is not None:
            parts = (slice(i, i + 1) for i in range(len(q)))
            return torch.cat(
                [
                    F.scaled_dot_product_attention(
                        q[i], k[i, :, :n], v[i, :, :n], enable_gqa=grouped
                    )
                    for i, n in zip(parts, lengths)
                ]
            )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
