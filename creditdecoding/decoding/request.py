"""One request under way, as a value: the canvas of prompt and masks, its blocks, and when it is
finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import load, settings
from creditdecoding.decoders.base import Decision, Decoder, State, capabilities_of
from creditdecoding.decoding.cache_policy import BlockPosition, CachePolicy, NoCache, parse_policy
from creditdecoding.errors import OptionError, TooLongError
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.trace import FinishEvent

PLAIN_GEOMETRY = ModelGeometry()
_WORD = (1 << 64) - 1
DEFAULT_BLOCK_LENGTH = 32  # where neither the request nor the checkpoint says otherwise


@dataclass(frozen=True)
class SpecialTokens:
    """What the loop must know of the ids: the mask, what ends an answer, how many ids mean
    something, and ids -> text.

    `control_ids` order another loop to change the text (delete, split, expand): they are never
    written.
    """

    mask_id: int
    stop_ids: tuple[int, ...]
    size: int
    decode: Callable[[Sequence[int]], str]
    control_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    """One request under way. A value: a step makes a new one.

    `canvas`, `masked`, `given` [length] on the host: the ids, what is still to write, and what
    never changes; `spans` the blocks
    (start, end) that have masks; `span`, `step` where it is; `size` masks its block began with; the
    answer lies from
    `answer` to `end`; `open` whether it may end early (False when filling masks inside a given
    text); `suffix` tokens of given text
    stand behind the answer. `state` lives where the model is; `slot` is its place in a cache,
    `twin` that of its twin (guidance.py),
    `settled` as in `cache.At`; `began` is the second of the run in which the row joined.
    """

    index: int
    canvas: Tensor
    masked: Tensor
    read_only: Tensor
    blocks: tuple[tuple[int, int], ...]
    answer_start: int
    answer_end: int
    may_stop_early: bool
    config: GenerationConfig
    decoder: Decoder
    initial_masks: int
    geometry: ModelGeometry = PLAIN_GEOMETRY
    cache_policy: CachePolicy = NoCache()
    state: State | None = None
    block_index: int = 0
    step: int = 0
    cache_slot: int = 0
    unconditional_slot: int = 0
    stored_until: int = 0
    joined_at: float = 0.0
    suffix_length: int = 0

    @property
    def answer_prefix(self) -> list[int]:
        """The ids of the answer that were given with the prompt, up to the first that was not."""
        given = self.read_only[self.answer_start : self.answer_end] & self.may_stop_early
        return self.canvas[
            self.answer_start : self.answer_start + int(given.long().cumprod(0).sum())
        ].tolist()

    @property
    def block(self) -> tuple[int, int]:
        """First position of the current block and the one behind it."""
        return self.blocks[self.block_index]

    @property
    def decision_window(self) -> tuple[int, int]:
        """What the rule is shown: the block; if it looks ahead, up to the end of the next one,
        where the pass computes that too.
        """
        start, end = self.block
        if (
            self.looks_ahead
            and self.block_index + 1 < len(self.blocks)
            and self.blocks[self.block_index + 1][1] <= self.computed_span[1]
        ):
            end = self.blocks[self.block_index + 1][1]
        return start, end

    @property
    def max_window(self) -> int:
        """The most positions that the rule is shown in a pass."""
        further = self.blocks[1:] if self.looks_ahead and self.blocks[1:] else self.blocks
        return max(end - start for (start, _), (_, end) in zip(self.blocks, further))

    @property
    def looks_ahead(self) -> bool:
        """Whether the rule may also write in the block behind the current one."""
        return capabilities_of(self.decoder).looks_ahead

    @property
    def can_edit(self) -> bool:
        """Whether the rule may write over what it has written in the current block."""
        return capabilities_of(self.decoder).can_edit

    @property
    def can_remask(self) -> bool:
        """Whether the rule may take back what it has written in the current block."""
        return capabilities_of(self.decoder).can_remask

    @property
    def can_revise(self) -> bool:
        """Whether what is written in the current block may still change."""
        return capabilities_of(self.decoder).can_revise

    @property
    def leave_one_out_positions(self) -> tuple[int, ...]:
        """The positions that have a shadow in the next pass: those of the block that were not
        given, if the rule wants any.
        """
        if not capabilities_of(self.decoder).leave_one_out:
            return ()
        start, end = self.block
        return tuple(((~self.read_only[start:end]).nonzero()[:, 0] + start).tolist())

    @property
    def wants_leave_one_out(self) -> Tensor:
        """Where, [length], the next pass says how likely a written token is without itself: what
        the rule wrote, if it wants shadows.
        """
        return ~(self.masked | self.read_only) & capabilities_of(self.decoder).leave_one_out

    @property
    def guided(self) -> bool:
        """Whether each pass also runs the row's twin that does not see the prompt."""
        return self.config.cfg_scale > 0

    @property
    def block_position(self) -> BlockPosition:
        """Where the row is, in whole blocks of a block-causal model, which sees nothing behind its
        block.
        """
        (start, end), grid = self.block, self.geometry.causal_block
        if grid is None:
            return BlockPosition(start, end, self.step, len(self.canvas), self.stored_until)
        start, end = start - start % grid, min(-(-end // grid) * grid, len(self.canvas))
        return BlockPosition(start, end, self.step, end, self.stored_until)

    @property
    def computed_span(self) -> tuple[int, int]:
        """The positions that the next pass computes; with shifted logits also the one before."""
        first, last = self.cache_policy.span(self.block_position)
        return max(0, first - self.geometry.logit_shift), last

    @property
    def computed_positions(self) -> int:
        """How many positions the next pass computes, shadows among them."""
        first, last = self.computed_span
        return last - first + len(self.leave_one_out_positions)


def sample_seed(seed: int, index: int) -> int:
    """The seed of the row with number `index` among several that one seed is given for
    (docs/decoders.md, Seeds).

    The first row, 0, has `seed` itself; the others have a hash of both, from 0 to 2**62 - 1. So
    rows
    with equal prompts draw differently, and no row's draws depend on which others there are.
    """
    if index == 0:
        return seed
    return _mixed(_mixed(seed) + index) >> 2


def _mixed(value: int) -> int:
    """The next number of splitmix64."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31


ForwardFn = Callable[[Sequence[Request], Tensor, Tensor], Tensor]
"""One pass over rows: (rows, index into them [n], position [n]) -> logits [n, vocab]."""


def new_request(
    index: int,
    prompt: Sequence[int],
    config: GenerationConfig,
    vocab: SpecialTokens,
    max_length: int,
    geometry: ModelGeometry = PLAIN_GEOMETRY,
    answer_prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
) -> Request:
    """A row that continues `prompt` by an answer of `gen_length` positions, the first of them
    `begun` already, the others masks.

    Between prompt and `suffix`, ids of the text behind it, the answer fills its whole length. The
    blocks lie where they lie without `begun`.
    For a block-causal model the canvas ends with a whole block; masks behind the answer are seen
    but never written. Raises `OptionError`
    for an empty prompt, one that does not fit, an answer that has no mask left, or a suffix that
    the answer's positions do not see.
    """
    if not prompt and not suffix:
        raise OptionError("the prompt is empty", hint="Give at least one token of text.")
    end = len(prompt) + config.gen_length
    if end + len(suffix) > max_length:
        raise TooLongError(
            "prompt and gen_length do not fit into the model",
            given=f"{len(prompt) + len(suffix)} + {config.gen_length} positions",
            allowed=f"{max_length} together",
            hint="Shorten the prompt or lower gen_length.",
        )
    if answer_prefix:
        _check_begun(answer_prefix, config, vocab)
    grid = geometry.causal_block or 1
    whole = end + len(suffix)
    if suffix:
        _check_suffix(suffix, len(prompt), whole, vocab, geometry)
    length = max(whole, min(-(-whole // grid) * grid, max_length))
    canvas = torch.full((length,), vocab.mask_id)
    written = len(prompt) + len(answer_prefix)
    canvas[:written] = torch.tensor([*prompt, *answer_prefix], dtype=torch.long)
    canvas[end:whole] = torch.tensor(list(suffix), dtype=torch.long)
    place = torch.arange(length)
    masked = (place >= written) & (place < end)
    row = _row(index, canvas, masked, len(prompt), end, not suffix, config, geometry)
    return replace(row, suffix_length=len(suffix))


def _check_suffix(
    suffix: Sequence[int], first: int, whole: int, words: SpecialTokens, layout: ModelGeometry
) -> None:
    """Refuse a text with masks, or one that some position of the answer, which begins at `first`,
    does not see.
    """
    if words.mask_id in suffix:
        what, hint = "the mask token is in the suffix", "Take it out."
        raise OptionError(what, given=words.mask_id, hint=hint, param="suffix")
    grid = layout.causal_block
    if grid is not None and first // grid != (whole - 1) // grid:
        raise OptionError(
            "this model sees nothing behind a block, so an answer cannot be made to fit a suffix in a later one",
            given=f"answer and suffix from position {first} to {whole - 1}",
            allowed=f"both within a block of {grid} positions",
            hint="Leave suffix out, or take a model that sees both ways.",
            param="suffix",
        )


def _check_begun(begun: Sequence[int], config: GenerationConfig, words: SpecialTokens) -> None:
    """Refuse a begun answer that leaves nothing to write, or has ids that no text has."""
    if len(begun) >= config.gen_length:
        given, allowed = f"{len(begun)} of {config.gen_length} positions", "at least one mask"
        raise OptionError(
            "the begun answer leaves nothing to write",
            given=given,
            allowed=allowed,
            hint="Raise gen_length.",
        )
    never = (words.mask_id, *words.stop_ids, *words.control_ids)
    wrong = next((i for i in begun if i in never or not 0 <= i < words.size), None)
    if wrong is not None:
        what = (
            "the begun answer has a mask, an end token, a control token or an id that means nothing"
        )
        raise OptionError(what, given=wrong, hint="Cut it before that.")


def new_infill_request(
    index: int,
    tokens: Sequence[int],
    config: GenerationConfig,
    vocab: SpecialTokens,
    max_length: int,
    geometry: ModelGeometry = PLAIN_GEOMETRY,
) -> Request:
    """A row that fills the mask tokens inside `tokens`; the rest stays. Raises `OptionError` if
    there is none or it does not fit.
    """
    canvas = torch.tensor(list(tokens), dtype=torch.long)
    masked = canvas == vocab.mask_id
    if not bool(masked.any()):
        raise OptionError(
            "there is no mask in the text to fill", hint="Mark each missing token with [MASK]."
        )
    if len(canvas) > max_length:
        raise OptionError(
            "the text is longer than the model allows",
            given=len(canvas),
            allowed=max_length,
            hint="Shorten the text.",
        )
    return _row(index, canvas, masked, 0, len(canvas), False, config, geometry)


def _row(
    index: int,
    canvas: Tensor,
    masked: Tensor,
    answer: int,
    end: int,
    open: bool,
    config: GenerationConfig,
    layout: ModelGeometry,
) -> Request:
    rule, own = load(config.decoder)
    width = config.block_length or own or layout.causal_block or DEFAULT_BLOCK_LENGTH
    if layout.causal_block is not None and layout.causal_block % width:
        raise OptionError(
            "block_length does not divide the blocks of this block-causal model",
            given=width,
            allowed=f"{layout.causal_block}, or what divides it",
            hint="Leave block_length out; if the checkpoint was trained with other blocks, load it with causal_block.",
        )
    config = replace(config, block_length=width)
    first, last = int(masked.nonzero()[0]), int(masked.nonzero()[-1]) + 1
    if layout.causal_block is not None:
        first -= first % width
    elif open:
        first -= (first - answer) % width
    grid = [(edge, min(edge + width, last)) for edge in range(first, last, width)]
    spans = tuple((a, b) for a, b in grid if bool(masked[a:b].any()))
    size = int(masked[slice(*spans[0])].sum())
    rule, cache = check_supported(rule, layout), parse_policy(config.cache, layout)
    return Request(
        index, canvas, masked, ~masked, spans, answer, end, open, config, rule, size, layout, cache
    )


def check_supported(decoder: Any, geometry: ModelGeometry) -> Decoder:
    """The rule that `decoders.load` reads, if a network of this layout can run it. Raises
    `OptionError`.
    """
    rule, _ = load(decoder)
    if capabilities_of(rule).leave_one_out and not geometry.supports_kv_cache:
        what = "this decoder computes shadow tokens beside the text, and a model of your own cannot be told who sees whom"
        name, allowed = settings(rule)["name"], "models that load() reads"
        raise OptionError(what, given=name, allowed=allowed, hint="Choose another --decoder.")
    return rule


def remasked(row: Request, decision: Decision, slot: int) -> Tensor:
    """Where of its reach, [end - start], row `slot` of a decision takes back what an earlier pass
    wrote. Raises `OptionError`.
    """
    start, end = row.decision_window
    if decision.remask is None:
        return torch.zeros(end - start, dtype=torch.bool)
    if not row.can_remask:
        name = type(row.decoder).__name__
        raise OptionError(
            "this decoder takes tokens back and does not say so",
            given=name,
            hint="Set capabilities = Capabilities(can_remask=True) on its class.",
        )
    return decision.remask[slot, : end - start] & ~(row.masked | row.read_only)[start:end]


def apply_decision(
    row: Request, decision: Decision, slot: int, state: State, mask_id: int
) -> Request:
    """The row after row `slot` of a decision: commits written, what is revoked masked; a finished
    block takes its decoder state with it.

    A block is finished when nothing in it is masked and its rule does not ask for another pass; one
    that is written already is passed over.
    """
    start, end = row.decision_window
    width = end - start
    written = decision.commit[slot, :width] & (
        ~row.read_only[start:end] if row.can_edit else row.masked[start:end]
    )
    back = remasked(row, decision, slot)
    canvas, masked = row.canvas.clone(), row.masked.clone()
    canvas[start:end] = torch.where(
        written, decision.tokens[slot, :width], canvas[start:end]
    ).masked_fill(back, mask_id)
    masked[start:end] = masked[start:end] & ~written | back
    row = replace(row, canvas=canvas, masked=masked, stored_until=row.block_position.start)
    again = decision.needs_another_pass is not None and bool(decision.needs_another_pass[slot])
    if again or bool(masked[slice(*row.block)].any()):
        return replace(row, state=state, step=row.step + 1)
    later = (
        (i, int(masked[first:last].sum()))
        for i, (first, last) in enumerate(row.blocks)
        if i > row.block_index
    )
    span, size = next(((i, size) for i, size in later if size), (len(row.blocks), 0))
    return replace(row, state=None, block_index=span, step=0, initial_masks=size)


def finalized_ids(row: Request, vocab: SpecialTokens) -> tuple[list[int], bool]:
    """The answer's ids that no later step can change, up to its end token, and whether that end
    token was reached.
    """
    left = row.masked[row.answer_start : row.answer_end].nonzero()
    stop = row.answer_start + int(left[0]) if len(left) else row.answer_end
    if row.can_revise and row.block_index < len(row.blocks):
        stop = min(stop, max(row.answer_start, row.block[0]))
    ids = row.canvas[row.answer_start : stop].tolist()
    if not row.may_stop_early:
        return ids, False
    end = next((i for i, token in enumerate(ids) if token in vocab.stop_ids), None)
    return (ids, False) if end is None else (ids[:end], True)


def finish_event(row: Request, vocab: SpecialTokens, seconds: float) -> FinishEvent | None:
    """The row's last event, if it is done: end token or stop string settled (and stopping allowed),
    or no mask left.
    """
    ids, ended = finalized_ids(row, vocab)
    done = row.block_index == len(row.blocks)
    if (row.may_stop_early or row.suffix_length) and _stopped(row, vocab, ids):
        n = next(n for n in range(len(ids) + 1) if _stopped(row, vocab, ids[:n]))
        return FinishEvent(row.index, "stop", tuple(ids[:n]), seconds, row.joined_at)
    if ended and (row.config.early_stop or done):
        return FinishEvent(row.index, "stop", tuple(ids), seconds, row.joined_at)
    return FinishEvent(row.index, "length", tuple(ids), seconds, row.joined_at) if done else None


def _stopped(row: Request, words: SpecialTokens, ids: Sequence[int]) -> bool:
    """Whether the text of `ids` has a stop string in it."""
    return bool(row.config.stop) and any(map(words.decode(ids).__contains__, row.config.stop))
