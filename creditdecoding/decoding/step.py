"""One step of decoding: a forward pass over some requests, then each decoder decides.

`denoise_step` has the model predict the current blocks of all requests (`BlockBatch`), shows each
decoder its own requests, and writes what it commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.decoders.base import (
    Block,
    Decision,
    Prediction,
    Sampling,
    State,
    stack_states,
    take_rows,
)
from creditdecoding.decoding.advance import apply_decision, remasked
from creditdecoding.decoding.block_batch import BlockBatch, predict
from creditdecoding.decoding.dedup import representatives
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.vocab_stats import log_sum
from creditdecoding.trace import StepEvent

MIN_LOGPROB = -9999.0
"""Log-probability of what must not be written; finite, so that it can be written as JSON."""


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
) -> tuple[list[Request], list[StepEvent]]:
    """One forward pass over `requests`, each at its own block, step, decoder and settings.

    Returns the requests after the step and an event for each; `forward` is the pass's number in
    them. Requests with a cache policy need a `cache`. With `dedup`, requests with identical visible
    tokens share a row of the pass, and the events of all but one say that they ran no sequence.

    Raises `ModelError` if the model's logits have the wrong shape or are not finite.
    """
    representative = representatives(requests) if dedup else None
    batch = predict(model, requests, vocab, device, cache, representative)
    after = list(requests)
    events: dict[int, StepEvent] = {}
    for members in _groups(requests):
        group = [requests[i] for i in members]
        decision, state, logprobs = _decide(batch, group, members, vocab)
        clock_time = clock()
        decision = _to_host(decision)
        top = batch.stats.ids[members].cpu()
        logprobs = logprobs.cpu()
        for row, i in enumerate(members):
            ran = representative is None or representative[i] == i
            when = (forward, clock_time)
            events[i] = _event(requests[i], decision, row, top[row], logprobs[row], when, ran)
            own_state = take_rows(state, slice(row, row + 1))
            after[i] = apply_decision(requests[i], decision, row, own_state, vocab.mask_id)
    return after, [events[i] for i in range(len(requests))]


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
) -> tuple[Decision, State, Tensor]:
    """Show a decoder its `requests`, which are the `members` of the batch.

    Returns its decision, its new state, and the model's log-probability of each decided token.
    """
    index = torch.tensor(members, device=batch.logits.device)
    prediction = _prediction(batch, requests, index, vocab)
    row, column = batch.host_editable[list(members)].nonzero(as_tuple=True)
    masked_index = (row.to(index.device), column.to(index.device))
    prediction = replace(prediction, masked_index=masked_index)
    state = _states(requests, prediction.masked.shape[1], batch.logits)
    block = _block(batch, requests, index)
    decision, state = requests[0].decoder.step(prediction, block, state)
    logit = prediction.raw_logits_of(decision.tokens[..., None])[..., 0]
    stats = batch.stats
    logprobs = (logit - stats.full_peak[index]) - stats.full_rest[index].log1p()
    return decision, state, logprobs.clamp(min=MIN_LOGPROB)


def _block(batch: BlockBatch, requests: Sequence[Request], index: Tensor) -> Block:
    """The blocks of a decoder's requests, which have `index` in the batch."""
    next_block, block_number = None, None
    if any(request.decision_window != request.block for request in requests):
        block_number = _block_numbers(requests, batch.position[index])
        next_block = block_number > 0
    return Block(
        tokens=batch.tokens[index],
        masked=batch.masked[index],
        editable=batch.editable[index],
        initial_masks=torch.tensor([r.initial_masks for r in requests], device=index.device),
        step=torch.tensor([r.step for r in requests], device=index.device),
        next_block=next_block,
        block_number=block_number,
    )


def _block_numbers(requests: Sequence[Request], position: Tensor) -> Tensor:
    """How many blocks of its request end at or before each position, from the current block on."""
    ends = [
        torch.tensor([end for _, end in r.blocks[r.block_index :][: r.blocks_ahead + 1]])
        for r in requests
    ]
    never = torch.iinfo(torch.long).max
    padded = pad_sequence(ends, batch_first=True, padding_value=never).to(position.device)
    return (position[..., None] >= padded[:, None]).sum(-1)


def _prediction(
    batch: BlockBatch, requests: Sequence[Request], index: Tensor, vocab: SpecialTokens
) -> Prediction:
    """What a decoder sees of the model at its requests, which have `index` in the batch."""
    suppresses = requests[0].config.confidence_eos_eot_inf
    leave_one_out = batch.leave_one_out_probs
    mass = (batch.stats.peak[index], batch.stats.rest[index])
    return Prediction(
        ids=batch.stats.ids[index],
        logit=batch.stats.logit[index],
        lse=log_sum(*mass),
        logits=batch.logits,
        logit_row=batch.logit_row[index],
        masked=batch.editable[index],
        sampling=_sampling(requests, batch.position[index]),
        suppressed_ids=vocab.stop_ids if suppresses else (),
        suppressed_logits=batch.suppressed_logits if suppresses else None,
        leave_one_out_probs=None if leave_one_out is None else leave_one_out[index],
        mass=mass,
    )


def _sampling(requests: Sequence[Request], position: Tensor) -> Sampling:
    config = requests[0].config
    return Sampling(
        seed=torch.tensor([r.config.seed for r in requests], device=position.device),
        position=position,
        step=torch.tensor([r.step for r in requests], device=position.device),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )


def _states(requests: Sequence[Request], width: int, logits: Tensor) -> State:
    """The decoder states of the requests, stacked; a new one at the start of a block.

    Each state is as wide as its own last step, so it is cut or padded to this step's width.
    """
    states = []
    for request in requests:
        state = request.state
        if state is None:
            state = request.decoder.init(1, width, logits.shape[1], logits.device)
        states.append(state)
    stacked = stack_states(states)
    for name, values in stacked.items():
        if values.dim() > 1:
            padding = [0, 0] * (values.dim() - 2) + [0, width - values.shape[1]]
            stacked[name] = F.pad(values, padding)
    return stacked


def _to_host(decision: Decision) -> Decision:
    tensors = {name: x.cpu() for name, x in vars(decision).items() if x is not None}
    return replace(decision, **tensors)


def _event(
    request: Request,
    decision: Decision,
    row: int,
    top: Tensor,
    logprobs: Tensor,
    when: tuple[int, float],
    ran: bool,
) -> StepEvent:
    """What `row` of a decision does to a request, at the pass and time `when`.

    Not `ran`: another request of the pass was computed for this one.
    """
    start, end = request.decision_window
    columns = request.editable[start:end].nonzero()[:, 0]

    def at_columns(values: Tensor) -> tuple[Any, ...]:
        return tuple(values[columns].tolist())

    return StepEvent(
        row=request.index,
        forward=when[0],
        block=request.block_index,
        step=request.step,
        positions=tuple((columns + start).tolist()),
        tokens=at_columns(decision.tokens[row]),
        confidence=at_columns(decision.confidence[row]),
        credit=None if decision.credit is None else at_columns(decision.credit[row]),
        committed=at_columns(decision.commit[row]),
        seconds=when[1],
        computed=request.computed_positions if ran else 0,
        sequences=request.sequences if ran else 0,
        top=at_columns(top),
        logprobs=at_columns(logprobs),
        revoked=tuple((remasked(request, decision, row).nonzero()[:, 0] + start).tolist()),
    )
