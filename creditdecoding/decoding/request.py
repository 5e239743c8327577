"""One request being decoded, as a value: its canvas of tokens and masks, and where it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.constraints.tokens import TokenAutomaton
from creditdecoding.decoders import load, settings
from creditdecoding.decoders.base import Capabilities, Decoder, State, capabilities_of
from creditdecoding.decoding.cache_policy import (
    BlockCausal,
    BlockPosition,
    CachePolicy,
    NoCache,
    parse_policy,
)
from creditdecoding.decoding.fused_head import check_fused_head, whole_logits_reason
from creditdecoding.decoding.scheduler import PassShape
from creditdecoding.errors import OptionError, TooLongError
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.wording import count

PLAIN_GEOMETRY = ModelGeometry()
DEFAULT_BLOCK_LENGTH = 32
"""Block length if neither the request nor the checkpoint sets one."""
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class SpecialTokens:
    """What decoding must know of the ids: the mask, the end tokens, how many ids have a meaning,
    and how ids become text.

    `control_ids` tell other programs to edit the text (delete, split, expand). They are never
    written.
    """

    mask_id: int
    stop_ids: tuple[int, ...]
    size: int
    decode: Callable[[Sequence[int]], str]
    control_ids: tuple[int, ...] = ()


class LogitReads(NamedTuple):
    """Which logits a pass returns: an entry for each, all [n] on the host.

    `row` counts the requests of the pass. With `leave_one_out`, the logits are those at `position`
    without the token that is written there.
    """

    row: Tensor
    position: Tensor
    leave_one_out: Tensor

    @classmethod
    def plain(cls, row: Tensor, position: Tensor) -> LogitReads:
        """Ordinary logits at these positions."""
        return cls(row, position, torch.zeros_like(row, dtype=torch.bool))

    def select(self, entries: Sequence[int]) -> LogitReads:
        """Some of the entries."""
        index = list(entries)
        return LogitReads(self.row[index], self.position[index], self.leave_one_out[index])


@dataclass(frozen=True)
class Request:
    """One request being decoded. A value: every step makes a new one.

    - `canvas`, `masked`, `read_only` [length], on the host: the ids, the positions still to be
      written, and those that were given and never change.
    - `blocks`: the half-open ranges that have masks; `block_index`, `step`: where decoding is;
      `initial_masks`: masks the current block began with.
    - `answer_start`, `answer_end`: the range of the answer; `suffix_length` given tokens follow it.
    - `may_stop_early`: False when masks inside a given text are filled.
    - `state`: the decoder's, on the model's device; None at the start of a block.
    - `cache_slot`, `unconditional_slot`: slots of the request and of its unconditional row;
      `stored_until`: as in `BlockPosition`.
    - `prefill_end`: where the part of the prompt ends that the next pass stores, without a step of
      the decoder; None for a step. `prefill_passes`, `prefill_positions`: what such passes since
      the last step computed; `reused`: positions whose keys and values came from other requests.
    - `joined_at`: when the request joined the run, in seconds since the run began.
    - `constraint`: what the answer must satisfy; `deferred`: whether tokens of the current block
      did not fit to others that were written in the same pass.
    - `top_logprobs`: how many of the likeliest ids an event names with each written token;
      `scored_ids`: ids that it names whatever they are, as many at each position in order, of a
      request that writes all positions in one pass.
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
    prefill_end: int | None = None
    prefill_passes: int = 0
    prefill_positions: int = 0
    reused: int = 0
    joined_at: float = 0.0
    suffix_length: int = 0
    constraint: TokenAutomaton | None = None
    deferred: bool = False
    top_logprobs: int = 0
    scored_ids: tuple[tuple[int, ...], ...] = ()

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        """What the decoder does besides writing masks."""
        return capabilities_of(self.decoder)

    @functools.cached_property
    def needs_whole_logits(self) -> bool:
        """Whether a pass must write the logits of the request."""
        return whole_logits_reason(self.decoder, self.config) is not None

    def after_step(self, **changes: Any) -> Request:
        """`dataclasses.replace` of fields that a step changes, a tenth of its time."""
        request = object.__new__(Request)
        vars(request).update(vars(self), **changes)
        vars(request).pop("pass_shape", None)
        return request

    @property
    def guided(self) -> bool:
        """Whether each pass also runs the request without its prompt."""
        return self.config.cfg_scale > 0

    @property
    def sequences(self) -> int:
        """How many rows of a pass the request takes."""
        return 2 if self.guided else 1

    def sample(self, number: int) -> Request:
        """Sample `number` of several of this request: it draws with its `sample_seed`."""
        seed = sample_seed(self.config.seed, number)
        return replace(self, config=replace(self.config, seed=seed))

    @property
    def given_tokens(self) -> int:
        """How many tokens were given before, between and after those that are written."""
        return int(self.read_only[: self.answer_end + self.suffix_length].sum())

    @property
    def uses_cache(self) -> bool:
        """Whether keys and values are kept between passes."""
        return not isinstance(self.cache_policy, NoCache)

    @property
    def is_decoded(self) -> bool:
        """Whether all blocks are finished."""
        return self.block_index == len(self.blocks)

    @property
    def answer_prefix(self) -> list[int]:
        """The ids of the answer that were given with the prompt, up to the first mask."""
        if not self.may_stop_early:
            return []
        is_given = self.read_only[self.answer_start : self.answer_end]
        count = int(is_given.long().cumprod(0).sum())
        return self.canvas[self.answer_start : self.answer_start + count].tolist()

    @property
    def block(self) -> tuple[int, int]:
        """The half-open range of the current block."""
        return self.blocks[self.block_index]

    @property
    def blocks_ahead(self) -> int:
        """How many blocks after the current one the decoder sees, if the pass computes them."""
        return self.capabilities.blocks_ahead if self.capabilities.looks_ahead else 0

    @property
    def decision_window(self) -> tuple[int, int]:
        """The range that the decoder sees: the block; if it looks ahead, to the end of the last
        block ahead that the pass computes.
        """
        start, end = self.block
        computed_end = self.computed_span[1] if self.blocks_ahead else end
        first = self.block_index + 1
        for _, next_end in self.blocks[first : first + self.blocks_ahead]:
            if next_end <= computed_end:
                end = next_end
        return start, end

    @property
    def max_window(self) -> int:
        """The largest number of positions that the decoder sees in a pass."""
        last = len(self.blocks) - 1
        ends = [self.blocks[min(i + self.blocks_ahead, last)][1] for i in range(len(self.blocks))]
        return max(end - start for end, (start, _) in zip(ends, self.blocks))

    @property
    def editable(self) -> Tensor:
        """Where the decoder may write now, [length]."""
        return ~self.read_only if self.capabilities.can_edit else self.masked

    @property
    def leave_one_out_positions(self) -> tuple[int, ...]:
        """The positions that have an extra column in the next pass: those of the block that were
        not given, if the decoder needs any.
        """
        if not self.capabilities.leave_one_out:
            return ()
        start, end = self.block
        return tuple(((~self.read_only[start:end]).nonzero()[:, 0] + start).tolist())

    @property
    def leave_one_out_mask(self) -> Tensor:
        """Where the next pass predicts a written token without itself, [length]."""
        return ~(self.masked | self.read_only) & self.capabilities.leave_one_out

    @property
    def block_position(self) -> BlockPosition:
        """The current block, in whole blocks of a block-causal model, for the cache policy.

        A block-causal model sees nothing after its block.
        """
        start, end = self.block
        length = len(self.canvas)
        causal_block = self.geometry.causal_block
        if causal_block is not None:
            start -= start % causal_block
            end = min(_round_up(end, causal_block), length)
            length = end
        return BlockPosition(start, end, self.step, length, self.stored_until)

    @property
    def visible(self) -> int:
        """How many positions the next pass sees."""
        return self.block_position.length if self.prefill_end is None else self.prefill_end

    @property
    def prefill_left(self) -> int:
        """How many positions before the block can be stored in passes of their own, and exactly:
        those of block-causal models that no pass has computed since they are final.
        """
        if self.step or not isinstance(self.cache_policy, BlockCausal):
            return 0
        return self.block_position.start - self.stored_until

    @property
    def computed_span(self) -> tuple[int, int]:
        """The range that the next pass computes; with shifted logits it begins one earlier."""
        if self.prefill_end is not None:
            return self.stored_until, self.prefill_end
        start, end = self.cache_policy.span(self.block_position)
        return max(0, start - self.geometry.logit_shift), end

    @functools.cached_property
    def pass_shape(self) -> PassShape:
        """What the request adds to its next pass."""
        start, end = self.computed_span
        extra_columns = len(self.leave_one_out_positions)
        return PassShape(end - start, self.sequences, extra_columns, self.visible)

    @property
    def computed_positions(self) -> int:
        """How many positions the next pass computes, extra columns included."""
        start, end = self.computed_span
        return end - start + len(self.leave_one_out_positions)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample number `index` among several that share `seed`.

    Sample 0 has `seed` itself, the others a hash of both, from 0 to 2**62 - 1. So samples of equal
    prompts differ, and none depends on which others there are. docs/reference/decoders.md, Seeds.
    """
    if index == 0:
        return seed
    return _splitmix64(_splitmix64(seed) + index) >> 2


def _splitmix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK64
    return value ^ value >> 31


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
    """A request for an answer of `gen_length` positions after `prompt`.

    The answer begins with `answer_prefix`, the rest is masks. With a `suffix`, the ids of text that
    follows, it fills its whole length. An `answer_prefix` does not move the blocks. For a
    block-causal model the canvas ends with a whole block; the masks after the answer are visible
    but never written.

    Raises `OptionError` for an empty prompt, one that does not fit, an answer without masks, or a
    suffix that the answer's positions do not see.
    """
    answer_end = len(prompt) + config.gen_length
    end = answer_end + len(suffix)
    _check_lengths(len(prompt) + len(suffix), config.gen_length, max_length)
    _check_answer_prefix(answer_prefix, config, vocab)
    _check_suffix(suffix, len(prompt), end, vocab, geometry)
    length = max(end, min(_round_up(end, geometry.causal_block or 1), max_length))
    written = len(prompt) + len(answer_prefix)
    canvas = torch.full((length,), vocab.mask_id)
    canvas[:written] = torch.tensor([*prompt, *answer_prefix], dtype=torch.long)
    canvas[answer_end:end] = torch.tensor(list(suffix), dtype=torch.long)
    masked = torch.zeros(length, dtype=torch.bool)
    masked[written:answer_end] = True
    answer = (len(prompt), answer_end)
    request = _new_request(index, canvas, masked, answer, not suffix, config, geometry)
    return request.after_step(suffix_length=len(suffix)) if suffix else request


def _check_lengths(context_length: int, gen_length: int, max_length: int) -> None:
    if not context_length:
        raise OptionError("the prompt is empty", hint="Give at least one token of text.")
    if context_length + gen_length > max_length:
        raise TooLongError(
            "prompt and gen_length do not fit into the model",
            given=f"{context_length} + {count(gen_length, 'position')}",
            allowed=f"{max_length} together",
            hint="Shorten the prompt or lower gen_length.",
        )


def _check_suffix(
    suffix: Sequence[int], start: int, end: int, vocab: SpecialTokens, geometry: ModelGeometry
) -> None:
    """Refuse a suffix with masks, and one in a block that the answer's positions do not see."""
    if vocab.mask_id in suffix:
        raise OptionError(
            "the mask token is in the suffix",
            given=vocab.mask_id,
            hint="Take it out.",
            param="suffix",
        )
    block = geometry.causal_block
    if suffix and block is not None and start // block != (end - 1) // block:
        raise OptionError(
            "this model sees nothing after a block, so no answer can fit a suffix in a later block",
            given=f"answer and suffix from position {start} to {end - 1}",
            allowed=f"both within a block of {block} positions",
            hint="Leave suffix out, or use a model with full attention.",
            param="suffix",
        )


def _check_answer_prefix(
    prefix: Sequence[int], config: GenerationConfig, vocab: SpecialTokens
) -> None:
    """Refuse a prefix that leaves nothing to write, or has ids that no text has."""
    if len(prefix) >= config.gen_length:
        raise OptionError(
            "the begun answer leaves nothing to write",
            given=f"{len(prefix)} of {count(config.gen_length, 'position')}",
            allowed="at least one mask",
            hint="Raise gen_length.",
        )
    reserved = (vocab.mask_id, *vocab.stop_ids, *vocab.control_ids)
    for token in prefix:
        if token in reserved or not 0 <= token < vocab.size:
            raise OptionError(
                "the begun answer has a mask, an end token, a control token or an unused id",
                given=token,
                hint="Cut it before that.",
            )


def new_infill_request(
    index: int,
    tokens: Sequence[int],
    config: GenerationConfig,
    vocab: SpecialTokens,
    max_length: int,
    geometry: ModelGeometry = PLAIN_GEOMETRY,
) -> Request:
    """A request to fill the mask tokens inside `tokens`; the rest stays.

    Raises `OptionError` if there is no mask or the text does not fit.
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
    return _new_request(index, canvas, masked, (0, len(canvas)), False, config, geometry)


def _new_request(
    index: int,
    canvas: Tensor,
    masked: Tensor,
    answer: tuple[int, int],
    may_stop_early: bool,
    config: GenerationConfig,
    geometry: ModelGeometry,
) -> Request:
    """Choose the block length and divide the masks into blocks."""
    decoder, own_block_length = load(config.decoder)
    causal_block = geometry.causal_block
    width = config.block_length or own_block_length or causal_block or DEFAULT_BLOCK_LENGTH
    if causal_block is not None and causal_block % width:
        raise OptionError(
            "block_length does not divide the blocks of this block-causal model",
            given=width,
            allowed=f"{causal_block} or a divisor of it",
            hint="Leave block_length out, or load a checkpoint trained with other blocks with "
            "causal_block.",
        )
    grid_start = None
    if causal_block is not None:
        grid_start = 0
    elif may_stop_early:
        grid_start = answer[0]
    blocks = _blocks(masked, width, grid_start)
    rule = check_supported(decoder, geometry)
    check_fused_head(geometry, rule, config)
    return Request(
        index=index,
        canvas=canvas,
        masked=masked,
        read_only=~masked,
        blocks=blocks,
        answer_start=answer[0],
        answer_end=answer[1],
        may_stop_early=may_stop_early,
        config=config if width == config.block_length else replace(config, block_length=width),
        decoder=rule,
        initial_masks=int(masked[slice(*blocks[0])].sum()),
        geometry=geometry,
        cache_policy=parse_policy(config.cache, geometry),
    )


def _blocks(masked: Tensor, width: int, grid_start: int | None) -> tuple[tuple[int, int], ...]:
    """The ranges of `width` positions that have masks, from `grid_start` or the first mask on."""
    is_masked = masked.numpy()
    positions = np.flatnonzero(is_masked).tolist()
    first, end = positions[0], positions[-1] + 1
    if grid_start is not None:
        first -= (first - grid_start) % width
    ranges = [(start, min(start + width, end)) for start in range(first, end, width)]
    return tuple((a, b) for a, b in ranges if is_masked[a:b].any())


def check_supported(decoder: Any, geometry: ModelGeometry) -> Decoder:
    """The decoder that `decoders.load` makes of a spec, if a model of this geometry can run it.

    Raises `OptionError`.
    """
    rule, _ = load(decoder)
    if capabilities_of(rule).leave_one_out and not geometry.supports_kv_cache:
        raise OptionError(
            "this decoder needs leave-one-out columns, which a model of your own cannot compute",
            given=settings(rule)["name"],
            allowed="models that load() reads",
            hint="Choose another --decoder.",
        )
    check_fused_head(geometry, rule)
    return rule
