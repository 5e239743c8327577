"""One step of decoding: a forward pass over some requests, then each decoder decides.

`denoise_step` collects the current blocks of all requests in a `BlockBatch`, shows each decoder its
requests, and writes what it commits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from creditdecoding.decoding.dedup import representatives
from creditdecoding.decoding.forward import Denoiser, logits_at
from creditdecoding.decoding.request import LogitReads, Request, SpecialTokens
from creditdecoding.errors import ModelError
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass
from creditdecoding.trace import StepEvent

MIN_LOGPROB = -9999.0
"""Log-probability of what must not be written; finite, so that it can be written as JSON."""


@dataclass(frozen=True)
class BlockBatch:
    """The current blocks of all requests of a step, padded to one width, and their predictions.

    All on the device, [requests, width] unless another shape is given.

    - `tokens`, `masked`, `position`; `editable`: where there is a prediction, also on the host.
    - `logits` [n, vocab], of which `logit_row` holds the row of each editable position.
    - `ids`: the top-1 id; `logit`: its logit, -inf if the id is suppressed.
    - `peak`, `rest`: what confidence is measured by (`Prediction.mass`); `full_peak`, `full_rest`:
      the same with the suppressed ids.
    - `suppressed_logits` [n, stop ids] and `leave_one_out_probs`: as in `Prediction`.
    """

    tokens: Tensor
    masked: Tensor
    position: Tensor
    editable: Tensor
    host_editable: Tensor
    logits: Tensor
    logit_row: Tensor
    ids: Tensor
    logit: Tensor
    peak: Tensor
    rest: Tensor
    full_peak: Tensor
    full_rest: Tensor
    suppressed_logits: Tensor | None
    leave_one_out_probs: Tensor | None


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
    batch = _predict(model, requests, vocab, device, cache, representative)
    after = list(requests)
    events: dict[int, StepEvent] = {}
    for members in _groups(requests):
        group = [requests[i] for i in members]
        decision, state, logprobs = _decide(batch, group, members, vocab)
        clock_time = clock()
        decision = _to_host(decision)
        top = batch.ids[members].cpu()
        logprobs = logprobs.cpu()
        for row, i in enumerate(members):
            ran = representative is None or representative[i] == i
            when = (forward, clock_time)
            events[i] = _event(requests[i], decision, row, top[row], logprobs[row], when, ran)
            own_state = take_rows(state, slice(row, row + 1))
            after[i] = apply_decision(requests[i], decision, row, own_state, vocab.mask_id)
    return after, [events[i] for i in range(len(requests))]


def _predict(
    model: Denoiser,
    requests: Sequence[Request],
    vocab: SpecialTokens,
    device: torch.device,
    cache: KVCache | None,
    representative: Sequence[int] | None,
) -> BlockBatch:
    """Run the model and reduce its logits to statistics."""
    starts = torch.tensor([request.decision_window[0] for request in requests])
    editable = _windows(requests, [request.editable for request in requests])
    rewritten = _windows(requests, [request.leave_one_out_mask for request in requests])
    position = starts[:, None] + torch.arange(editable.shape[1])
    reads = _reads(editable, rewritten, position)
    logits = logits_at(model, requests, vocab, device, reads, cache, representative)
    count = int(editable.sum())
    logits, extra_logits = logits[:count], logits[count:]
    statistics, suppressed = _statistics(logits, requests, reads.row[:count], vocab)
    tokens = _windows(requests, [request.canvas for request in requests]).to(device)
    leave_one_out_probs = None
    if len(extra_logits):
        leave_one_out_probs = _token_probs(extra_logits, rewritten, tokens)
    masked = _windows(requests, [request.masked for request in requests])
    logit_row = torch.zeros_like(position).masked_scatter(editable, torch.arange(count))
    return BlockBatch(
        tokens=tokens,
        masked=masked.to(device),
        position=position.to(device),
        editable=editable.to(device),
        host_editable=editable,
        logits=logits,
        logit_row=logit_row.to(device),
        suppressed_logits=suppressed,
        leave_one_out_probs=leave_one_out_probs,
        **{name: _spread(values, editable.to(device), name) for name, values in statistics.items()},
    )


def _windows(requests: Sequence[Request], values: Sequence[Tensor]) -> Tensor:
    """The decision windows of values [length] of each request, padded with zeros."""
    parts = [x[slice(*request.decision_window)] for request, x in zip(requests, values)]
    return pad_sequence(parts, batch_first=True)


def _reads(editable: Tensor, rewritten: Tensor, position: Tensor) -> LogitReads:
    """Ordinary logits at the `editable` positions, then leave-one-out ones where `rewritten`."""
    row, column = editable.nonzero(as_tuple=True)
    extra_row, extra_column = rewritten.nonzero(as_tuple=True)
    row = torch.cat((row, extra_row))
    return LogitReads(
        row=row,
        position=position[row, torch.cat((column, extra_column))],
        leave_one_out=torch.arange(len(row)) >= len(column),
    )


def _spread(values: Tensor, editable: Tensor, name: str) -> Tensor:
    """Statistics [n] at their positions; elsewhere such that every probability is 0."""
    fill = torch.inf if name.endswith("rest") else 0
    full = torch.full(editable.shape, fill, dtype=values.dtype, device=values.device)
    return full.masked_scatter(editable, values)


def _token_probs(logits: Tensor, rewritten: Tensor, tokens: Tensor) -> Tensor:
    """Probability of each token where `rewritten`, from its logits there; 1 elsewhere."""
    row, column = (index.to(logits.device) for index in rewritten.nonzero(as_tuple=True))
    logit = logits.gather(1, tokens[row, column][:, None])[:, 0].float()
    _, peak, rest = vocab_mass(logits)
    probs = torch.ones(tokens.shape, device=logits.device)
    return probs.index_put((row, column), ((logit - peak) - rest.log1p()).exp().float())


def _statistics(
    logits: Tensor, requests: Sequence[Request], row: Tensor, vocab: SpecialTokens
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Statistics [n] of the logits by their names in `BlockBatch`, and the suppressed logits.

    `row` [n] is the request of each line. In lines of requests that write end tokens last, the
    logits of these are set to -inf in place.
    """
    ids, peak, rest = vocab_mass(logits)
    _refuse_not_finite(peak + rest, row)
    full = {"ids": ids, "full_peak": peak, "full_rest": rest}
    suppresses = [request.config.confidence_eos_eot_inf for request in requests]
    if not any(suppresses):
        return {**full, "logit": peak, "peak": peak, "rest": rest}, None
    lines = torch.tensor(suppresses)[row].to(logits.device)
    stops = list(vocab.stop_ids)
    suppressed = logits[:, stops]
    logits[:, stops] = suppressed.masked_fill(lines[:, None], -torch.inf)
    selected = [k for k, i in enumerate(row.tolist()) if suppresses[i]]
    index = torch.tensor(selected, device=logits.device)
    _, line_peak, line_rest = vocab_mass(logits[index])
    line_rest = line_rest.nan_to_num(nan=torch.inf)  # only end tokens left: confidence 0
    reduced = {
        "logit": logits.gather(1, ids[:, None])[:, 0].float(),
        "peak": peak.index_put((index,), line_peak),
        "rest": rest.index_put((index,), line_rest),
    }
    return {**full, **reduced}, suppressed


def _refuse_not_finite(values: Tensor, row: Tensor) -> None:
    """Raise `ModelError` for the requests of which a value is NaN or infinite."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint="Check the weights, or load them as float32.",
            rows=tuple(row[~finite.cpu()].unique().tolist()),
        )


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
    prediction = _prediction(batch, requests, members, vocab)
    ends = torch.tensor([request.block[1] for request in requests], device=index.device)
    looks_ahead = any(request.decision_window != request.block for request in requests)
    block = Block(
        tokens=batch.tokens[index],
        masked=batch.masked[index],
        editable=prediction.masked,
        initial_masks=torch.tensor([r.initial_masks for r in requests], device=index.device),
        step=prediction.sampling.step,
        next_block=batch.position[index] >= ends[:, None] if looks_ahead else None,
    )
    state = _states(requests, block.masked.shape[1], batch.logits)
    decision, state = requests[0].decoder.step(prediction, block, state)
    logit = prediction.raw_logits_of(decision.tokens[..., None])[..., 0]
    logprobs = (logit - batch.full_peak[index]) - batch.full_rest[index].log1p()
    return decision, state, logprobs.clamp(min=MIN_LOGPROB)


def _prediction(
    batch: BlockBatch, requests: Sequence[Request], members: Sequence[int], vocab: SpecialTokens
) -> Prediction:
    """What a decoder sees of its `requests`, the `members` of the batch."""
    device = batch.logits.device
    index = torch.tensor(members, device=device)
    config = requests[0].config
    suppresses = config.confidence_eos_eot_inf
    leave_one_out = batch.leave_one_out_probs
    row, column = batch.host_editable[list(members)].nonzero(as_tuple=True)
    mass = (batch.peak[index], batch.rest[index])
    return Prediction(
        ids=batch.ids[index],
        logit=batch.logit[index],
        lse=log_sum(*mass),
        logits=batch.logits,
        logit_row=batch.logit_row[index],
        masked=batch.editable[index],
        sampling=Sampling(
            seed=torch.tensor([r.config.seed for r in requests], device=device),
            position=batch.position[index],
            step=torch.tensor([r.step for r in requests], device=device),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        ),
        suppressed_ids=vocab.stop_ids if suppresses else (),
        suppressed_logits=batch.suppressed_logits if suppresses else None,
        leave_one_out_probs=None if leave_one_out is None else leave_one_out[index],
        mass=mass,
        masked_index=(row.to(device), column.to(device)),
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
