"""A step of one plain request on the host, with little beside the network and the decoder.

It shows the decoder what a step of a batch (`decoding/step.py`) would, bit for bit, so that all
that follows is equal. A small network is done so soon that making a batch of one would show.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    Sampling,
    State,
)
from creditdecoding.decoding.advance import moved_on, refuse_remask
from creditdecoding.decoding.alternatives import MIN_LOGPROB
from creditdecoding.decoding.forward import Denoiser, checked, is_packed, rule_out_ids
from creditdecoding.decoding.fused_head import leaves_unwritten
from creditdecoding.decoding.outcome import refuse_failed
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.ops.padding import of_width
from creditdecoding.ops.transfer import is_host
from creditdecoding.ops.vocab_stats import vocab_mass
from creditdecoding.trace import StepEvent

PLAIN_CAPABILITIES = (Capabilities(), Capabilities(dense_state=True))
"""What a decoder may do: write masked positions of the current block, and nothing else."""


class _MaskedBlock(NamedTuple):
    """The current block of a request, on the host.

    - `start`: where it begins; `masked` [width]: where it is masked.
    - `columns` [n]: the columns of its masks.
    - `row` [n]: zeros, the row of each of them.
    """

    start: int
    masked: NDArray[np.bool_]
    columns: NDArray[np.int64]
    row: Tensor

    @classmethod
    def of(cls, request: Request) -> _MaskedBlock:
        """That of a request."""
        start, end = request.block
        masked = request.masked.numpy()[start:end]
        (columns,) = masked.nonzero()
        row = torch.from_numpy(np.zeros_like(columns))
        return cls(start, masked, columns, row)

    @property
    def width(self) -> int:
        """How many positions it has."""
        return len(self.masked)

    @property
    def range(self) -> slice:
        """Its positions in the request."""
        return slice(self.start, self.start + self.width)

    def spread(self, values: NDArray[Any], fill: float) -> Tensor:
        """Values of the masks at their columns, [1, width]; `fill` elsewhere."""
        if len(values) == self.width:
            return torch.from_numpy(values[None])
        spread = np.full((1, self.width), fill, dtype=values.dtype)
        spread[0, self.columns] = values
        return torch.from_numpy(spread)


def takes_lean_step(model: Denoiser, request: Request, device: torch.device) -> bool:
    """Whether `lean_step` can do the next step of a request that is alone in its pass."""
    if not is_host(device) or request.capabilities not in PLAIN_CAPABILITIES:
        return False
    config = request.config
    if config.confidence_eos_eot_inf or request.guided:
        return False
    if request.constraint is not None or request.top_logprobs or request.scored_ids:
        return False
    masks = int(np.count_nonzero(request.masked.numpy()[slice(*request.block)]))
    if not masks or is_packed(model, [request]):
        return False
    return request.needs_whole_logits or not leaves_unwritten(request.geometry, masks)


def lean_step(
    model: Denoiser,
    request: Request,
    vocab: SpecialTokens,
    forward: int,
    clock: Callable[[], float],
    cache: KVCache | None,
) -> tuple[Request, StepEvent]:
    """The request after the step, and its event; the arguments are those of `denoise_step`.

    Raises `ModelError` if the model's logits have the wrong shape or are not finite.
    """
    window = _MaskedBlock.of(request)
    logits = _logits(model, request, window, vocab, cache)
    prediction, normaliser = _prediction(request, window, logits)
    block = _block(request, window, prediction)
    state = _state(request, window.width, logits)
    decision, state = request.decoder.step(prediction, block, state)
    if decision.remask is not None:
        refuse_remask(request)
    logprobs = _logprobs(prediction, decision.tokens, normaliser)
    when = (forward, clock())
    event = _event(request, window, prediction.ids, logprobs, decision, when)
    return _written(request, window, decision, state), event


def _logits(
    model: Denoiser,
    request: Request,
    window: _MaskedBlock,
    vocab: SpecialTokens,
    cache: KVCache | None,
) -> Tensor:
    """The logits at the masks of the window, -inf where an id must not be written."""
    first, end = request.computed_span
    column = window.columns + (window.start - first)
    reads = (window.row, torch.from_numpy(column))
    arguments: dict[str, Any] = {}
    if cache is not None and request.uses_cache:
        positions = _positions(first, end)
        caches = cache.layer_caches([request.cache_slot], positions, request.visible)
        arguments = {"positions": positions, "caches": caches}
    logits = model(request.canvas[None, first:end], reads, None, **arguments)
    logits = checked(logits, len(column), vocab.size)
    assert isinstance(logits, Tensor)
    rule_out_ids(logits, vocab)
    if request.config.logits_eos_inf or not request.may_stop_early:
        for token in vocab.stop_ids:
            logits[:, token].fill_(-torch.inf)
    return logits


def _prediction(
    request: Request, window: _MaskedBlock, logits: Tensor
) -> tuple[Prediction, Tensor]:
    """What the decoder sees of the model, and the logarithm of the mass over the best logit's."""
    ids, peak, rest = (values.numpy() for values in vocab_mass(logits))
    if not np.isfinite(peak + rest).all():
        refuse_failed([0])
    top = window.spread(peak, 0.0)
    mass = window.spread(rest, np.inf)
    normaliser = mass.log1p()
    prediction = Prediction(
        ids=window.spread(ids, 0),
        logit=top,
        lse=(top + normaliser).float(),
        logits=logits,
        logit_row=window.spread(np.arange(len(ids)), 0),
        masked=torch.from_numpy(window.masked[None]),
        sampling=_sampling(request, window),
        mass=(top, mass),
        masked_index=(window.row, torch.from_numpy(window.columns)),
    )
    return prediction, normaliser


def _sampling(request: Request, window: _MaskedBlock) -> Sampling:
    """How the request draws at this step."""
    config = request.config
    return Sampling(
        seed=_one(config.seed),
        position=_positions(window.range.start, window.range.stop),
        step=_one(request.step),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )


@functools.lru_cache(maxsize=1024)
def _one(value: int) -> Tensor:
    """The value of the only row, [1]. Kept, as nobody changes it."""
    return torch.tensor([value])


@functools.lru_cache(maxsize=64)
def _positions(start: int, end: int) -> Tensor:
    """The positions of the only row, [1, end - start]. Kept, as nobody changes them."""
    return torch.arange(start, end)[None]


def _block(request: Request, window: _MaskedBlock, prediction: Prediction) -> Block:
    """The block of which `prediction` is the model's."""
    return Block(
        tokens=request.canvas[None, window.range],
        masked=prediction.masked,
        editable=prediction.masked,
        initial_masks=_one(request.initial_masks),
        step=prediction.sampling.step,
    )


def _state(request: Request, width: int, logits: Tensor) -> State:
    """The decoder's state, a new one at the start of a block. A step in a batch may have left a
    wider one.
    """
    if request.state is None:
        return request.decoder.init(1, width, logits.shape[1], logits.device)
    return {name: of_width(values, width) for name, values in request.state.items()}


def _event(
    request: Request,
    window: _MaskedBlock,
    top: Tensor,
    logprobs: Tensor,
    decision: Decision,
    when: tuple[int, float],
) -> StepEvent:
    """What a decision does to the request, at the pass and time `when`.

    `top`, `logprobs`: the model's top-1 ids, and its log-probabilities of the decision's tokens.
    """
    columns = window.columns

    def at_masks(values: Tensor) -> tuple[Any, ...]:
        row = values.numpy()[0]
        return tuple((row if len(columns) == len(row) else row[columns]).tolist())

    return StepEvent(
        row=request.index,
        forward=when[0],
        block=request.block_index,
        step=request.step,
        positions=tuple((columns + window.start).tolist()),
        tokens=at_masks(decision.tokens),
        confidence=at_masks(decision.confidence),
        credit=None if decision.credit is None else at_masks(decision.credit),
        committed=at_masks(decision.commit),
        seconds=when[1],
        computed=request.computed_positions + request.prefill_positions,
        top=at_masks(top),
        logprobs=at_masks(logprobs),
        prefill=request.prefill_passes,
        reused=request.reused,
    )


def _logprobs(prediction: Prediction, tokens: Tensor, normaliser: Tensor) -> Tensor:
    """The model's log-probability of `tokens`."""
    if tokens is prediction.ids:
        return (-normaliser).clamp_(min=MIN_LOGPROB)
    below_peak = prediction.raw_logits_of(tokens[..., None])[..., 0] - prediction.logit
    return (below_peak - normaliser).clamp_(min=MIN_LOGPROB)


def _written(request: Request, window: _MaskedBlock, decision: Decision, state: State) -> Request:
    """The request after a decision, with the decoder's new `state`."""
    commit = decision.commit.numpy()[0] & window.masked
    canvas, masks = request.canvas.clone(), request.masked.clone()
    canvas.numpy()[window.range][commit] = decision.tokens.numpy()[0][commit]
    masks.numpy()[window.range][commit] = False
    again = decision.needs_another_pass is not None and bool(decision.needs_another_pass[0])
    return moved_on(request, canvas, masks, state, again)
