"""One denoising step for engines that own the forward pass: any decoder, many blocks, dense logits.

The engine keeps a `BlockState` for each request while one of its blocks is decoded and passes it
back at the next step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from creditdecoding.decoders._states import stack_states, take_rows
from creditdecoding.decoders.base import (
    Block,
    Decoder,
    Prediction,
    Sampling,
    State,
    capabilities_of,
)
from creditdecoding.errors import OptionError
from creditdecoding.ops.head_logits import Logits, mass_of
from creditdecoding.ops.padding import stack_padded
from creditdecoding.ops.sharded_logits import ShardedLogits
from creditdecoding.ops.vocab_stats import log_sum


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
    `step` and `seed` [1], `finished` [1] (all tokens written, the decoder asks for no more passes),
    `failed` [1] (logits that are not numbers) and `lost` [1, length] (still masked at that time).
    """

    owner: Hashable
    sampling: SamplingParams
    progress: State
    decoder_state: State | None = None


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
        "failed": torch.zeros_like(seed, dtype=torch.bool),
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


@dataclass
class _Group:
    """Rows drawn alike, which one call of the decoder serves, and its state; None at first."""

    sampling: SamplingParams
    members: list[int]
    rows: slice | Tensor
    state: State | None = None


class BlockRound:
    """The blocks of several requests, advanced together for one pass or more.

    Between steps everything stays on the device. Only `read` and `all_done` make the host wait.
    """

    def __init__(
        self,
        decoder: Decoder,
        reserved: ReservedIds,
        blocks: Sequence[BlockState],
        allow_extra_passes: bool = True,
    ) -> None:
        self.decoder = decoder
        self.reserved = reserved
        self.blocks = list(blocks)
        self.allow_extra_passes = allow_extra_passes
        self.progress = stack_states([block.progress for block in blocks])
        self.done = torch.zeros_like(self.progress["finished"])
        self.tokens: Tensor | None = None
        self._vocab = 0
        self._groups = _rows_drawn_alike(blocks, self.done.device)

    @torch.inference_mode()
    def step(self, logits: Tensor | ShardedLogits, tokens: Tensor, positions: Tensor) -> Tensor:
        """One step of all blocks; which of them are done, [rows] on the device.

        `tokens` and `positions` are [rows, length], `logits` [rows * length, vocab], which may be
        spread over processes. Tokens are written in place; logits of reserved ids become -inf. A
        block is done when this pass has read its final tokens, so that keys and values of the pass
        are final too; more steps leave it as it is. A block whose logits are NaN or infinite fails:
        it is done at once, and its masks get an ordinary id that the engine can run.
        """
        self.tokens, self._vocab = tokens, logits.shape[1]
        view = _predict(self.decoder, logits, tokens, positions, self.reserved, self.progress)
        commit, written, again = self._decide(view)
        finished = self.progress["finished"]
        complete = ~(view.masked & ~commit).any(-1) & ~(again & ~finished)
        self.done = finished | view.failed | (complete & ~commit.any(-1))
        self._fail(tokens, view.failed)
        tokens.copy_(torch.where(commit, written, tokens))
        self.progress["step"] = self.progress["step"] + 1
        self.progress["finished"] = self.progress["finished"] | complete
        return self.done

    @torch.inference_mode()
    def fail(self, tokens: Tensor) -> None:
        """In place of a step, after a pass without usable logits: every block fails."""
        self.tokens, self.done = tokens, torch.ones_like(self.done)
        self._fail(tokens, self.done)

    def _fail(self, tokens: Tensor, failed: Tensor) -> None:
        progress, mask_id = self.progress, self.reserved.mask_id
        lost = (tokens == mask_id) & ~progress["given"] & failed[:, None]
        tokens.masked_fill_(lost, _first_ordinary_id(self.reserved))
        progress["lost"] = progress["lost"] | lost
        progress["failed"] = progress["failed"] | failed
        progress["finished"] = progress["finished"] | failed

    def mark_lost(self, marker: int, together: bool) -> None:
        """After the last step: put `marker` where blocks that are done lost tokens; only if all
        blocks are done where the engine goes on with them `together`.
        """
        if self.tokens is not None:
            ready = self.done & (self.done.all() | (not together))
            self.tokens.masked_fill_(self.progress["lost"] & ready[:, None], marker)

    @torch.inference_mode()
    def restart(self) -> None:
        """After a step: blocks that are done begin again, masked everywhere, without the host
        knowing which; for engines whose next block has the same state.
        """
        if self.tokens is None:
            return
        done, progress = self.done, self.progress
        length = self.tokens.shape[1]
        self.tokens.masked_fill_(done[:, None], self.reserved.mask_id)
        for name in ("step", "finished", "failed"):
            progress[name] = progress[name].masked_fill(done, 0)
        for name in ("given", "lost"):
            progress[name] = progress[name].masked_fill(done[:, None], 0)
        progress["initial_masks"] = progress["initial_masks"].masked_fill(done, length)
        for group in self._groups:
            if group.state is not None:
                fresh = self.decoder.init(1, length, self._vocab, done.device)
                slots = _bounded_slots(group.state, length, self._vocab)
                group.state = _renewed(slots, fresh, done[group.rows])

    def all_done(self) -> bool:
        """Whether every block is done. Waits for the device."""
        return bool(self.done.all())

    def read(self) -> tuple[list[bool], list[bool]]:
        """Which blocks are done, and which have failed: one copy, for which the host waits."""
        done, failed = torch.stack((self.done, self.progress["failed"])).tolist()
        return done, failed

    def states(self) -> list[BlockState]:
        """The blocks as they are now, to be kept with their requests."""
        decoder_states: dict[int, State] = {}
        for group in self._groups:
            if group.state is not None:
                for slot, i in enumerate(group.members):
                    decoder_states[i] = take_rows(group.state, slice(slot, slot + 1))
        return [
            replace(
                block,
                progress=take_rows(self.progress, slice(i, i + 1)),
                decoder_state=decoder_states.get(i, block.decoder_state),
            )
            for i, block in enumerate(self.blocks)
        ]

    def _decide(self, view: _Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Where tokens are committed, the tokens, and which rows want another pass."""
        commit = torch.zeros_like(view.masked)
        written = view.tokens.clone()
        again = torch.zeros_like(view.failed)
        for group in self._groups:
            if group.state is None:
                group.state = self._first_state(group, view)
            rows = group.rows
            prediction, block = view.prediction(rows, group.sampling), view.block(rows)
            decision, group.state = self.decoder.step(prediction, block, group.state)
            commit[rows] = decision.commit & view.editable[rows]
            written[rows] = decision.tokens.to(written.dtype)
            if self.allow_extra_passes and decision.needs_another_pass is not None:
                again[rows] = decision.needs_another_pass
        return commit, written, again

    def _first_state(self, group: _Group, view: _Predictions) -> State:
        """What the blocks of the group bring with them; new blocks bring nothing."""
        states = [self.blocks[i].decoder_state for i in group.members]
        fresh = self.decoder.init(1, view.tokens.shape[1], self._vocab, view.logits.device)
        return stack_states([fresh if state is None else state for state in states])


def _bounded_slots(state: State, length: int, vocab: int) -> State:
    """The state without slots past the block's length, where memory grows by slots a pass.

    A block of n positions takes at most n passes, so none of them is used, and a device, which
    cannot be asked, keeps a bounded number. What is as wide as the vocabulary is no slots.
    """
    return {
        name: value if value.dim() < 3 or value.shape[2] == vocab else value[:, :, :length]
        for name, value in state.items()
    }


def _renewed(state: State, fresh: State, done: Tensor) -> State:
    """The state with rows that are done as in `fresh` [1, ...]."""
    renewed = {}
    for name, value in state.items():
        first = stack_padded([fresh[name], value])
        is_done = done.view(-1, *[1] * (first.dim() - 1))
        renewed[name] = torch.where(is_done, first[:1], first[1:])
    return renewed


def _rows_drawn_alike(blocks: Sequence[BlockState], device: torch.device) -> list[_Group]:
    members: dict[SamplingParams, list[int]] = {}
    for i, block in enumerate(blocks):
        members.setdefault(block.sampling, []).append(i)
    if len(members) == 1:
        return [_Group(sampling, rows, slice(None)) for sampling, rows in members.items()]
    return [_Group(sampling, rows, to_device(rows, device)) for sampling, rows in members.items()]


@dataclass(frozen=True)
class _Predictions:
    """What all blocks show their decoder at a step; tensors are [rows, length] or [rows].

    `rest_mass` is the sum of exp(logit - top_logit) over all ids but the top one.
    """

    logits: Logits
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
    logits: Tensor | ShardedLogits,
    tokens: Tensor,
    positions: Tensor,
    reserved: ReservedIds,
    progress: State,
) -> _Predictions:
    _suppress(logits, reserved)
    active = ~progress["given"] & ~progress["finished"][:, None]
    masked = (tokens == reserved.mask_id) & active
    editable = active if capabilities_of(decoder).can_edit else masked
    top_id, top_logit, rest_mass = (x.view(tokens.shape) for x in mass_of(logits))
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


def _suppress(logits: Tensor | ShardedLogits, reserved: ReservedIds) -> None:
    for reserved_id in (reserved.mask_id, *reserved.control_ids):
        if isinstance(logits, ShardedLogits):
            logits.rule_out(reserved_id)
        elif reserved_id < logits.shape[1]:
            logits[:, reserved_id] = -torch.inf


def _first_ordinary_id(reserved: ReservedIds) -> int:
    forbidden = {reserved.mask_id, *reserved.control_ids}
    return next(i for i in range(len(forbidden) + 1) if i not in forbidden)
