"""`denoise_step` and the plain loop over blocks: the specification of decoding, as a generator of trace events.

A row is a canvas of prompt and masks. Blocks of its masks are decoded left to right; each step runs the model once over the
active rows, shows each decoder its block, and writes what it commits. Leaves to others: rules (decoders/), text and chat
templates (lm.py), counting (trace.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import resolve
from creditdecoding.decoders.base import Block, Decision, Decoder, Prediction, Sampling, State, stack_states, take_rows
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.kernels.vocab import vocab_stats
from creditdecoding.trace import Event, FinishEvent, StepEvent


class Denoiser(Protocol):
    """Any callable from ids to logits: (tokens [rows, length], read = (row, column) [n], allowed [rows, 1, length]) -> [n, vocab].

    The logits must be the caller's to change: banned ids are overwritten in place.
    """

    def __call__(self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Vocabulary:
    """What the loop must know of the ids: the mask, what ends an answer, how many ids mean something, and ids -> text."""

    mask_id: int
    stop_ids: tuple[int, ...]
    size: int
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Row:
    """One request under way. A value: a step makes a new one.

    `canvas`, `masked` [length] on the host: the ids, and what is still to write; `spans` the blocks (start, end) that have
    masks; `span`, `step` where it is; `size` masks its block began with; `answer` where the answer starts; `open` whether it
    may end early (False when filling masks inside a given text). `state` lives where the model is;
    `began` is the second of the run in which the row joined.
    """

    index: int
    canvas: Tensor
    masked: Tensor
    spans: tuple[tuple[int, int], ...]
    answer: int
    open: bool
    config: GenerationConfig
    decoder: Decoder
    size: int
    state: State | None = None
    span: int = 0
    step: int = 0
    began: float = 0.0

    @property
    def block(self) -> tuple[int, int]:
        """First position of the current block and the one behind it."""
        return self.spans[self.span]


def start_row(index: int, prompt: Sequence[int], config: GenerationConfig, words: Vocabulary, max_length: int) -> Row:
    """A row that continues `prompt` by `gen_length` masks. Raises `OptionError` for an empty prompt or one that does not fit."""
    if not prompt:
        raise OptionError("the prompt is empty", hint="Give at least one token of text.")
    length = len(prompt) + config.gen_length
    if length > max_length:
        raise OptionError(
            "prompt and gen_length do not fit into the model",
            given=f"{len(prompt)} + {config.gen_length} positions",
            allowed=f"{max_length} together",
            hint="Shorten the prompt or lower gen_length.",
        )
    canvas = torch.full((length,), words.mask_id)
    canvas[: len(prompt)] = torch.tensor(list(prompt))
    return _row(index, canvas, torch.arange(length) >= len(prompt), len(prompt), True, config)


def start_infill(index: int, tokens: Sequence[int], config: GenerationConfig, words: Vocabulary, max_length: int) -> Row:
    """A row that fills the mask tokens inside `tokens`; the rest stays. Raises `OptionError` if there is none or it does not fit."""
    canvas = torch.tensor(list(tokens), dtype=torch.long)
    masked = canvas == words.mask_id
    if not bool(masked.any()):
        raise OptionError("there is no mask in the text to fill", hint="Mark each missing token with [MASK].")
    if len(canvas) > max_length:
        raise OptionError("the text is longer than the model allows", given=len(canvas), allowed=max_length, hint="Shorten the text.")
    return _row(index, canvas, masked, 0, False, config)


def _row(index: int, canvas: Tensor, masked: Tensor, answer: int, open: bool, config: GenerationConfig) -> Row:
    first, end = int(masked.nonzero()[0]), int(masked.nonzero()[-1]) + 1
    grid = [(edge, min(edge + config.block_length, end)) for edge in range(first, end, config.block_length)]
    spans = tuple((a, b) for a, b in grid if bool(masked[a:b].any()))
    size = int(masked[slice(*spans[0])].sum())
    return Row(index, canvas, masked, spans, answer, open, config, resolve(config.decoder), size)


@dataclass(frozen=True)
class _View:
    """The current blocks of all rows of a step, one width: [rows, width] on the device, and their predictions."""

    tokens: Tensor
    masked: Tensor
    position: Tensor
    place: Tensor
    flat: Tensor
    ids: Tensor
    top: Tensor
    lse: Tensor
    kept: Tensor | None


@torch.inference_mode()
def denoise_step(
    model: Denoiser, rows: Sequence[Row], words: Vocabulary, device: torch.device, forward: int = 0, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[Row], list[StepEvent]]:
    """One forward pass over `rows`, each at its own block, step, decoder and settings: the rows advanced, and what happened.

    Raises `ModelError` when the model's logits have the wrong shape or are not numbers.
    """
    view = _predict(model, rows, words, device)
    advanced: list[Row] = [*rows]
    events: list[StepEvent | None] = [None] * len(rows)
    for members in _groups(rows):
        decision, state = _decide(view, [rows[i] for i in members], members, words)
        seconds = clock()
        host = Decision(*(None if x is None else x.cpu() for x in (decision.tokens, decision.commit, decision.confidence, decision.credit)))  # type: ignore[arg-type]
        for slot, i in enumerate(members):
            events[i] = _event(rows[i], host, slot, forward, seconds)
            advanced[i] = _advance(rows[i], host, slot, take_rows(state, slice(slot, slot + 1)))
    return advanced, [event for event in events if event is not None]


def _predict(model: Denoiser, rows: Sequence[Row], words: Vocabulary, device: torch.device) -> _View:
    """Run the model, ban what must not be written, and reduce the logits to statistics."""
    lengths = torch.tensor([len(row.canvas) for row in rows])
    longest = int(lengths.max())
    canvas = torch.stack([F.pad(row.canvas, (0, longest - len(row.canvas)), value=words.mask_id) for row in rows])
    allowed = (torch.arange(longest) < lengths[:, None])[:, None] if int(lengths.min()) < longest else None
    width = max(end - start for start, end in (row.block for row in rows))
    position = torch.tensor([row.block[0] for row in rows])[:, None] + torch.arange(width)
    masked = torch.stack([_cut(row.masked, row.block, width) for row in rows])
    at_row, at_column = masked.nonzero(as_tuple=True)
    read = (at_row.to(device), position[at_row, at_column].to(device))
    flat = model(canvas.to(device), read, None if allowed is None else allowed.to(device))
    if flat.dim() != 2 or len(flat) != len(at_row) or flat.shape[1] < words.size:
        shape = f"({len(at_row)}, at least {words.size})"
        raise ModelError("the model returned logits of the wrong shape", given=tuple(flat.shape), allowed=shape, hint="Check the model.")
    ids, top, lse, kept = _statistics(flat, [rows[i] for i in at_row.tolist()], words)
    place = torch.zeros(masked.shape, dtype=torch.long).masked_scatter(masked, torch.arange(len(at_row))).to(device)
    tokens = torch.stack([_cut(row.canvas, row.block, width) for row in rows]).to(device)
    masked = masked.to(device)
    ids, top, lse = (
        torch.full(masked.shape, fill, dtype=x.dtype, device=device).masked_scatter(masked, x) for x, fill in ((ids, 0), (top, 0.0), (lse, torch.inf))
    )
    return _View(tokens, masked, position.to(device), place, flat, ids, top, lse, kept)


def _statistics(flat: Tensor, owners: Sequence[Row], words: Vocabulary) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Ban the mask token, meaningless ids and unwanted end tokens in place; top-1, its logit, log-sum-exp, hushed end-token logits.

    `owners` names the row of each line of `flat`. A gap inside a given text never gets an end token.
    """
    flat[:, words.mask_id] = -torch.inf
    flat[:, words.size :] = -torch.inf
    stops = list(words.stop_ids)
    never = torch.tensor([row.config.logits_eos_inf or not row.open for row in owners]).to(flat.device)
    if bool(never.any()):
        flat[:, stops] = flat[:, stops].masked_fill(never[:, None], -torch.inf)
    ids, top, lse = vocab_stats(flat)
    if not bool(torch.isfinite(lse).all()):
        raise ModelError(
            "the model returned logits that are not numbers", given="NaN or infinity", hint="Check the weights, or load them as float32."
        )
    last = torch.tensor([row.config.confidence_eos_eot_inf for row in owners]).to(flat.device)
    if not bool(last.any()):
        return ids, top, lse, None
    kept = flat[:, stops].clone()
    flat[:, stops] = kept.masked_fill(last[:, None], -torch.inf)
    lse[last] = vocab_stats(flat[last])[2].nan_to_num(nan=torch.inf)  # nothing but end tokens: confidence 0
    return ids, flat.gather(1, ids[:, None])[:, 0].float(), lse, kept


def _decide(view: _View, group: Sequence[Row], members: Sequence[int], words: Vocabulary) -> tuple[Decision, State]:
    """Show one decoder the blocks of its rows."""
    device, config = view.flat.device, group[0].config
    pick = torch.tensor(members, device=device)
    seeds, steps, sizes = (torch.tensor(x, device=device) for x in zip(*((r.config.seed, r.step, r.size) for r in group)))
    sampling = Sampling(seeds, view.position[pick], steps, config.temperature, config.top_k, config.top_p)
    hushed = words.stop_ids if config.confidence_eos_eot_inf else ()
    masked = view.masked[pick]
    seen = Prediction(
        view.ids[pick], view.top[pick], view.lse[pick], view.flat, view.place[pick], masked, sampling, hushed, view.kept if hushed else None
    )
    block = Block(view.tokens[pick], masked, masked, sizes, steps)
    width, vocab = masked.shape[1], view.flat.shape[1]
    states = [row.decoder.init(1, width, vocab, device) if row.state is None else row.state for row in group]
    return group[0].decoder.step(seen, block, _to_width(stack_states(states), width))


def _to_width(state: State, width: int) -> State:
    """Cut or pad the position axis to this step's block width: a row keeps the width of its own last step."""
    return {name: x if x.dim() < 2 else F.pad(x, [0, 0] * (x.dim() - 2) + [0, width - x.shape[1]]) for name, x in state.items()}


def _cut(values: Tensor, block: tuple[int, int], width: int) -> Tensor:
    """The block's part of a row, zeros behind it up to `width`."""
    return F.pad(values[slice(*block)], (0, width - (block[1] - block[0])))


def _groups(rows: Sequence[Row]) -> list[list[int]]:
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


def _event(row: Row, decision: Decision, slot: int, forward: int, seconds: float) -> StepEvent:
    start, end = row.block
    where = row.masked[start:end].nonzero()[:, 0]
    credit = None if decision.credit is None else tuple(decision.credit[slot, where].tolist())
    return StepEvent(
        row=row.index,
        forward=forward,
        block=row.span,
        step=row.step,
        positions=tuple((where + start).tolist()),
        tokens=tuple(decision.tokens[slot, where].tolist()),
        confidence=tuple(decision.confidence[slot, where].tolist()),
        credit=credit,
        committed=tuple(decision.commit[slot, where].tolist()),
        seconds=seconds,
    )


def _advance(row: Row, decision: Decision, slot: int, state: State) -> Row:
    """The row with the commits written; a finished block takes its decoder state with it."""
    start, end = row.block
    commit = decision.commit[slot, : end - start] & row.masked[start:end]
    canvas, masked = row.canvas.clone(), row.masked.clone()
    canvas[start:end] = torch.where(commit, decision.tokens[slot, : end - start], canvas[start:end])
    masked[start:end] &= ~commit
    if bool(masked[start:end].any()):
        return replace(row, canvas=canvas, masked=masked, state=state, step=row.step + 1)
    size = int(masked[slice(*row.spans[row.span + 1])].sum()) if row.span + 1 < len(row.spans) else 0
    return replace(row, canvas=canvas, masked=masked, state=None, span=row.span + 1, step=0, size=size)


def settled(row: Row, words: Vocabulary) -> tuple[list[int], bool]:
    """The answer's ids that no later step can change, up to its end token, and whether that end token was reached."""
    left = row.masked[row.answer :].nonzero()
    ids = row.canvas[row.answer : row.answer + int(left[0]) if len(left) else len(row.canvas)].tolist()
    if not row.open:
        return ids, False
    end = next((i for i, token in enumerate(ids) if token in words.stop_ids), None)
    return (ids, False) if end is None else (ids[:end], True)


def finish(row: Row, words: Vocabulary, seconds: float) -> FinishEvent | None:
    """The row's last event, if it is done: end token or stop string settled (and stopping allowed), or no mask left."""
    ids, ended = settled(row, words)
    done = row.span == len(row.spans)
    if row.open and row.config.stop:
        for n in range(len(ids) + 1):
            text = words.decode(ids[:n])
            if any(stop in text for stop in row.config.stop):
                return FinishEvent(row.index, "stop", tuple(ids[:n]), seconds, row.began)
    if ended and (row.config.early_stop or done):
        return FinishEvent(row.index, "stop", tuple(ids), seconds, row.began)
    return FinishEvent(row.index, "length", tuple(ids), seconds, row.began) if done else None


def run(model: Denoiser, rows: Iterable[Row], words: Vocabulary, device: torch.device, batch_size: int = 16) -> Iterator[Event]:
    """The plain loop: decode all `rows`, at most `batch_size` at a time, a finished row's place going to the next one.

    Yields a `StepEvent` a row a pass and a `FinishEvent` a row; times count from the start of the run.
    """
    zero = time.perf_counter()
    waiting, forward = iter(rows), 0
    active: list[Row] = []
    while True:
        while len(active) < batch_size and (row := next(waiting, None)) is not None:
            active.append(replace(row, began=time.perf_counter() - zero))
        if not active:
            return
        active, events = denoise_step(model, active, words, device, forward, lambda: time.perf_counter() - zero)
        yield from events
        forward += 1
        ends = [finish(row, words, time.perf_counter() - zero) for row in active]
        yield from (end for end in ends if end is not None)
        active = [row for row, end in zip(active, ends) if end is None]
