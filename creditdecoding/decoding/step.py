"""`denoise_step` and the plain loop over blocks: the specification of decoding, as a generator of
trace events.

A row is a canvas of prompt and masks. Blocks of its masks are decoded left to right; each step runs
the model once over the
active rows, shows each decoder its block, and writes what it commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Decision,
    Prediction,
    Sampling,
    State,
    stack_states,
    take_rows,
)
from creditdecoding.decoding.dedup import representatives
from creditdecoding.decoding.forward import Denoiser, logits_at
from creditdecoding.decoding.request import Request, SpecialTokens, apply_decision, remasked
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass
from creditdecoding.trace import StepEvent

NEVER = (
    -9999.0
)  # log-probability of what must not be written: finite, so that it can be written as JSON


@dataclass(frozen=True)
class _View:
    """The current blocks of all rows of a step, one width: [rows, width] on the device, and their
    predictions.

    `shown`: where there is a prediction; more than `masked` for rules that edit. `peak` and `rest`
    are what confidence is
    measured by (`Prediction.mass`), `best` and `beside` the same with hushed ids. `unseen`: as in
    `Prediction`, None without shadows.
    """

    tokens: Tensor
    masked: Tensor
    shown: Tensor
    position: Tensor
    place: Tensor
    flat: Tensor
    ids: Tensor
    logit: Tensor
    peak: Tensor
    rest: Tensor
    best: Tensor
    beside: Tensor
    kept: Tensor | None
    unseen: Tensor | None


@torch.inference_mode()
def denoise_step(
    model: Denoiser,
    rows: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    forward: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    cache: KVCache | None = None,
    dedup: bool = False,
) -> tuple[list[Request], list[StepEvent]]:
    """One forward pass over `rows`, each at its own block, step, decoder and settings: the rows
    advanced, and what happened.

    `store` holds keys and values of the rows' slots; rows with a cache policy need it. With `share`
    rows that show the network the same
    are computed once; the events of the others say that they ran nothing. Raises `ModelError` when
    the model's
    logits have the wrong shape or are not numbers.
    """
    leads = representatives(rows) if dedup else None
    view = _predict(model, rows, vocab, device, cache, leads)
    after: list[Request] = [*rows]
    events: list[StepEvent | None] = [None] * len(rows)
    for members in _groups(rows):
        decision, state, logprobs = _decide(view, [rows[i] for i in members], members, vocab)
        seconds = clock()
        parts = (
            decision.tokens,
            decision.commit,
            decision.confidence,
            decision.credit,
            decision.needs_another_pass,
            decision.remask,
        )
        host = Decision(*(None if x is None else x.cpu() for x in parts))  # type: ignore[arg-type]
        top, logprobs = view.ids[members].cpu(), logprobs.cpu()
        for slot, i in enumerate(members):
            ran = leads is None or leads[i] == i
            events[i] = _event(
                rows[i], host, top[slot], logprobs[slot], slot, forward, seconds, ran
            )
            after[i] = apply_decision(
                rows[i], host, slot, take_rows(state, slice(slot, slot + 1)), vocab.mask_id
            )
    return after, [event for event in events if event is not None]


def _predict(
    model: Denoiser,
    rows: Sequence[Request],
    words: SpecialTokens,
    device: torch.device,
    store: KVCache | None,
    leads: Sequence[int] | None,
) -> _View:
    """Run the model and reduce its logits to statistics."""
    width = max(end - start for start, end in (row.decision_window for row in rows))
    position = torch.tensor([row.decision_window[0] for row in rows])[:, None] + torch.arange(width)
    masked = torch.stack([_cut(row.masked, row.decision_window, width) for row in rows])
    shown = torch.stack(
        [
            _cut(~row.read_only if row.can_edit else row.masked, row.decision_window, width)
            for row in rows
        ]
    )
    at_row, at_column = shown.nonzero(as_tuple=True)
    checked = torch.stack(
        [_cut(row.wants_leave_one_out, row.decision_window, width) for row in rows]
    )
    by_row, by_column = checked.nonzero(as_tuple=True)
    asked = torch.cat((position[at_row, at_column], ~position[by_row, by_column]))
    flat = logits_at(model, rows, words, device, torch.cat((at_row, by_row)), asked, store, leads)
    flat, shadows = flat.split([len(at_row), len(by_row)])
    found, kept = _statistics(flat, rows, at_row, words)
    place = (
        torch.zeros(shown.shape, dtype=torch.long)
        .masked_scatter(shown, torch.arange(len(at_row)))
        .to(device)
    )
    tokens = torch.stack([_cut(row.canvas, row.decision_window, width) for row in rows]).to(device)
    shown = shown.to(device)
    unseen = _unseen(shadows, checked.to(device), tokens) if len(shadows) else None
    ids, logit, peak, rest, best, beside = (
        torch.full(shown.shape, fill, dtype=x.dtype, device=device).masked_scatter(shown, x)
        for x, fill in zip(found, (0, 0.0, 0.0, torch.inf, 0.0, torch.inf))
    )
    where = (tokens, masked.to(device), shown, position.to(device), place)
    return _View(*where, flat, ids, logit, peak, rest, best, beside, kept, unseen)


def _unseen(flat: Tensor, checked: Tensor, tokens: Tensor) -> Tensor:
    """Probability of the token at each place that is `checked`, from its logits there; 1 elsewhere."""
    logit = flat.gather(1, tokens[checked][:, None])[:, 0].float()
    _, peak, rest = vocab_mass(flat)
    found = torch.ones(checked.shape, device=flat.device)
    return found.masked_scatter(checked, ((logit - peak) - rest.log1p()).exp().float())


def _statistics(
    flat: Tensor, rows: Sequence[Request], at_row: Tensor, words: SpecialTokens
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Top-1 and its logit; best logit and rest of the mass without hushed end tokens, and with
    them; the logits of these (in place -inf).

    `at_row` owns a line of `flat`.
    """
    stops = list(words.stop_ids)
    ids, best, beside = vocab_mass(flat)
    fine = torch.isfinite(best + beside)
    if not bool(fine.all()):
        blamed = tuple(at_row[~fine.cpu()].unique().tolist())
        hint = "Check the weights, or load them as float32."
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint=hint,
            rows=blamed,
        )
    last = torch.tensor([row.config.confidence_eos_eot_inf for row in rows])[at_row].to(flat.device)
    if not bool(last.any()):
        return (ids, best, best, beside, best, beside), None
    kept = flat[:, stops].clone()
    flat[:, stops] = kept.masked_fill(last[:, None], -torch.inf)
    peak, rest = best.clone(), beside.clone()
    _, peak[last], left = vocab_mass(flat[last])
    rest[last] = left.nan_to_num(nan=torch.inf)  # nothing but end tokens: confidence 0
    logit = flat.gather(1, ids[:, None])[:, 0].float()
    return (ids, logit, peak, rest, best, beside), kept


def _decide(
    view: _View, group: Sequence[Request], members: Sequence[int], words: SpecialTokens
) -> tuple[Decision, State, Tensor]:
    """Show one decoder the blocks of its rows: what it decides, its state, and the model's
    log-probability of each token it names.
    """
    device, config = view.flat.device, group[0].config
    pick = torch.tensor(members, device=device)
    seeds, steps, sizes = (
        torch.tensor(x, device=device)
        for x in zip(*((r.config.seed, r.step, r.initial_masks) for r in group))
    )
    sampling = Sampling(
        seeds, view.position[pick], steps, config.temperature, config.top_k, config.top_p
    )
    hushed = words.stop_ids if config.confidence_eos_eot_inf else ()
    masked, shown = view.masked[pick], view.shown[pick]
    kept, unseen = view.kept if hushed else None, None if view.unseen is None else view.unseen[pick]
    peak, rest = view.peak[pick], view.rest[pick]
    lse, logit, place = log_sum(peak, rest), view.logit[pick], view.place[pick]
    seen = Prediction(
        view.ids[pick],
        logit,
        lse,
        view.flat,
        place,
        shown,
        sampling,
        hushed,
        kept,
        unseen,
        (peak, rest),
    )
    behind = None
    if any(row.decision_window != row.block for row in group):
        behind = (
            view.position[pick]
            >= torch.tensor([row.block[1] for row in group], device=device)[:, None]
        )
    block = Block(view.tokens[pick], masked, shown, sizes, steps, behind)
    width, vocab = masked.shape[1], view.flat.shape[1]
    states = [
        row.decoder.init(1, width, vocab, device) if row.state is None else row.state
        for row in group
    ]
    decision, state = group[0].decoder.step(seen, block, _to_width(stack_states(states), width))
    raw = seen.raw_logits_of(decision.tokens[..., None])[..., 0]
    logprobs = (raw - view.best[pick]) - view.beside[pick].log1p()
    return decision, state, logprobs.clamp(min=NEVER)


def _to_width(state: State, width: int) -> State:
    """Cut or pad the position axis to this step's block width: a row keeps the width of its own
    last step.
    """
    return {
        name: x if x.dim() < 2 else F.pad(x, [0, 0] * (x.dim() - 2) + [0, width - x.shape[1]])
        for name, x in state.items()
    }


def _cut(values: Tensor, block: tuple[int, int], width: int) -> Tensor:
    """The block's part of a row, zeros behind it up to `width`."""
    return F.pad(values[slice(*block)], (0, width - (block[1] - block[0])))


def _groups(rows: Sequence[Request]) -> list[list[int]]:
    """Indices of rows that one call of a decoder serves: same rule, same way of drawing."""
    found: list[tuple[object, list[int]]] = []
    for i, row in enumerate(rows):
        c = row.config
        key = (row.decoder, c.temperature, c.top_k, c.top_p, c.confidence_eos_eot_inf)
        members = next((members for other, members in found if other == key), None)
        if members is None:
            found.append((key, [i]))
        else:
            members.append(i)
    return [members for _, members in found]


def _event(
    row: Request,
    decision: Decision,
    top: Tensor,
    logprobs: Tensor,
    slot: int,
    forward: int,
    seconds: float,
    ran: bool,
) -> StepEvent:
    start, end = row.decision_window
    where = (~row.read_only if row.can_edit else row.masked)[start:end].nonzero()[:, 0]
    credit = None if decision.credit is None else tuple(decision.credit[slot, where].tolist())
    return StepEvent(
        row=row.index,
        forward=forward,
        block=row.block_index,
        step=row.step,
        positions=tuple((where + start).tolist()),
        tokens=tuple(decision.tokens[slot, where].tolist()),
        confidence=tuple(decision.confidence[slot, where].tolist()),
        credit=credit,
        committed=tuple(decision.commit[slot, where].tolist()),
        seconds=seconds,
        computed=row.computed_positions * ran,
        sequences=(1 + row.guided) * ran,
        top=tuple(top[where].tolist()),
        logprobs=tuple(logprobs[where].tolist()),
        revoked=tuple((remasked(row, decision, slot).nonzero()[:, 0] + start).tolist()),
    )
