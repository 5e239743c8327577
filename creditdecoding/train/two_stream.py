"""The layout of block diffusion's training pass: a clean row and noisy copies of it, one sequence.

A noisy block sees the clean blocks before its own and itself; the clean row is block-causal (arXiv
2503.09573, section 3.2). So one pass computes what decoding computes block by block.
"""

from __future__ import annotations

from torch import Tensor

CLEAN = 0
"""The number of the clean stream; noisy copies are 1, 2, ..."""


def two_stream_mask(blocks: Tensor, streams: Tensor) -> Tensor:
    """Which keys each query sees [rows, length, length], from the block [rows, length] and the
    stream [length] of each column.
    """
    query = blocks[:, :, None]
    key = blocks[:, None, :]
    noisy_query = (streams != CLEAN)[:, None]
    noisy_key = (streams != CLEAN)[None, :]
    same_stream = streams[:, None] == streams[None, :]
    sees_clean = (key < query) | (~noisy_query & (key == query))
    sees_noisy = noisy_query & same_stream & (query == key)
    return (noisy_key & sees_noisy) | (~noisy_key & sees_clean)
