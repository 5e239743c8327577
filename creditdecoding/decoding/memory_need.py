"""What a request takes of the memory while it runs: an estimate from shapes."""

from __future__ import annotations

from creditdecoding.decoding.fused_head import leaves_unwritten, most_logits_bytes
from creditdecoding.decoding.request import Request
from creditdecoding.decoding.scheduler import MemoryNeed
from creditdecoding.models.memory import Footprint

CACHE_ALIGNMENT = 64
"""Slots of the cache have a multiple of this many positions, so that they seldom have to grow."""
DENSE_BYTES_PER_ID = 24
"""Bytes for each id and position of a decoder with dense state: six float32 copies."""


def memory_need(request: Request, footprint: Footprint, chunk: int, vocab_size: int) -> MemoryNeed:
    """The need of a request whose prompt, if it can be cut, enters in chunks of positions."""
    window = request.max_window
    extra_columns = window if request.leave_one_out_positions else 0
    widest = len(request.canvas)
    if request.prefill_left:  # a prompt is cut if memory does not hold it in one pass
        widest = min(widest, max(chunk, 2 * (request.geometry.causal_block or 0)))
    computed = (widest + extra_columns) * footprint.computed
    logits = (window + extra_columns) * footprint.logits
    if leaves_unwritten(request.geometry, window) and not request.needs_whole_logits:
        logits = most_logits_bytes(request.geometry, window + extra_columns)
    working_bytes = request.sequences * (computed + logits)
    if request.capabilities.dense_state:
        working_bytes += DENSE_BYTES_PER_ID * window * vocab_size
    columns = -(-len(request.canvas) // CACHE_ALIGNMENT) * CACHE_ALIGNMENT
    return MemoryNeed(request.sequences, columns, working_bytes, request.uses_cache)
