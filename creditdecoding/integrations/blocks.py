"""Blocks of an engine that owns the forward pass, advanced in place from dense logits: any decoder,
many requests, one copy to the host a step.

A `Seat` is what is kept of a request while one block of it is decoded, a value that the engine
carries from step to step. Knows no engine
and reads no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Decision,
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
    """How a request's tokens are drawn: temperature 0 takes the likeliest, else seeded Gumbel noise
    after top_k and top_p.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class BlockState:
    """A request in one block. `owner` says whose block it is; `place` holds, one row each, what was
    `given` at the block's start, the masks
    it began with, the step, the seed, whether the rule is through, and what was `lost` when it
    `failed`; `rule` is the decoder's own state, None
    before the first step."""

    owner: Hashable
    drawing: SamplingParams
    place: State
    rule: State | None = None
    failed: bool = False


def seed_from_name(name: str) -> int:
    """A seed that every process of a deployment gives the request called `name`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 2


def check_decoder(decoder: Decoder, name: str) -> Decoder:
    """The decoder, if a block's own logits are all it needs. Raises `OptionError` that names it and
    says what it needs beside.
    """
    if capabilities_of(decoder).leave_one_out:
        why = (
            "it reads shadows of a block's tokens, which the engine's forward pass does not compute"
        )
        raise OptionError(
            f"the decoder {name} cannot run here: {why}",
            hint="Choose another decoder, or run it with credit generate.",
        )
    if capabilities_of(decoder).can_remask:
        raise OptionError(
            f"the decoder {name} cannot run here: it takes written tokens back",
            hint="Choose another decoder.",
        )
    return decoder


def new_blocks(
    masked: Tensor,
    given: Tensor,
    owners: Sequence[Hashable],
    drawings: Sequence[SamplingParams],
    seeds: Sequence[int],
) -> list[BlockState]:
    """Fresh seats for blocks whose `masked` [rows, length] is to be written and whose `given` never
    changes.
    """
    through = ~masked.any(-1)
    seed = to_device(seeds, masked.device)
    place = {
        "given": given,
        "size": masked.sum(-1),
        "step": torch.zeros_like(seed),
        "seed": seed,
        "through": through,
        "lost": torch.zeros_like(given),
    }
    return [
        BlockState(owner, drawing, take_rows(place, slice(i, i + 1)))
        for i, (owner, drawing) in enumerate(zip(owners, drawings))
    ]


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The integers on the device; the host does not wait for them."""
    return torch.tensor(list(values), dtype=torch.long, pin_memory=device.type == "cuda").to(
        device, non_blocking=True
    )


@torch.inference_mode()
def advance_blocks(
    decoder: Decoder,
    logits: Tensor,
    tokens: Tensor,
    position: Tensor,
    mask_id: int,
    seated: Sequence[BlockState],
) -> tuple[list[BlockState], list[bool]]:
    """One step over all blocks: `tokens` [rows, length] are written in place, the seats returned
    anew, and which blocks are done.

    `logits` [rows * length, vocab] are changed too: the mask token gets -inf. A block is done when
    this pass has seen its last tokens,
    so that keys and values of the pass are those of the finished block. One whose logits are not
    numbers is done at once, `failed`, with its
    masks overwritten by an ordinary id so that the engine can still run them.
    """
    place = stack_states([seat.place for seat in seated])
    given, through = place["given"], place["through"]
    masked = (tokens == mask_id) & ~given & ~through[:, None]
    shown = ~given & ~through[:, None] if capabilities_of(decoder).can_edit else masked
    if mask_id < logits.shape[1]:
        logits[:, mask_id] = -torch.inf
    seen, bad = _statistics(logits, shown)
    masked, shown = masked & ~bad[:, None], shown & ~bad[:, None]
    commit, again, written = torch.zeros_like(masked), torch.zeros_like(through), tokens.clone()
    rules: list[State | None] = [None] * len(seated)
    for members in _groups(seated):
        pick = slice(None) if len(members) == len(seated) else to_device(members, tokens.device)
        drawing, steps = seated[members[0]].drawing, place["step"][pick]
        sampling = Sampling(
            place["seed"][pick],
            position[pick],
            steps,
            drawing.temperature,
            drawing.top_k,
            drawing.top_p,
        )
        ids, top, rest = (x[pick] for x in seen)
        lines = _places(masked)[pick]
        part = Prediction(
            ids, top, log_sum(top, rest), logits, lines, shown[pick], sampling, mass=(top, rest)
        )
        block = Block(tokens[pick].clone(), masked[pick], shown[pick], place["size"][pick], steps)
        decision, state = decoder.step(
            part, block, _states(decoder, [seated[i] for i in members], masked.shape[1], logits)
        )
        commit[pick], written[pick] = (
            decision.commit & shown[pick],
            decision.tokens.to(tokens.dtype),
        )
        again[pick] = _again(decision, through[pick])
        for slot, i in enumerate(members):
            rules[i] = take_rows(state, slice(slot, slot + 1))
    ended = ~(masked & ~commit).any(-1) & ~again
    done = through | bad | (ended & ~commit.any(-1))
    lost = (tokens == mask_id) & ~given & bad[:, None]
    tokens.copy_(torch.where(commit, written, tokens.masked_fill(lost, int(mask_id == 0))))
    place = {
        **place,
        "step": place["step"] + 1,
        "through": through | bad | ended,
        "lost": place["lost"] | lost,
    }
    over, failed = torch.stack((done, bad)).tolist()
    kept = (take_rows(place, slice(i, i + 1)) for i in range(len(seated)))
    after = [
        replace(seat, place=row, rule=rule, failed=seat.failed or lost)
        for seat, row, rule, lost in zip(seated, kept, rules, failed)
    ]
    return after, over


def fail_blocks(tokens: Tensor, mask_id: int, seated: Sequence[BlockState]) -> list[BlockState]:
    """The seats after a pass that told nothing: what is still masked in their blocks [rows, length]
    is lost.
    """
    place = stack_states([seat.place for seat in seated])
    place = {**place, "lost": (tokens == mask_id) & ~place["given"]}
    return [
        replace(seat, place=take_rows(place, slice(i, i + 1)), failed=True)
        for i, seat in enumerate(seated)
    ]


def _statistics(logits: Tensor, shown: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Top-1 id, its logit and the rest of the mass [rows, length] where shown, and the rows [rows]
    in which one of them is not a number.
    """
    ids, top, rest = (x.view(shown.shape) for x in vocab_mass(logits))
    bad = (shown & ~torch.isfinite(top + rest)).any(-1)
    hidden = ~shown | bad[:, None]
    return (
        ids.masked_fill(hidden, 0),
        top.masked_fill(hidden, 0.0),
        rest.masked_fill(hidden, torch.inf),
    ), bad


def _places(masked: Tensor) -> Tensor:
    """Which line of the logits belongs to each position."""
    return torch.arange(masked.numel(), device=masked.device).view(masked.shape)


def _states(decoder: Decoder, seated: Sequence[BlockState], length: int, logits: Tensor) -> State:
    blank = (
        decoder.init(1, length, logits.shape[1], logits.device)
        if any(seat.rule is None for seat in seated)
        else {}
    )
    return stack_states([blank if seat.rule is None else seat.rule for seat in seated])


def _again(decision: Decision, through: Tensor) -> Tensor:
    return (
        torch.zeros_like(through)
        if decision.needs_another_pass is None
        else decision.needs_another_pass & ~through
    )


def _groups(seated: Sequence[BlockState]) -> Iterator[list[int]]:
    """Seats that one call of the decoder serves: the same way of drawing."""
    found: dict[SamplingParams, list[int]] = {}
    for i, seat in enumerate(seated):
        found.setdefault(seat.drawing, []).append(i)
    yield from found.values()
