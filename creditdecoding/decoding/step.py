"""One step of decoding: a forward pass over some requests, then each decoder decides.

`denoise_step` has the model predict the current blocks of all requests (`BlockBatch`), shows each
decoder its own requests, and writes what it commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoders._states import stack_states, take_rows
from creditdecoding.decoders.base import (
    Block,
    Prediction,
    Sampling,
    State,
)
from creditdecoding.decoding.advance import apply_decision, remasked
from creditdecoding.decoding.alternatives import MIN_LOGPROB, with_alternatives
from creditdecoding.decoding.block_batch import PER_REQUEST, BlockBatch, LogitStats, predict
from creditdecoding.decoding.constrained import fit_together
from creditdecoding.decoding.dedup import representatives
from creditdecoding.decoding.forward import Denoiser, pad_rows, pass_logits
from creditdecoding.decoding.lean_step import lean_step, takes_lean_step
from creditdecoding.decoding.outcome import (
    StepOutcome,
    outcome_fields,
    outcomes_on_host,
    refuse_failed,
)
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.head_logits import ModelLogits
from creditdecoding.ops.padding import of_width
from creditdecoding.ops.transfer import upload
from creditdecoding.ops.vocab_stats import log_sum
from creditdecoding.trace import StepEvent

NO_READS = torch.zeros(0, dtype=torch.long)


@torch.inference_mode()
def denoise_step(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    forward: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    cache: KVCache | None = None,
    dedup: bool = False,
    prefill: Sequence[Request] = (),
) -> tuple[list[Request], list[StepEvent]]:
    """One forward pass over `requests`, each at its own block, step, decoder and settings.

    The pass also stores a part of the prompt of each request in `prefill` (`Request.prefill_end`).

    Returns the requests after the step and an event for each; `forward` is the pass's number in
    them. Requests with a cache policy need a `cache`. With `dedup`, requests with identical visible
    tokens share a row of the pass, and the events of all but one say that they ran no sequence.

    Raises `ModelError` if the model's logits have the wrong shape or are not finite.
    """
    if not requests:
        pass_logits(
            model, [], vocab, device, LogitReads.plain(NO_READS, NO_READS), cache, None, prefill
        )
        return [], []
    if len(requests) == 1 and not prefill and takes_lean_step(model, requests[0], device):
        moved, event = lean_step(model, requests[0], vocab, forward, clock, cache)
        return [moved], [event]
    representative = representatives(requests) if dedup else None
    batch = predict(model, requests, vocab, device, cache, representative, prefill)
    groups = _groups(requests)
    decided = [_decide(batch, requests, members, vocab) for members in groups]
    outcomes = [
        fit_together(outcome, [requests[i] for i in members])
        for members, outcome in zip(groups, outcomes_on_host([fields for fields, _ in decided]))
    ]
    when = (forward, clock())
    rows = [
        (i, row, outcome, state)
        for members, outcome, (_, state) in zip(groups, outcomes, decided)
        for row, i in enumerate(members)
    ]
    refuse_failed([i for i, row, outcome, _ in rows if outcome.failed(row)])
    return _after_outcomes(batch, requests, rows, vocab, when, representative)


def _after_outcomes(
    batch: BlockBatch,
    requests: Sequence[Request],
    rows: Sequence[tuple[int, int, StepOutcome, State]],
    vocab: SpecialTokens,
    when: tuple[int, float],
    representative: Sequence[int] | None,
) -> tuple[list[Request], list[StepEvent]]:
    """The requests after the step, and their events.

    `rows`: of each request its number, its row in the outcome of its group, that outcome, and the
    state of the group's decoder.
    """
    after = list(requests)
    events: dict[int, StepEvent] = {}
    for i, row, outcome, state in rows:
        ran = representative is None or representative[i] == i
        request = requests[i]
        event = _event(request, outcome, row, batch.host.editable[i], when, ran)
        events[i] = with_alternatives(event, batch, i, request, outcome.commit[row], vocab)
        own_state = _own_state(request, state, row)
        request = _after_deferring(request, outcome, row)
        after[i] = apply_decision(request, outcome, row, own_state, vocab.mask_id)
    return after, [events[i] for i in range(len(requests))]


def _after_deferring(request: Request, outcome: StepOutcome, row: int) -> Request:
    """The request, which knows whether tokens of its block were left out."""
    return request.after_step(deferred=True) if outcome.defers(row) else request


def _own_state(request: Request, state: State, row: int) -> State:
    """The state of one row. What spans blocks is cut to the request's own window, so that wider
    rows of the batch do not change what it keeps.
    """
    own = take_rows(state, slice(row, row + 1))
    if not request.capabilities.state_spans_blocks:
        return own
    start, end = request.decision_window
    return {name: values[:, : end - start] for name, values in own.items()}


def _groups(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of the requests that one call of a decoder serves: same rule, same sampling."""
    keys: list[object] = []
    groups: list[list[int]] = []
    for i, request in enumerate(requests):
        config = request.config
        sampling = (config.temperature, config.top_k, config.top_p)
        key = (request.decoder, sampling, config.confidence_eos_eot_inf)
        if key not in keys:  # by comparison: a rule need not be hashable
            keys.append(key)
            groups.append([])
        groups[keys.index(key)].append(i)
    return groups


def _decide(
    batch: BlockBatch, requests: Sequence[Request], members: Sequence[int], vocab: SpecialTokens
) -> tuple[dict[str, Tensor], State]:
    """Show a decoder its requests, the `members` of the batch.

    Returns the fields of its `StepOutcome`, and its new state.
    """
    group = _group_of(batch, members)
    requests = [requests[i] for i in members]
    prediction = _prediction(group, requests, vocab)
    state = _states(requests, prediction.masked.shape[1], batch.logits)
    decision, state = requests[0].decoder.step(prediction, _block(group, requests), state)
    logprobs = _logprobs(prediction, decision.tokens, group.stats)
    return outcome_fields(decision, group.stats.ids, logprobs, group.finite), state


def _logprobs(prediction: Prediction, tokens: Tensor, stats: LogitStats) -> Tensor:
    """The model's log-probability of `tokens`."""
    below_peak: Tensor | float = 0.0  # the top-1 ids, if none is suppressed
    if tokens is not prediction.ids or stats.logit is not stats.full_peak:
        below_peak = prediction.raw_logits_of(tokens[..., None])[..., 0] - stats.full_peak
    return (below_peak - stats.full_rest.log1p()).clamp(min=MIN_LOGPROB)


def _group_of(batch: BlockBatch, members: Sequence[int]) -> BlockBatch:
    """The batch of some of its requests; the logits stay whole."""
    if len(members) == len(batch.host.start):
        return batch
    row, column = batch.host.editable[list(members)].nonzero()
    numbers = [np.array(members, dtype=np.int64), row, column]
    index, device_row, device_column = upload(numbers, batch.logits.device)
    own = {name: getattr(batch, name)[index] for name in PER_REQUEST}
    leave_one_out = batch.leave_one_out_probs
    return replace(
        batch,
        **own,
        masked_index=(device_row, device_column),
        finite=None if batch.finite is None else batch.finite[index],
        stats=batch.stats.of(index),
        leave_one_out_probs=None if leave_one_out is None else leave_one_out[index],
    )


def _block(batch: BlockBatch, requests: Sequence[Request]) -> Block:
    """The blocks of a decoder's requests, all of the batch."""
    next_block = None
    block_number = None
    if any(request.decision_window != request.block for request in requests):
        block_number = _block_numbers(requests, batch.position)
        next_block = block_number > 0
    return Block(
        tokens=batch.tokens,
        masked=batch.masked,
        editable=batch.editable,
        initial_masks=batch.initial_masks,
        step=batch.step,
        next_block=next_block,
        block_number=block_number,
    )


def _block_numbers(requests: Sequence[Request], position: Tensor) -> Tensor:
    """How many blocks of its request end at or before each position, from the current block on."""
    ends = [
        np.array([end for _, end in r.blocks[r.block_index :][: r.blocks_ahead + 1]])
        for r in requests
    ]
    (padded,) = upload([pad_rows(ends, np.iinfo(np.int64).max)], position.device)
    return (position[..., None] >= padded[:, None]).sum(-1)


def _prediction(batch: BlockBatch, requests: Sequence[Request], vocab: SpecialTokens) -> Prediction:
    """What a decoder sees of the model at its requests, all of the batch."""
    config = requests[0].config
    suppresses = config.confidence_eos_eot_inf
    stats = batch.stats
    return Prediction(
        ids=stats.ids,
        logit=stats.logit,
        lse=log_sum(stats.peak, stats.rest),
        logits=batch.logits,
        logit_row=batch.logit_row,
        masked=batch.editable,
        sampling=Sampling(
            seed=batch.seed,
            position=batch.position,
            step=batch.step,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        ),
        suppressed_ids=vocab.stop_ids if suppresses else (),
        suppressed_logits=batch.suppressed_logits if suppresses else None,
        leave_one_out_probs=batch.leave_one_out_probs,
        mass=(stats.peak, stats.rest),
        masked_index=batch.masked_index,
    )


def _states(requests: Sequence[Request], width: int, logits: ModelLogits) -> State:
    """The decoder states of the requests, stacked; a new one at the start of a block.

    Each state is as wide as its own last step, so it is cut or padded to this step's width.
    """
    states = []
    for request in requests:
        state = request.state
        if state is None:
            state = request.decoder.init(1, width, logits.shape[1], logits.device)
        states.append(state)
    stacked = dict(states[0]) if len(states) == 1 else stack_states(states)
    return {name: of_width(values, width) for name, values in stacked.items()}


def _event(
    request: Request,
    outcome: StepOutcome,
    row: int,
    editable: NDArray[np.bool_],
    when: tuple[int, float],
    ran: bool,
) -> StepEvent:
    """What `row` of an outcome does to a request, at the pass and time `when`.

    `editable` [width] is where the decoder could write. Not `ran`: another request of the pass was
    computed for this one.
    """
    start = request.decision_window[0]
    columns = np.flatnonzero(editable)
    positions = columns + start

    def at_columns(values: NDArray[Any]) -> tuple[Any, ...]:
        return tuple(values[row][columns].tolist())

    revoked = remasked(request, outcome, row)
    return StepEvent(
        row=request.index,
        forward=when[0],
        block=request.block_index,
        step=request.step,
        positions=tuple(positions.tolist()),
        tokens=at_columns(outcome.tokens),
        confidence=at_columns(outcome.confidence),
        credit=None if outcome.credit is None else at_columns(outcome.credit),
        committed=at_columns(outcome.commit),
        seconds=when[1],
        computed=request.computed_positions + request.prefill_positions if ran else 0,
        sequences=request.sequences if ran else 0,
        top=at_columns(outcome.top),
        logprobs=at_columns(outcome.logprobs),
        revoked=() if revoked is None else tuple((np.flatnonzero(revoked) + start).tolist()),
        prefill=request.prefill_passes,
        reused=request.reused,
        ahead=_blocks_ahead(request, positions),
    )


def _blocks_ahead(request: Request, positions: NDArray[Any]) -> tuple[int, ...] | None:
    """How many blocks after the current one the positions are; None if all are in it."""
    if request.decision_window == request.block:
        return None
    last = request.block_index + request.blocks_ahead
    ends = [end for _, end in request.blocks[request.block_index : last + 1]]
    return tuple(np.searchsorted(ends, positions, side="right").tolist())
