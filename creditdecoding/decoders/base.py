"""The contract between a model and the decoders: a `Prediction` and a `Block` go in, a `Decision`
comes out. A decoder sees nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from creditdecoding.ops.boosted_choice import boosted_choice, lowest_of_the_best
from creditdecoding.ops.head_logits import HeadLogits, Logits, gather_logits, line_chunks, mass_of
from creditdecoding.ops.logit_walks import (
    Draw,
    drawn_ids,
    put_back,
    raw_tiles,
    top_of,
    weighted_gaps,
)
from creditdecoding.ops.noise import uniform_noise
from creditdecoding.ops.transfer import widest_float
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass
from creditdecoding.options import check_fields

TokenIds = Int[Tensor, "rows length"]
Scores = Float[Tensor, "rows length"]
Positions = Bool[Tensor, "rows length"]
"""A set of positions of the block, one set a row."""

State = dict[str, Tensor]
"""A decoder's memory of a block: tensors whose first axis is the row. A step returns new ones."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest token; above 0, `seed` [rows],
    `position` [rows, length] and `step` [rows] are the keys of the noise.
    """

    seed: Int[Tensor, " rows"]
    position: Int[Tensor, "rows length"]
    step: Int[Tensor, " rows"]
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The model's output at the positions of `masked`: the masked positions of the block, or all
    editable ones for a decoder that can edit.

    `ids` (top-1 id), `logit` (its logit) and `lse` (log-sum-exp over the vocabulary) are [rows,
    length]; outside `masked` they are 0, 0 and inf, so that every probability there is 0.
    `logits` [n, vocab] holds everything else; `logit_row` [rows, length] is the row of a position.
    Logits may be unwritten (`UnwrittenLogits`): indexing by lines writes these lines.
    `suppressed_ids` may be written but have confidence 0; `suppressed_logits` [n, suppressed] keeps
    their real logits. `mass` is the best logit of all other ids, and the sum of exp(logit - best
    logit) over the rest of them; if it is missing it is computed from `logit` and `lse`, with
    fewer digits. `masked_index` is the row and column of each position of `masked`, and possibly of
    others; if it is missing the host has to ask the device for it.
    """

    ids: TokenIds
    logit: Scores
    lse: Scores
    logits: Logits
    logit_row: Int[Tensor, "rows length"]
    masked: Positions
    sampling: Sampling
    suppressed_ids: tuple[int, ...] = ()
    suppressed_logits: Float[Tensor, "n suppressed"] | None = field(default=None)
    leave_one_out_probs: Scores | None = None
    mass: tuple[Scores, Scores] | None = None
    masked_index: tuple[Int[Tensor, " positions"], Int[Tensor, " positions"]] | None = None

    @property
    def leave_one_out(self) -> Scores:
        """Probability of each token that was written in the block, read at a mask in the same
        position that does not see the token; 1 elsewhere. For decoders with the capability
        `leave_one_out`. Suppressed ids and temperature do not change it.
        """
        if self.leave_one_out_probs is None:
            return torch.ones_like(self.logit)
        return self.leave_one_out_probs

    def masked_positions(self) -> tuple[Tensor, Tensor]:
        """`masked_index`, made if it is missing."""
        if self.masked_index is not None:
            return self.masked_index
        row, column = self.masked.nonzero(as_tuple=True)
        return row, column

    def position_chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """`masked_positions` a few at a time, so that [positions, vocab] temporaries stay small."""
        row, column = self.masked_positions()
        width = max((part.stop - part.start for part in line_chunks(self.logits)), default=1)
        for start in range(0, len(row), width):
            yield row[start : start + width], column[start : start + width]

    @property
    def probability(self) -> Scores:
        """Probability of the top-1 id, in float32."""
        return self.confidence(self.ids).float()

    def choose(
        self,
        ids: Int[Tensor, "rows length k"] | None = None,
        boost: Float[Tensor, "rows length k"] | None = None,
    ) -> tuple[TokenIds, Scores]:
        """The token to write at each position and its confidence, after `boost` >= 0 is added to
        the logits of `ids` (entries with boost 0 are ignored).

        Temperature 0 takes the likeliest token, the lowest id of equals. Otherwise the token is
        drawn by Gumbel noise from the boosted distribution, after temperature, top_k and top_p.
        """
        if self.sampling.temperature != 0:
            tokens = self._sample(ids, boost)
        elif ids is None or boost is None:
            tokens = self.ids
        elif isinstance(self.logits, Tensor) and not self.suppressed_ids:
            return self._boosted_choice(ids, boost)
        else:
            tokens = self._boosted_top(ids, boost)
        return tokens, self.confidence(tokens, ids, boost)

    def confidence(
        self,
        tokens: TokenIds,
        ids: Int[Tensor, "rows length k"] | None = None,
        boost: Float[Tensor, "rows length k"] | None = None,
    ) -> Scores:
        """Probability of `tokens` after `boost` is added to the logits of `ids`, which is what the
        decoders compare. 0 for suppressed ids and outside `masked`.

        Float64, exact to its last digits near 1, so that near-certain tokens are ordered as by a
        softmax in float64.
        """
        if tokens is self.ids and boost is None and self.mass and not self.suppressed_ids:
            return (1.0 + self.mass[1]).reciprocal()  # their logit is the best one
        peak, rest = self._peak_and_rest()
        own = self._logits_below(peak, tokens[..., None])[..., 0]
        total = 1.0 + rest
        if ids is not None and boost is not None:
            boost = boost.to(rest.dtype)
            own = own + (boost * (ids == tokens[..., None])).sum(-1)
            total = total + (self._logits_below(peak, ids).exp() * boost.expm1()).sum(-1)
        return (own.exp() / total).masked_fill(~self.masked, 0.0).nan_to_num(nan=0.0)

    def error_probability(self, tokens: TokenIds) -> Scores:
        """1 - confidence, accurate however small it is; 1 outside `masked`."""
        peak, rest = self._peak_and_rest()
        own = self._logits_below(peak, tokens[..., None])[..., 0]
        error = -torch.expm1(own - rest.log1p())
        return error.masked_fill(~self.masked, 1.0).nan_to_num(nan=1.0)

    def is_suppressed(self, tokens: TokenIds) -> Positions:
        """Whether a token is one of `suppressed_ids`, or has logit -inf for another reason."""
        return self.logits_of(tokens[..., None])[..., 0] == float("-inf")

    def logits_of(self, ids: Int[Tensor, "rows length k"]) -> Float[Tensor, "rows length k"]:
        """Logits of the given ids in float32: -inf for suppressed ids, 0 outside `masked`."""
        values = gather_logits(self.logits, self.logit_row, ids)
        if isinstance(self.logits, HeadLogits):  # a product of its own may have other last digits
            values = torch.where(ids == self.ids[..., None], self.logit[..., None], values)
        return values.masked_fill(~self.masked[..., None], 0.0)

    def raw_logits_of(self, ids: Int[Tensor, "rows length k"]) -> Float[Tensor, "rows length k"]:
        """The logits by which tokens are chosen: `logits_of`, but suppressed ids keep their real
        logit.
        """
        values = self.logits_of(ids)
        if self.suppressed_logits is None:
            return values
        real = self.suppressed_logits[self.logit_row].float()
        for column, suppressed in enumerate(self.suppressed_ids):
            values = torch.where(ids == suppressed, real[..., column, None], values)
        return values

    def probabilities_of_logits(
        self, logits: Float[Tensor, "rows length k"]
    ) -> Float[Tensor, "rows length k"]:
        """Probabilities of tokens with these logits, in float32; 0 outside `masked`."""
        peak, rest = self._peak_and_rest()
        below = logits.to(peak.dtype) - peak[..., None]
        probabilities = below.exp() / (1.0 + rest)[..., None]
        outside = ~self.masked[..., None]
        return probabilities.float().masked_fill(outside, 0.0).nan_to_num(nan=0.0)

    def log_probs(self) -> Float[Tensor, "rows length vocab"]:
        """All log-probabilities: a dense tensor, slow and large. A decoder that calls this says so
        in its docstring.
        """
        peak, rest = self._peak_and_rest()
        below = self.logits[self.logit_row].float() - peak.float()[..., None]
        log_probs = below - rest.log1p().float()[..., None]
        return log_probs.masked_fill(~self.masked[..., None], float("-inf"))

    def entropy(self) -> Scores:
        """Entropy in nats, 0 outside `masked`. Walks the logits once more; all terms are positive,
        so that small values keep their digits.
        """
        peak, rest = self._peak_and_rest()
        peaks = torch.zeros(len(self.logits), device=self.logits.device)
        masked_peak = peak.float().masked_fill(~self.masked, 0.0)
        peaks.index_add_(0, self.logit_row.flatten(), masked_peak.flatten())
        gaps = weighted_gaps(self.logits, peaks)
        entropy = rest.log1p() + gaps[self.logit_row] / (1.0 + rest)
        return entropy.float().masked_fill(~self.masked, 0.0)

    def top2(self) -> tuple[Int[Tensor, "rows length 2"], Float[Tensor, "rows length 2"]]:
        """Ids and logits of the two likeliest tokens. Walks the logits once more."""
        return self.top(2)

    def top(self, k: int) -> tuple[Int[Tensor, "rows length k"], Float[Tensor, "rows length k"]]:
        """Ids and logits of the k likeliest tokens, the likeliest first; 0 outside `masked`. Walks
        the logits once more. k is at most the size of the vocabulary.
        """
        values, ids = top_of(self.logits, k)
        outside = ~self.masked[..., None]
        top_ids = ids[self.logit_row].masked_fill(outside, 0)
        return top_ids, values[self.logit_row].masked_fill(outside, 0.0)

    def with_boost(self, boost: Float[Tensor, "rows length vocab"]) -> Prediction:
        """This prediction with `boost` added to every logit (dense, slow and large)."""
        logits = self.logits[self.logit_row].float() + boost
        boosted = replace(
            from_logits(logits, self.masked, self.sampling),
            leave_one_out_probs=self.leave_one_out_probs,
            masked_index=self.masked_index,
        )
        if self.suppressed_logits is None:
            return boosted
        suppressed_logits = self.suppressed_logits[self.logit_row]
        raw = logits.clone()
        put_back(raw, self.suppressed_ids, suppressed_logits)
        ids = raw.argmax(-1).masked_fill(~self.masked, 0)
        return replace(
            boosted,
            ids=ids,
            logit=logits.gather(-1, ids[..., None])[..., 0].masked_fill(~self.masked, 0.0),
            suppressed_ids=self.suppressed_ids,
            suppressed_logits=suppressed_logits.reshape(-1, len(self.suppressed_ids)),
        )

    def uniform(self) -> Scores:
        """Noise in (0, 1) that depends only on each row's seed, position and step."""
        keys = self.sampling
        no_id = torch.full_like(keys.position, -1)
        return uniform_noise(keys.seed[:, None], keys.position, keys.step[:, None], no_id).float()

    def _logits_below(self, peak: Tensor, ids: Tensor) -> Tensor:
        """Logits of ids minus the best logit, in float64: exact, unlike a difference from lse."""
        return self.logits_of(ids).to(peak.dtype) - peak[..., None]

    def _peak_and_rest(self) -> tuple[Tensor, Tensor]:
        """`mass`, both parts in its wider dtype."""
        if self.mass is not None:
            peak, rest = self.mass
        elif self.suppressed_ids:  # the top-1 id may be one of them
            _, peak, rest = (part[self.logit_row] for part in mass_of(self.logits))
        else:
            dtype = widest_float(self.logit.device)
            peak = self.logit
            rest = (self.lse.to(dtype) - peak.to(dtype)).expm1().clamp(min=0.0)
        return peak.to(rest.dtype), rest

    def _boosted_top(self, ids: Tensor, boost: Tensor) -> Tensor:
        """The likeliest token after the boost, the lowest id of equals."""
        candidates = torch.cat((self.ids[..., None], ids), dim=-1)
        is_candidate = torch.cat((torch.ones_like(self.masked)[..., None], boost > 0), dim=-1)
        added = torch.cat((torch.zeros_like(boost[..., :1]), boost), dim=-1)
        score = self.raw_logits_of(candidates) + added
        score = score.masked_fill(~is_candidate, float("-inf"))
        return candidates.gather(-1, lowest_of_the_best(score, candidates))[..., 0]

    def _boosted_choice(self, ids: Tensor, boost: Tensor) -> tuple[Tensor, Tensor]:
        """`_boosted_top` and its `confidence`, from one gather of written logits."""
        candidates = torch.cat((self.ids[..., None], ids), dim=-1)
        logits = self.logits_of(candidates)
        tokens, confidence = boosted_choice(candidates, logits, boost, self._peak_and_rest())
        return tokens, confidence.masked_fill(~self.masked, 0.0).nan_to_num(nan=0.0)

    def _sample(self, ids: Tensor | None, boost: Tensor | None) -> Tensor:
        """Tokens drawn from the boosted distribution, a few positions at a time."""
        sampling = self.sampling
        peak = self.raw_logits_of(self.ids[..., None])
        if ids is not None and boost is not None:
            boosted = self.raw_logits_of(ids).double() + boost.double()
            peak = torch.cat((peak, boosted), dim=-1).amax(-1, keepdim=True)
        tokens = torch.zeros_like(self.ids)
        for part in self.position_chunks():
            rows = part[0]
            position = sampling.position[part]
            draw = Draw(
                keys=(sampling.seed[rows, None], position[:, None], sampling.step[rows, None]),
                peak=peak[part].double(),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                boosted=None if ids is None else ids[part],
                boost=None if boost is None else boost[part],
            )
            tiles = self._raw_tiles(self.logit_row[part], draw.restricted)
            tokens[part] = drawn_ids(tiles, draw)
        return tokens

    def _raw_tiles(self, lines: Tensor, whole: bool) -> Iterator[tuple[int, Tensor]]:
        """Logits of some lines in float64 in which suppressed ids keep their real logit."""
        suppressed = None
        if self.suppressed_logits is not None and self.suppressed_ids:
            suppressed = (self.suppressed_ids, self.suppressed_logits)
        return raw_tiles(self.logits, lines, suppressed, whole)


def from_logits(
    logits: Float[Tensor, "rows length vocab"],
    masked: Positions,
    sampling: Sampling | None = None,
) -> Prediction:
    """A Prediction over dense logits, for tests and rules that change them; greedy by default."""
    rows, length, vocab = logits.shape
    flat = logits.reshape(-1, vocab)
    ids, top, rest = (part.view(rows, length) for part in vocab_mass(flat))
    if sampling is None:
        zero = torch.zeros(rows, dtype=torch.long, device=logits.device)
        sampling = Sampling(zero, torch.arange(length, device=logits.device).expand(rows, -1), zero)
    top = top.masked_fill(~masked, 0.0)
    rest = rest.masked_fill(~masked, float("inf"))
    return Prediction(
        ids=ids.masked_fill(~masked, 0),
        logit=top,
        lse=log_sum(top, rest),
        logits=flat,
        logit_row=torch.arange(rows * length, device=logits.device).view(rows, length),
        masked=masked,
        sampling=sampling,
        mass=(top, rest),
    )


@dataclass(frozen=True)
class Block:
    """The block being decoded.

    `masked`: positions still to write. `editable`: positions that may be written now; for most
    decoders the same. `initial_masks`: masks the block began with. `step`: passes so far, from 0.
    `next_block`: positions of later blocks, for decoders that look ahead; None if there are none.
    `block_number`: 0 in the current block, 1 in the next one, ...; None if there is only one.
    """

    tokens: TokenIds
    masked: Positions
    editable: Positions
    initial_masks: Int[Tensor, " rows"]
    step: Int[Tensor, " rows"]
    next_block: Positions | None = None
    block_number: Int[Tensor, "rows length"] | None = None

    @property
    def current(self) -> Positions:
        """`editable` positions of the current block."""
        return self.editable if self.next_block is None else self.editable & ~self.next_block


@dataclass(frozen=True)
class Decision:
    """`tokens` are written where `commit` is true.

    `confidence` (what was compared) and `credit` (what the token held), both float32, go into the
    trace. `needs_another_pass` [rows], for decoders that can edit: the row needs another pass
    over the block though nothing in it is masked. `remask`, for decoders that can remask: tokens
    written in an earlier pass of the block that become masks again.
    """

    tokens: TokenIds
    commit: Positions
    confidence: Scores
    credit: Scores | None = None
    needs_another_pass: Bool[Tensor, " rows"] | None = None
    remask: Positions | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a decoder does besides writing tokens where the current block is masked.

    - `can_edit`: it may overwrite tokens of the current block, and gets predictions at every
      `editable` position, masked or not.
    - `can_remask`: it may turn tokens of the current block back into masks. It must still end every
      block after a bounded number of passes.
    - `leave_one_out`: it reads `Prediction.leave_one_out`, for which every pass computes an extra
      column for each position of the block that was not given. Only models that take attention
      masks can do that.
    - `looks_ahead`: if the pass also computes the next block, the decoder sees it and may write
      there. Excludes `can_edit` and `can_remask`.
    - `blocks_ahead`: how many later blocks it sees, if it looks ahead.
    - `state_spans_blocks`: its state [rows, length, ...] goes on when the next block begins.
    - `dense_state`: its state holds [length, vocab] numbers a row, which memory budgets count.
    - `extra_passes`: the most passes it may ask for after the last mask of a block is written.
    """

    can_edit: bool = False
    can_remask: bool = False
    leave_one_out: bool = False
    looks_ahead: bool = False
    blocks_ahead: int = 1
    state_spans_blocks: bool = False
    dense_state: bool = False
    extra_passes: int = 0

    @property
    def can_revise(self) -> bool:
        """Whether tokens written in the current block may still change."""
        return self.can_edit or self.can_remask


@dataclass(frozen=True)
class Sweep:
    """The values of a decoder's main knob that comparisons try.

    `tied` knobs, each a (knob, slope, offset), follow it as slope * value + offset, so that their
    defaults meet. With `low_is_safe` small values write fewer tokens a pass; otherwise large ones
    do.
    """

    knob: str
    values: tuple[float, ...]
    tied: tuple[tuple[str, float, float], ...] = ()
    low_is_safe: bool = False


THRESHOLD_SWEEP = Sweep("threshold", (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999))
"""The sweep of most decoders that compare a confidence with a threshold."""


@runtime_checkable
class Decoder(Protocol):
    """A decoding rule: a frozen dataclass of hyper-parameters. It changes nothing in place and
    knows no positions, caches or stop conditions. `BaseDecoder` has defaults for all but `step`.
    """

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """The state of new blocks; every tensor's first axis is the row."""
        ...

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Decide which tokens to write: inside `editable`, and at least one of the current block in
        every row that has a mask there.
        """
        ...


class BaseDecoder(Decoder):
    """A decoder without state, capabilities or a sweep. Options are checked when it is made."""

    sweep: ClassVar[Sweep | None] = None
    old_knobs: ClassVar[Mapping[str, str]] = {}
    """Former names of knobs, which files and specs may still use, and the names they have now."""

    @property
    def capabilities(self) -> Capabilities:
        """What it does besides writing masked positions. Most decoders that declare something
        override this with a class attribute.
        """
        return Capabilities()

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}


def capabilities_of(decoder: Decoder) -> Capabilities:
    """The `capabilities` that a decoder declares; without a declaration it has none."""
    declared: Capabilities = getattr(decoder, "capabilities", Capabilities())
    return declared


def at_least_one(
    passed: Positions,
    score: Scores,
    editable: Positions,
) -> Positions:
    """`passed` inside `editable`, and in each row the best editable position (the first of equals),
    so that no row stalls.
    """
    best = torch.where(editable, score, -1.0).argmax(-1, keepdim=True)
    forced = torch.zeros_like(editable).scatter(1, best, True)
    return (passed | forced) & editable
