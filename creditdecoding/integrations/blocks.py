"""One denoising step for engines that own the forward pass: any decoder, many blocks, dense logits.

The engine keeps a `BlockState` for each request while one of its blocks is decoded and passes it
back at the next step. A step copies to the host once, for the list of finished blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Decoder,
    Prediction,
    Sampling,
    State,
    capabilities_of,
    stack_states,
    take_rows,
)
from creditdecoding.errors import OptionError
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass


@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are drawn; temperature 0 takes the likeliest token."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class ReservedIds:
    """Ids that no decoder may write: the mask, and control tokens such as LLaDA2.2's DELETE."""

    mask_id: int
    control_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class BlockState:
    """One block under way. `owner` identifies request and block; `decoder_state` is None before the
    first step.

    `progress` holds tensors of one row each: `given` [1, length] (never written), `initial_masks`,
    `step` and `seed` [1], `finished` [1] (all tokens written, the decoder asks for no more passes)
    and `lost` [1, length] (still masked when the block `failed`).
    """

    owner: Hashable
    sampling: SamplingParams
    progress: State
    decoder_state: State | None = None
    failed: bool = False


def seed_from_name(name: str) -> int:
    """A seed for the request called `name`, the same in every process of a deployment."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 2


def check_decoder(decoder: Decoder, name: str) -> Decoder:
    """The decoder, if it needs only the logits of the block. Raises `OptionError`."""
    capabilities = capabilities_of(decoder)
    if capabilities.leave_one_out:
        reason = "it needs leave-one-out columns, which the engine's forward pass does not compute"
    elif capabilities.can_remask:
        reason = "it turns written tokens back into masks"
    else:
        return decoder
    raise OptionError(
        f"the decoder {name} cannot run in this engine: {reason}",
        hint="Choose another decoder, or run it with credit generate.",
    )


def new_blocks(
    masked: Tensor,
    in_prompt: Tensor,
    owners: Sequence[Hashable],
    sampling: Sequence[SamplingParams],
    seeds: Sequence[int],
) -> list[BlockState]:
    """States of blocks at their first step. `masked` [rows, length] is to be written, `in_prompt`
    [rows, length] never changes.
    """
    seed = to_device(seeds, masked.device)
    progress = {
        "given": in_prompt,
        "initial_masks": masked.sum(-1),
        "step": torch.zeros_like(seed),
        "seed": seed,
        "finished": ~masked.any(-1),
        "lost": torch.zeros_like(in_prompt),
    }
    return [
        BlockState(owner, params, take_rows(progress, slice(i, i + 1)))
        for i, (owner, params) in enumerate(zip(owners, sampling))
    ]


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The integers as a tensor on the device, without a wait on the host."""
    host = torch.tensor(list(values), dtype=torch.long, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


@torch.inference_mode()
def advance_blocks(
    decoder: Decoder,
    logits: Tensor,
    tokens: Tensor,
    positions: Tensor,
    reserved: ReservedIds,
    blocks: Sequence[BlockState],
    allow_extra_passes: bool = True,
) -> tuple[list[BlockState], list[bool]]:
    """One step of all blocks: new states, and which blocks are done.

    `tokens` and `positions` are [rows, length], `logits` [rows * length, vocab]. Tokens are written
    in place; logits of reserved ids become -inf. A block is done when this pass has read its final
    tokens, so that keys and values of the pass are final too. A block whose logits are NaN or
    infinite fails: it is done at once, and its masks get an ordinary id that the engine can run.
    """
    progress = stack_states([block.progress for block in blocks])
    view = _predict(decoder, logits, tokens, positions, reserved, progress)
    commit, written, again, decoder_states = _decide(decoder, view, blocks)
    if not allow_extra_passes:
        again = torch.zeros_like(again)
    finished = progress["finished"]
    complete = ~(view.masked & ~commit).any(-1) & ~(again & ~finished)
    done = finished | view.failed | (complete & ~commit.any(-1))
    lost = (tokens == reserved.mask_id) & ~progress["given"] & view.failed[:, None]
    filled = tokens.masked_fill(lost, _first_ordinary_id(reserved))
    tokens.copy_(torch.where(commit, written, filled))
    progress = progress | {
        "step": progress["step"] + 1,
        "finished": finished | view.failed | complete,
        "lost": progress["lost"] | lost,
    }
    done_list, failed_list = torch.stack((done, view.failed)).tolist()
    updated = _with_progress(blocks, progress)
    states = [
        replace(block, decoder_state=state, failed=block.failed or failed)
        for block, state, failed in zip(updated, decoder_states, failed_list)
    ]
    return states, done_list


def fail_blocks(tokens: Tensor, mask_id: int, blocks: Sequence[BlockState]) -> list[BlockState]:
    """States after a pass without usable logits: every block fails with its masks lost."""
    progress = stack_states([block.progress for block in blocks])
    progress = progress | {"lost": (tokens == mask_id) & ~progress["given"]}
    return [replace(block, failed=True) for block in _with_progress(blocks, progress)]


def _with_progress(blocks: Sequence[BlockState], progress: State) -> list[BlockState]:
    """The blocks, each with its row of `progress`."""
    return [
        replace(block, progress=take_rows(progress, slice(i, i + 1)))
        for i, block in enumerate(blocks)
    ]


@dataclass(frozen=True)
class _Predictions:
    """What all blocks show their decoder at a step; tensors are [rows, length] or [rows].

    `rest_mass` is the sum of exp(logit - top_logit) over all ids but the top one.
    """

    logits: Tensor
    logit_row: Tensor
    tokens: Tensor
    positions: Tensor
    masked: Tensor
    editable: Tensor
    top_id: Tensor
    top_logit: Tensor
    rest_mass: Tensor
    failed: Tensor
    progress: State

    def prediction(self, rows: slice | Tensor, params: SamplingParams) -> Prediction:
        """The predictions of some rows that are drawn alike."""
        top_logit, rest_mass = self.top_logit[rows], self.rest_mass[rows]
        sampling = Sampling(
            seed=self.progress["seed"][rows],
            position=self.positions[rows],
            step=self.progress["step"][rows],
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
        )
        return Prediction(
            ids=self.top_id[rows],
            logit=top_logit,
            lse=log_sum(top_logit, rest_mass),
            logits=self.logits,
            logit_row=self.logit_row[rows],
            masked=self.editable[rows],
            sampling=sampling,
            mass=(top_logit, rest_mass),
            masked_index=_grid(top_logit),
        )

    def block(self, rows: slice | Tensor) -> Block:
        """The blocks of some rows."""
        return Block(
            tokens=self.tokens[rows].clone(),
            masked=self.masked[rows],
            editable=self.editable[rows],
            initial_masks=self.progress["initial_masks"][rows],
            step=self.progress["step"][rows],
        )


def _grid(values: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every position, without a question to the device."""
    index = torch.arange(values.numel(), device=values.device)
    return index // values.shape[1], index % values.shape[1]


def _predict(
    decoder: Decoder,
    logits: Tensor,
    tokens: Tensor,
    positions: Tensor,
    reserved: ReservedIds,
    progress: State,
) -> _Predictions:
    _suppress(logits, reserved)
    active = ~progress["given"] & ~progress["finished"][:, None]
    masked = (tokens == reserved.mask_id) & active
    editable = active if capabilities_of(decoder).can_edit else masked
    top_id, top_logit, rest_mass = (x.view(tokens.shape) for x in vocab_mass(logits))
    failed = (editable & ~torch.isfinite(top_logit + rest_mass)).any(-1)
    editable = editable & ~failed[:, None]
    return _Predictions(
        logits=logits,
        logit_row=torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape),
        tokens=tokens,
        positions=positions,
        masked=masked & ~failed[:, None],
        editable=editable,
        top_id=top_id.masked_fill(~editable, 0),
        top_logit=top_logit.masked_fill(~editable, 0.0),
        rest_mass=rest_mass.masked_fill(~editable, torch.inf),
        failed=failed,
        progress=progress,
    )


def _suppress(logits: Tensor, reserved: ReservedIds) -> None:
    for reserved_id in (reserved.mask_id, *reserved.control_ids):
        if reserved_id < logits.shape[1]:
            logits[:, reserved_id] = -torch.inf


def _decide(
    decoder: Decoder, view: _Predictions, blocks: Sequence[BlockState]
) -> tuple[Tensor, Tensor, Tensor, list[State | None]]:
    """Where tokens are committed, the tokens, which rows want another pass, and decoder states."""
    commit = torch.zeros_like(view.masked)
    written = view.tokens.clone()
    again = torch.zeros_like(view.failed)
    decoder_states: list[State | None] = [None] * len(blocks)
    for params, members in _rows_by_sampling(blocks).items():
        everything = len(members) == len(blocks)
        rows = slice(None) if everything else to_device(members, view.tokens.device)
        state = _stacked_decoder_states(decoder, [blocks[i] for i in members], view)
        decision, state = decoder.step(view.prediction(rows, params), view.block(rows), state)
        commit[rows] = decision.commit & view.editable[rows]
        written[rows] = decision.tokens.to(written.dtype)
        if decision.needs_another_pass is not None:
            again[rows] = decision.needs_another_pass
        for slot, i in enumerate(members):
            decoder_states[i] = take_rows(state, slice(slot, slot + 1))
    return commit, written, again, decoder_states


def _rows_by_sampling(blocks: Sequence[BlockState]) -> dict[SamplingParams, list[int]]:
    """Rows that one call of the decoder serves: those with the same sampling parameters."""
    rows: dict[SamplingParams, list[int]] = {}
    for i, block in enumerate(blocks):
        rows.setdefault(block.sampling, []).append(i)
    return rows


def _stacked_decoder_states(
    decoder: Decoder, blocks: Sequence[BlockState], view: _Predictions
) -> State:
    states = []
    for block in blocks:
        state = block.decoder_state
        if state is None:
            length, vocab = view.tokens.shape[1], view.logits.shape[1]
            state = decoder.init(1, length, vocab, view.logits.device)
        states.append(state)
    return stack_states(states)


def _first_ordinary_id(reserved: ReservedIds) -> int:
    forbidden = {reserved.mask_id, *reserved.control_ids}
    return next(i for i in range(len(forbidden) + 1) if i not in forbidden)
