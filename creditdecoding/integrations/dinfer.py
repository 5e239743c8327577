"""Every decoder behind dInfer's interface: `decode(logits, block_start, block_end, x)` writes into
`x`, `block_init` begins a block.

    from creditdecoding.integrations.dinfer import CreditThresholdParallelDecoder  # in place of
    dinfer's
    decoder = Decoder("factor:factor=1", mask_id=156895, eos_id=156892)            # or any rule of
    this package

Needs nothing of dInfer's. What a rule remembers belongs to a block and goes with it: at
`block_init`, when another block is decoded, and when
a row has masks again where it had none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding import decoders
from creditdecoding.config import GenerationConfig
from creditdecoding.decoders.base import Block, Prediction, Sampling, State, capabilities_of
from creditdecoding.decoders.base import Decoder as Rule
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass

MASK_ID, END_ID = 126336, 126081  # LLaDA's; the defaults of the interface


@dataclass(frozen=True)
class _Seen:
    """The blocks under way, a row each: where they start, what was given, the masks left, masks at
    the beginning, steps made.
    """

    start: Tensor
    given: Tensor
    left: Tensor
    size: Tensor
    step: Tensor
    state: State


class ParallelDecoder:
    """A rule (a name, `NAME:knob=value,...` or an object) as dInfer's loops call it; `seed` + row
    is the seed of a row's draws.

    Raises `OptionError` for rules that need more of a loop than its logits.
    """

    def __init__(
        self,
        rule: Any = "credit",
        *,
        mask_id: int = MASK_ID,
        eos_id: int = END_ID,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        self.rule, _ = decoders.load(rule)
        needs = capabilities_of(self.rule)
        if needs.leave_one_out or needs.can_remask:
            raise OptionError(
                "this rule needs a loop of its own",
                given=str(rule),
                hint="Use it with LM.generate.",
            )
        self.config = GenerationConfig(
            decoder=self.rule, temperature=float(temperature), top_k=top_k, top_p=top_p, seed=seed
        )
        self.mask_id, self.eos_id = mask_id, eos_id
        self._seen: _Seen | None = None

    @property
    def temperature(self) -> float:
        """0 is greedy."""
        return self.config.temperature

    @property
    def threshold(self) -> float | None:
        """The rule's threshold, if it has one; `iter_threshold` takes its place for one call."""
        return getattr(self.rule, "threshold", None)

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Forget the block before."""
        self._seen = None

    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        block_start: int,
        block_end: int,
        x: Any,
        iter_threshold: float | None = None,
    ) -> None:
        """Write what the rule commits into `x[:, block_start:block_end]`; `logits` [rows, width,
        vocab] stay as they are.

        Raises `ModelError` for logits of the wrong shape or that are not numbers.
        """
        tokens = x[:, block_start:block_end]
        start = torch.full((len(tokens),), block_start, device=tokens.device)
        x[:, block_start:block_end] = self._decided(logits, tokens, start, iter_threshold)

    @torch.no_grad()
    def batch_decode(
        self,
        logits: Tensor,
        block_start: Tensor,
        x: Any,
        block_length: int,
        iter_threshold: float | None = None,
    ) -> None:
        """The same where every row is at a block of its own, from `block_start` [rows] on;
        positions behind the end of `x` do not count.
        """
        data: Tensor = x.data
        place = block_start[:, None] + torch.arange(block_length, device=data.device)
        inside = place < data.shape[1]
        tokens = torch.where(inside, data.gather(1, place.clamp(max=data.shape[1] - 1)), -1)
        row = torch.arange(len(data), device=data.device)[:, None].expand_as(place)
        data[row[inside], place[inside]] = self._decided(
            logits, tokens, block_start, iter_threshold
        )[inside]

    def _decided(
        self, logits: Tensor, tokens: Tensor, start: Tensor, iter_threshold: float | None
    ) -> Tensor:
        """The blocks' tokens [rows, width] after a step of the rule."""
        self._check(logits, tokens)
        rule, seen = self._rule(iter_threshold), self._begun(tokens, start, logits.shape[2])
        masked = tokens == self.mask_id
        shown = (~seen.given if capabilities_of(rule).can_edit else masked) & masked.any(
            -1, keepdim=True
        )
        if not bool(shown.any()):
            return tokens
        sampling = self._sampling(start, seen.step, tokens.shape[1])
        decision, state = rule.step(
            self._prediction(logits, shown, sampling),
            Block(tokens, masked, shown, seen.size, seen.step),
            seen.state,
        )
        after = torch.where(decision.commit & shown, decision.tokens, tokens)
        self._seen = replace(seen, left=after == self.mask_id, step=seen.step + 1, state=state)
        return after

    def _begun(self, tokens: Tensor, start: Tensor, vocab: int) -> _Seen:
        """Where the rows are; what a rule remembers of a row is zeroed where the row is at another
        block than before.
        """
        masked, old = tokens == self.mask_id, self._seen
        if old is None or old.left.shape != masked.shape:
            zero = torch.zeros_like(start)
            state = self.rule.init(len(tokens), tokens.shape[1], vocab, tokens.device)
            return _Seen(start, ~masked, masked, masked.sum(-1), zero, state)
        new = (start != old.start) | (masked & ~old.left).any(-1)
        if not bool(new.any()):
            return old
        state = {
            name: torch.where(new.view(-1, *[1] * (x.dim() - 1)), torch.zeros_like(x), x)
            for name, x in old.state.items()
        }
        given = torch.where(new[:, None], ~masked, old.given)
        size, step = torch.where(new, masked.sum(-1), old.size), torch.where(new, 0, old.step)
        return _Seen(start, given, masked, size, step, state)

    def _rule(self, iter_threshold: float | None) -> Rule:
        if iter_threshold is None:
            return self.rule
        if not is_dataclass(self.rule) or all(
            field.name != "threshold" for field in fields(self.rule)
        ):
            raise OptionError(
                "this rule has no threshold",
                given=f"iter_threshold={iter_threshold}",
                hint="Leave iter_threshold out.",
            )
        changed: Rule = replace(self.rule, threshold=float(iter_threshold))  # type: ignore[type-var]
        return changed

    def _sampling(self, start: Tensor, step: Tensor, width: int) -> Sampling:
        position = start[:, None] + torch.arange(width, device=start.device)
        seeds, config = (
            self.config.seed + torch.arange(len(start), device=start.device),
            self.config,
        )
        return Sampling(seeds, position, step, config.temperature, config.top_k, config.top_p)

    def _prediction(self, logits: Tensor, shown: Tensor, sampling: Sampling) -> Prediction:
        flat = logits[shown]  # a copy
        flat[:, self.mask_id] = -torch.inf
        found = vocab_mass(flat)
        if not bool(torch.isfinite(found[1] + found[2]).all()):
            raise ModelError(
                "the model returned logits that are not numbers",
                given="NaN or infinity",
                hint="Check the weights.",
            )
        place = torch.zeros_like(shown, dtype=torch.long).masked_scatter(
            shown, torch.arange(len(flat), device=flat.device)
        )
        ids, top, rest = (
            torch.full(shown.shape, fill, dtype=x.dtype, device=x.device).masked_scatter(shown, x)
            for x, fill in zip(found, (0, 0.0, torch.inf))
        )
        return Prediction(
            ids, top, log_sum(top, rest), flat, place, shown, sampling, mass=(top, rest)
        )

    def _check(self, logits: Tensor, tokens: Tensor) -> None:
        if logits.dim() != 3 or logits.shape[:2] != tokens.shape or logits.shape[2] <= self.mask_id:
            told = f"({tokens.shape[0]}, {tokens.shape[1]}, more than {self.mask_id})"
            raise ModelError(
                "the model returned logits of the wrong shape",
                given=tuple(logits.shape),
                allowed=told,
                hint="Check model and mask_id.",
            )


def _remasking(given: str) -> None:
    if given != "low_confidence":
        raise OptionError(
            "remasking is out of range",
            given=given,
            allowed="low_confidence",
            hint="FixedParallelDecoder also takes random.",
        )


def ThresholdParallelDecoder(  # noqa: N802
    temperature: float,
    threshold: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    use_float64: bool = False,
) -> ParallelDecoder:
    """dInfer's decoder of this name; confidences have the resolution of float64 whatever
    `use_float64` says.
    """
    _remasking(remasking)
    return ParallelDecoder(
        decoders.create("threshold", threshold=threshold),
        mask_id=mask_id,
        eos_id=eos_id,
        temperature=temperature,
    )


def CreditThresholdParallelDecoder(  # noqa: N802
    credit_alpha: float = 0.7,
    boost_gamma: float = 0.2,
    decay_beta: float = 0.8,
    *,
    temperature: float,
    threshold: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    use_float64: bool = False,
) -> ParallelDecoder:
    """dInfer's decoder of this name, with its constants; credit is sparse and exact, and none is
    left for the next request.
    """
    _remasking(remasking)
    rule = decoders.create(
        "credit", threshold=threshold, alpha=credit_alpha, beta=decay_beta, gamma=boost_gamma
    )
    return ParallelDecoder(rule, mask_id=mask_id, eos_id=eos_id, temperature=temperature)


def FixedParallelDecoder(  # noqa: N802
    temperature: float,
    steps: int,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
) -> ParallelDecoder:
    """dInfer's decoder of this name: `steps` passes a block, as even as possible."""
    return ParallelDecoder(
        decoders.create("fixed", steps=steps, order=remasking),
        mask_id=mask_id,
        eos_id=eos_id,
        temperature=temperature,
    )


def HierarchyDecoder(  # noqa: N802
    temperature: float,
    remasking: str = "low_confidence",
    mask_id: int = MASK_ID,
    eos_id: int = END_ID,
    threshold: float | None = None,
    low_threshold: float | None = 0.4,
) -> ParallelDecoder:
    """dInfer's decoder of this name, for batches too; of equals in a run of masks the first is
    committed, not all.
    """
    _remasking(remasking)
    high, low = (
        1.0 if threshold is None else threshold,
        0.0 if low_threshold is None else low_threshold,
    )
    return ParallelDecoder(
        decoders.create("hierarchy", threshold=high, low=low),
        mask_id=mask_id,
        eos_id=eos_id,
        temperature=temperature,
    )
