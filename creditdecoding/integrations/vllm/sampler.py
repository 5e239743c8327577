"""A rule as vLLM's sampler. A pass makes the host wait for nothing: which blocks are done stays on
the device, and a request whose block is done begins the next one there.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from creditdecoding.decoders.base import Decoder
from creditdecoding.integrations.blocks import (
    BlockRound,
    BlockState,
    ReservedIds,
    SamplingParams,
    new_blocks,
    seed_from_name,
)


@dataclass
class _Canvas:
    """A request in a slot: the length of its prompt, and its block under way."""

    prompt_length: int
    block: BlockState


class RequestCanvases:
    """The blocks under way of all requests, by vLLM's slots."""

    def __init__(
        self, rule: Decoder, reserved: ReservedIds, length: int, device: torch.device
    ) -> None:
        self.rule = rule
        self.reserved = reserved
        self.length = length
        self.device = device
        self._canvases: dict[int, _Canvas] = {}
        self._slot_of: dict[str, int] = {}

    def add(self, slot: int, request: Any) -> None:
        """A request takes a slot; nothing of who had it before is left."""
        params = request.sampling_params
        masked = torch.ones(1, self.length, dtype=torch.bool, device=self.device)
        seed = getattr(params, "seed", None)
        seeds = [seed_from_name(request.req_id) if seed is None else seed]
        sampling = sampling_params(params)
        block = new_blocks(masked, ~masked, [request.req_id], [sampling], seeds)[0]
        self._canvases[slot] = _Canvas(len(request.prompt_token_ids or ()), block)
        self._slot_of[request.req_id] = slot

    def remove(self, req_id: str) -> None:
        """A request leaves its slot; unknown requests are ignored, as vLLM removes some twice."""
        slot = self._slot_of.pop(req_id, None)
        if slot is not None and self._canvases[slot].block.owner == req_id:
            del self._canvases[slot]

    def prompt_length(self, slot: int) -> int:
        """Length of the prompt in a slot; 0 where vLLM only warms up."""
        return self._canvases[slot].prompt_length if slot in self._canvases else 0

    def begin(self, slots: list[int], width: int) -> BlockRound:
        """The blocks in these slots, whose canvases are `width` positions in this pass."""
        blocks = [_fitted(self._canvases[slot].block, width) for slot in slots]
        return BlockRound(self.rule, self.reserved, blocks)

    def end(self, slots: list[int], blocks: BlockRound) -> None:
        """Keep what the blocks have become."""
        for slot, block in zip(slots, blocks.states()):
            self._canvases[slot].block = block


def _fitted(block: BlockState, width: int) -> BlockState:
    """The block; a new one where its canvas is cut by the longest sequence, or no longer is."""
    in_prompt = block.progress["given"]
    if in_prompt.shape[1] == width:
        return block
    masked = torch.ones(1, width, dtype=torch.bool, device=in_prompt.device)
    fresh = new_blocks(masked, ~masked, [block.owner], [block.sampling], [0])[0]
    fresh.progress["seed"] = block.progress["seed"]
    return fresh


def sampling_params(params: Any) -> SamplingParams:
    """vLLM's settings of a request as ours. It writes no top_k as 0 or -1, and no top_p as 1."""
    if params is None or params.temperature == 0 or params.top_k == 1:
        return SamplingParams()
    return SamplingParams(
        params.temperature,
        params.top_k if params.top_k > 0 else None,
        params.top_p if 0 < params.top_p < 1 else None,
    )


class RuleSampler:
    """What vLLM's model runner calls in place of its sampler."""

    compute_nans = False
    penalties_state = SimpleNamespace(output_bin_counts=None)
    """The runner keeps no counts of tokens then."""

    def __init__(self, sampler: Any, canvases: RequestCanvases) -> None:
        self.sampling_states = sampler.sampling_states
        self.req_states = sampler.req_states
        self.canvases = canvases

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        """The model state has already made the block, which keeps the parameters."""
        self.sampling_states.add_request(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """Pass on what `add_request` staged."""
        self.sampling_states.apply_staged_writes()

    def __call__(
        self, logits: Tensor, input_batch: Any, draft_logits: Tensor | None = None
    ) -> SamplerOutput:
        """A step of every canvas in the batch. `logits` [canvas positions, vocab].

        A request whose canvas is done emits it; all others emit nothing, and vLLM takes back the
        positions that it has counted.
        """
        widths = _canvas_widths(input_batch)
        self._open_canvases(input_batch, np.flatnonzero(widths == 0))
        shape = (len(widths), self.canvases.length)
        sampled = torch.zeros(shape, dtype=torch.int32, device=logits.device)
        num_sampled = sampled.new_zeros(len(widths))
        for width in np.unique(widths[widths > 0]).tolist():
            members = np.flatnonzero(widths == width)
            done, tokens = self._advance(logits, input_batch, members, width)
            index = async_tensor_h2d(members, device=logits.device)
            sampled[index, :width] = tokens.int() * done[:, None]
            num_sampled[index] = done.int() * width
        return SamplerOutput(
            sampled_token_ids=sampled,
            logprobs_tensors=None,
            num_nans=None,
            num_sampled=num_sampled,
            num_rejected=_rejected(input_batch, widths, num_sampled),
        )

    def _open_canvases(self, input_batch: Any, rows: NDArray[np.int64]) -> None:
        """Requests whose prompt this pass has read to the end get an empty canvas."""
        read = input_batch.num_computed_prefill_tokens_np[rows]
        read = read + input_batch.num_scheduled_tokens[rows]
        opened = input_batch.idx_mapping_np[rows[read >= input_batch.prefill_len_np[rows]]]
        if len(opened):
            draft_tokens = self.req_states.draft_tokens
            slots = async_tensor_h2d(opened.astype(np.int64), device=draft_tokens.device)
            draft_tokens.index_fill_(0, slots, self.canvases.reserved.mask_id)

    def _advance(
        self, logits: Tensor, input_batch: Any, members: NDArray[np.int64], width: int
    ) -> tuple[Tensor, Tensor]:
        """Which canvases of one width are done, and their tokens; the next canvas of those that are
        done is empty.
        """
        device = logits.device
        slots_np = input_batch.idx_mapping_np[members]
        positions = input_batch.positions[input_batch.logits_indices]
        if len(members) * width < len(logits):
            first = input_batch.cu_num_logits_np[members]
            read = async_tensor_h2d((first[:, None] + np.arange(width)).ravel(), device=device)
            logits = logits[read]
            positions = positions[read]
        slots = async_tensor_h2d(slots_np.astype(np.int64), device=device)
        canvases = self.req_states.draft_tokens[slots]
        canvas = canvases[:, :width]
        blocks = self.canvases.begin(slots_np.tolist(), width)
        done = blocks.step(logits, canvas, positions.view(canvas.shape))
        emitted = canvas.clone()
        blocks.restart()
        canvases.masked_fill_(done[:, None], self.canvases.reserved.mask_id)
        self.req_states.draft_tokens[slots] = canvases
        self.canvases.end(slots_np.tolist(), blocks)
        return done, emitted


def _canvas_widths(input_batch: Any) -> NDArray[np.int32]:
    """Canvas positions of each request in the pass; 0 where it reads a prompt."""
    rows: int = input_batch.num_reqs
    widths: NDArray[np.int32] = np.diff(input_batch.cu_num_logits_np[: rows + 1])
    return widths if input_batch.num_draft_tokens else np.zeros_like(widths)


def _rejected(input_batch: Any, widths: NDArray[np.int32], num_sampled: Tensor) -> Tensor:
    """How many positions of each request vLLM takes back: all of a canvas that is not done."""
    rows = input_batch.num_reqs
    queries = np.diff(input_batch.query_start_loc_np[: rows + 1])
    counted = np.stack((queries, widths)).astype(np.int32)
    query, width = async_tensor_h2d(counted, device=num_sampled.device)
    is_open = (width > 0) & (num_sampled == 0)
    return torch.where(is_open, query, width - num_sampled)
