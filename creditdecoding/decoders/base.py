"""The contract between model and decoders: Prediction in, Decision out. A decoder sees nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from creditdecoding.ops.noise import gumbel_noise, uniform_noise
from creditdecoding.ops.vocab_stats import log_sum, row_chunks, vocab_mass, widest_float

State = dict[str, Tensor]
"""A decoder's memory: tensors whose first axis is the row. A step returns a new one."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and the keys [rows], [rows, length] of the noise. At temperature 0 the
    likeliest is taken.
    """

    seed: Int[Tensor, " rows"]
    position: Int[Tensor, "rows length"]
    step: Int[Tensor, " rows"]
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What a decoder sees of the model at the masked positions of a block (`masked`; for a rule
    that edits, all editable ones).

    `ids` top-1 id, `logit` its logit, `lse` log-sum-exp over the vocabulary, all [rows, length];
    where nothing is masked they
    are 0, 0, inf, so every probability there is 0. More is read on demand from `flat` [n, vocab],
    of which `place`
    [rows, length] names the row. `hushed` ids can be written but have confidence 0 (`kept` [n,
    hushed] are their logits).
    `unseen`: see `leave_one_out`. `mass`: the best logit of an id that is not hushed, and the sum
    of
    exp(logit - that) over all other such ids. Where it is not given it is made of `logit` and
    `lse`, with their few digits.
    """

    ids: Int[Tensor, "rows length"]
    logit: Float[Tensor, "rows length"]
    lse: Float[Tensor, "rows length"]
    logits: Float[Tensor, "n vocab"]
    logit_row: Int[Tensor, "rows length"]
    masked: Bool[Tensor, "rows length"]
    sampling: Sampling
    suppressed_ids: tuple[int, ...] = ()
    suppressed_logits: Float[Tensor, "n hushed"] | None = field(default=None)
    leave_one_out_probs: Float[Tensor, "rows length"] | None = None
    mass: tuple[Float[Tensor, "rows length"], Float[Tensor, "rows length"]] | None = None

    @property
    def leave_one_out(self) -> Float[Tensor, "rows length"]:
        """For rules with shadows: the probability of each token the rule has written in the block,
        read at its shadow, a mask at the
        same position that does not see that token; 1 elsewhere. Raw distribution: hushed ids and
        temperature do not change it.
        """
        return (
            torch.ones_like(self.logit)
            if self.leave_one_out_probs is None
            else self.leave_one_out_probs
        )

    @property
    def probability(self) -> Float[Tensor, "rows length"]:
        """Probability of the top-1 id, in float32."""
        return self.confidence(self.ids).float()

    def confidence(
        self,
        tokens: Int[Tensor, "rows length"],
        ids: Int[Tensor, "rows length k"] | None = None,
        boost: Float[Tensor, "rows length k"] | None = None,
    ) -> Float[Tensor, "rows length"]:
        """What the rules compare: the probability of `tokens`, after `boost` was added to the
        logits of `ids`.

        In float64, and exact to its last digits near 1, so that near-certain tokens are ordered as
        by a softmax in float64. 0 for hushed ids and where nothing is masked.
        """
        peak, rest = self._mass()
        own, total = self._above(tokens[..., None], peak)[..., 0], 1.0 + rest
        if ids is not None and boost is not None:
            boost = boost.to(rest.dtype)
            own = own + (boost * (ids == tokens[..., None])).sum(-1)
            total = total + (self._above(ids, peak).exp() * boost.expm1()).sum(-1)
        return (own.exp() / total).masked_fill(~self.masked, 0.0).nan_to_num(nan=0.0)

    def error_probability(self, tokens: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length"]:
        """1 - confidence, with all its digits however small it is."""
        peak, rest = self._mass()
        own = self._above(tokens[..., None], peak)[..., 0]
        return (-torch.expm1(own - rest.log1p())).masked_fill(~self.masked, 1.0).nan_to_num(nan=1.0)

    def _above(self, ids: Tensor, peak: Tensor) -> Tensor:
        """Logits of ids, in float64, counted from the best one: exact, where a difference from
        log-sum-exp is not.
        """
        return self.logits_of(ids).to(peak.dtype) - peak[..., None]

    def _mass(self) -> tuple[Tensor, Tensor]:
        """`mass`, both in its wider dtype."""
        if self.mass is not None:
            peak, rest = self.mass
        elif (
            self.suppressed_ids
        ):  # the top-1 may be hushed, and then it is not the best of the others
            _, peak, rest = (x[self.logit_row] for x in vocab_mass(self.logits))
        else:
            peak, dtype = self.logit, widest_float(self.logit.device)
            rest = (self.lse.to(dtype) - peak.to(dtype)).expm1().clamp(min=0.0)
        return peak.to(rest.dtype), rest

    def logits_of(self, ids: Int[Tensor, "rows length k"]) -> Float[Tensor, "rows length k"]:
        """Logits of the given ids in float32, 0 where nothing is masked; a hushed id has -inf."""
        values = self.logits[self.logit_row[..., None], ids].float()
        return values.masked_fill(~self.masked[..., None], 0.0)

    def log_probs(self) -> Float[Tensor, "rows length vocab"]:
        """All log-probabilities: dense and dear. A decoder that calls this says so in its
        docstring.
        """
        peak, rest = self._mass()
        below = self.logits[self.logit_row].float() - peak.float()[..., None]
        return (below - rest.log1p().float()[..., None]).masked_fill(
            ~self.masked[..., None], float("-inf")
        )

    def entropy(self) -> Float[Tensor, "rows length"]:
        """Entropy in nats, 0 where nothing is masked. All its terms are positive: small ones keep
        their digits.
        """
        peak, rest = self._mass()
        gap = torch.zeros(len(self.logits), device=self.logits.device)
        shown = peak.float().masked_fill(~self.masked, 0.0)
        level = torch.zeros_like(gap).index_add_(0, self.logit_row.flatten(), shown.flatten())
        for part in row_chunks(self.logits):
            below = self.logits[part].float() - level[part, None]
            gap[part] = -(below.exp() * below).nan_to_num_(0.0).sum(-1)
        found = rest.log1p() + gap[self.logit_row] / (1.0 + rest)
        return found.float().masked_fill(~self.masked, 0.0)

    def top2(self) -> tuple[Int[Tensor, "rows length 2"], Float[Tensor, "rows length 2"]]:
        """Ids and logits of the two likeliest tokens."""
        values = torch.zeros(len(self.logits), 2, device=self.logits.device)
        ids = torch.zeros(len(self.logits), 2, dtype=torch.long, device=self.logits.device)
        for part in row_chunks(self.logits):
            values[part], ids[part] = self.logits[part].float().topk(2, dim=-1)
        outside = ~self.masked[..., None]
        return ids[self.logit_row].masked_fill(outside, 0), values[self.logit_row].masked_fill(
            outside, 0.0
        )

    def with_boost(self, boost: Float[Tensor, "rows length vocab"]) -> Prediction:
        """The same with `boost` added to every logit (dense, dear)."""
        logits = self.logits[self.logit_row].float() + boost
        made = replace(
            from_logits(logits, self.masked, self.sampling),
            leave_one_out_probs=self.leave_one_out_probs,
        )
        if self.suppressed_logits is None:
            return made
        kept, choice = self.suppressed_logits[self.logit_row], logits.clone()
        choice[..., list(self.suppressed_ids)] = kept.float()
        ids = choice.argmax(-1).masked_fill(~self.masked, 0)
        logit = logits.gather(-1, ids[..., None])[..., 0].masked_fill(~self.masked, 0.0)
        return replace(
            made,
            ids=ids,
            logit=logit,
            suppressed_ids=self.suppressed_ids,
            suppressed_logits=kept.reshape(-1, len(self.suppressed_ids)),
        )

    def uniform(self) -> Float[Tensor, "rows length"]:
        """Noise in (0, 1) that depends on each row's seed, position and step alone."""
        s = self.sampling
        return uniform_noise(
            s.seed[:, None], s.position, s.step[:, None], torch.full_like(s.position, -1)
        ).float()

    def pick(
        self,
        ids: Int[Tensor, "rows length k"] | None = None,
        boost: Float[Tensor, "rows length k"] | None = None,
    ) -> tuple[Int[Tensor, "rows length"], Float[Tensor, "rows length"]]:
        """The token to write and its logit, after adding `boost` >= 0 to the logits of `ids`
        (entries with boost 0 are ignored).

        Greedy: the likeliest, the lowest id of equals. Sampling: drawn from the boosted
        distribution by Gumbel noise, after
        temperature, top_k and top_p. Its confidence is `confidence(token, ids, boost)`; the logit
        of a hushed id is -inf.
        """
        if ids is None or boost is None:
            ids, boost = self.ids[..., None], torch.zeros_like(self.logit)[..., None]
        token = (
            self._greedy(ids, boost) if self.sampling.temperature == 0 else self._drawn(ids, boost)
        )
        added = (boost * (ids == token[..., None])).sum(-1)
        return token, self.logits_of(token[..., None])[..., 0] + added

    def raw_logits_of(self, ids: Int[Tensor, "rows length k"]) -> Float[Tensor, "rows length k"]:
        """Logits by which tokens are chosen: as `logits_of`, hushed ids with their real logit."""
        values = self.logits_of(ids)
        for column, banned in enumerate(self.suppressed_ids):
            if self.suppressed_logits is not None:
                values = torch.where(
                    ids == banned,
                    self.suppressed_logits[self.logit_row][..., column, None].float(),
                    values,
                )
        return values

    def _greedy(self, ids: Tensor, boost: Tensor) -> Tensor:
        every = torch.cat((self.ids[..., None], ids), dim=-1)
        live = torch.cat((torch.ones_like(self.masked)[..., None], boost > 0), dim=-1)
        extra = torch.cat((torch.zeros_like(boost[..., :1]), boost), dim=-1)
        score = (self.raw_logits_of(every) + extra).masked_fill(~live, float("-inf"))
        best = score == score.amax(-1, keepdim=True)
        return torch.where(best, every, torch.iinfo(torch.long).max).amin(-1)

    def _drawn(self, ids: Tensor, boost: Tensor) -> Tensor:
        s = self.sampling
        row, column = self.masked.nonzero(as_tuple=True)
        token = torch.zeros_like(self.ids)
        vocab = torch.arange(self.logits.shape[1], device=self.logits.device)[None]
        width = next(row_chunks(self.logits)).stop
        for start in range(0, len(row), width):
            at = (row[start : start + width], column[start : start + width])
            flat = self.logits[self.logit_row[at]].double()
            if self.suppressed_logits is not None and self.suppressed_ids:
                flat[:, list(self.suppressed_ids)] = self.suppressed_logits[
                    self.logit_row[at]
                ].double()
            flat.scatter_add_(1, ids[at], boost[at].double())
            flat -= flat.amax(
                -1, keepdim=True
            )  # so that no temperature, however small, makes an infinity of the best
            flat = _restrict(flat / s.temperature, s.top_k, s.top_p)
            keys = (s.seed[at[0], None], s.position[at][:, None], s.step[at[0], None], vocab)
            token[at] = (flat + gumbel_noise(*keys)).argmax(-1)
        return token


def _restrict(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """-inf outside the k likeliest and outside the smallest set that holds probability p (ties by
    lower id).
    """
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None:
        chance = ordered.masked_fill(~keep, float("-inf")).softmax(-1)
        keep &= chance.cumsum(-1) - chance < top_p
    return torch.full_like(logits, float("-inf")).scatter(
        1, order, ordered.masked_fill(~keep, float("-inf"))
    )


def from_logits(
    logits: Float[Tensor, "rows length vocab"],
    masked: Bool[Tensor, "rows length"],
    sampling: Sampling | None = None,
) -> Prediction:
    """A Prediction over dense logits: for tests, adapters of other engines, and rules that change
    every logit.
    """
    rows, length, vocab = logits.shape
    flat = logits.reshape(-1, vocab)
    ids, top, rest = (x.view(rows, length) for x in vocab_mass(flat))
    if sampling is None:
        zero = torch.zeros(rows, dtype=torch.long, device=logits.device)
        sampling = Sampling(zero, torch.arange(length, device=logits.device).expand(rows, -1), zero)
    place = torch.arange(rows * length, device=logits.device).view(rows, length)
    ids, top = ids.masked_fill(~masked, 0), top.masked_fill(~masked, 0.0)
    rest = rest.masked_fill(~masked, float("inf"))
    return Prediction(ids, top, log_sum(top, rest), flat, place, masked, sampling, mass=(top, rest))


@dataclass(frozen=True)
class Block:
    """The block being decoded. `masked`: still to write; `editable`: may be written now (for most
    rules the same); `size`: masks it
    began with; `step`: from 0; `behind`, for rules that look ahead: the positions of the next
    block, None where there are none.
    """

    tokens: Int[Tensor, "rows length"]
    masked: Bool[Tensor, "rows length"]
    editable: Bool[Tensor, "rows length"]
    initial_masks: Int[Tensor, " rows"]
    step: Int[Tensor, " rows"]
    next_block: Bool[Tensor, "rows length"] | None = None

    @property
    def current(self) -> Bool[Tensor, "rows length"]:
        """`editable` positions of the block itself."""
        return self.editable if self.next_block is None else self.editable & ~self.next_block


@dataclass(frozen=True)
class Decision:
    """`tokens` to write where `commit`; `confidence` is what was compared, `credit` what the token
    held, both in float32 for the trace.

    `again` [rows], of rules that edit: this row wants another pass over the block though nothing in
    it is masked. `revoke`, of rules
    that revoke: tokens written in an earlier pass of the block that are masks again from now on.
    """

    tokens: Int[Tensor, "rows length"]
    commit: Bool[Tensor, "rows length"]
    confidence: Float[Tensor, "rows length"]
    credit: Float[Tensor, "rows length"] | None = None
    needs_another_pass: Bool[Tensor, " rows"] | None = None
    remask: Bool[Tensor, "rows length"] | None = None


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
    - `dense_state`: its state holds [length, vocab] numbers a row, which memory budgets count.
    - `extra_passes`: the most passes it may ask for after the last mask of a block is written.
    """

    can_edit: bool = False
    can_remask: bool = False
    leave_one_out: bool = False
    looks_ahead: bool = False
    dense_state: bool = False
    extra_passes: int = 0

    @property
    def can_revise(self) -> bool:
        """Whether tokens written in the current block may still change."""
        return self.can_edit or self.can_remask


@runtime_checkable
class Decoder(Protocol):
    """A decoding rule: a frozen dataclass of hyper-parameters. It mutates nothing and knows no
    positions, caches or stopping.

    A rule that does more than write masked positions declares it in a class attribute
    `capabilities = Capabilities(...)`.
    """

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """State of a fresh block; every tensor's first axis is the row."""
        ...

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Decide which tokens to write: inside `editable`, at least one of the current block in
        every row that has a mask there.
        """
        ...


def capabilities_of(decoder: Decoder) -> Capabilities:
    """The `capabilities` that a decoder declares; without a declaration it has none."""
    declared: Capabilities = getattr(decoder, "capabilities", Capabilities())
    return declared


def at_least_one(
    passed: Bool[Tensor, "rows length"],
    score: Float[Tensor, "rows length"],
    editable: Bool[Tensor, "rows length"],
) -> Tensor:
    """`passed` inside `editable`, and in each row the best editable position (the first of equals),
    so that no row stalls.
    """
    best = torch.where(editable, score, -1.0).argmax(-1, keepdim=True)
    forced = torch.zeros_like(editable).scatter(1, best, True)
    return (passed | forced) & editable


def stack_states(states: Sequence[State]) -> State:
    """Gather states along the row axis; other axes are padded with zeros, which every state reads
    as 'nothing here'.
    """
    return {
        name: _stack([state[name] for state in states]) for name in (states[0] if states else {})
    }


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors))]
    if all(list(tensor.shape[1:]) == shape for tensor in tensors):
        return torch.cat(list(tensors))
    return torch.cat(
        [
            F.pad(
                t, [x for have, want in zip(t.shape[:0:-1], shape[::-1]) for x in (0, want - have)]
            )
            for t in tensors
        ]
    )


def take_rows(state: State, rows: slice | Tensor) -> State:
    """The state of some rows."""
    return {name: tensor[rows] for name, tensor in state.items()}
