"""Several live blocks at once, under any rule: the next block opens when the last open one is
written to a share (d3LLM's and MBD's multi-block decoding).

In each open block the rule decides as if it were the only one: with its own history, its own count
of passes, and at least one token a pass. Only blocks that the pass computes anyway can be open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Decoder,
    Prediction,
    Sampling,
    State,
    capabilities_of,
)
from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class LiveBlockOptions:
    """Knobs that every rule understands besides its own."""

    live_blocks: int = option(1, "Blocks that may be written at the same time.", ge=1, le=64)
    open_share: float = option(
        0.5, "Share of the last open block that is written when the next one opens.", ge=0.0, le=1.0
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class LiveBlocks(BaseDecoder):
    """A rule that runs in `options.live_blocks` blocks at the same time."""

    rule: Decoder
    options: LiveBlockOptions

    def __post_init__(self) -> None:
        declared = capabilities_of(self.rule)
        if declared.can_revise or declared.leave_one_out or declared.looks_ahead:
            raise OptionError(
                "live_blocks needs a rule that only writes masks of the current block",
                given=type(self.rule).__name__,
                hint="Leave live_blocks out; for thrift also: ahead=false.",
            )

    @property
    def capabilities(self) -> Capabilities:
        """The window spans all live blocks, and what a block remembers goes on when it becomes the
        current one.
        """
        return Capabilities(
            looks_ahead=True,
            blocks_ahead=self.options.live_blocks - 1,
            state_spans_blocks=True,
            dense_state=capabilities_of(self.rule).dense_state,
        )

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """The rule's state for every position of the window. `age` is the number of passes for
        which a position's block has been open, `initial_masks` the masks that it opened with.

        Raises `OptionError` if the rule remembers something that belongs to no position.
        """
        state = self.rule.init(rows, length, vocab, device)
        for name, values in state.items():
            if values.shape[:2] != (rows, length):
                raise OptionError(
                    "live_blocks needs a rule whose state is [rows, length, ...]",
                    given=f"{type(self.rule).__name__}: {name} {list(values.shape)}",
                    hint="Leave live_blocks out.",
                )
        zeros = torch.zeros(rows, length, dtype=torch.long, device=device)
        return {**_prefixed(state), "age": zeros, "initial_masks": zeros}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Open blocks, show each to the rule as a row of its own, and join the decisions."""
        rows = self._rows(block, state)
        decision, after = self.rule.step(
            rows.prediction(prediction), rows.block(block), rows.expand(_own(state))
        )
        kept = {name: rows.join(values) for name, values in after.items()}
        ages = ((rows.age + 1)[..., None] * rows.shown).sum(1)
        initial_masks = (rows.initial[..., None] * rows.shown).sum(1)
        state = {**_prefixed(kept), "age": ages, "initial_masks": initial_masks}
        return rows.join_decision(decision, prediction), state

    def _rows(self, block: Block, state: State) -> _Rows:
        """A row for each live block, with what its block has been through."""
        number = _block_numbers(block).clamp(max=self.options.live_blocks)
        member = torch.stack([number == i for i in range(self.options.live_blocks)], dim=1)
        age = _of_block(state["age"], member)
        masks_now = (block.masked[:, None] & member).sum(-1)
        initial = torch.where(age > 0, _of_block(state["initial_masks"], member), masks_now)
        is_open = self._open(age, masks_now, initial)
        return _Rows(member & is_open[..., None], age, initial)

    def _open(self, age: Tensor, masks_now: Tensor, initial: Tensor) -> Tensor:
        """Which blocks are open, [rows, live_blocks]: the current one, those that have been, and
        the one after an open block that is written to the share.
        """
        is_open = [torch.ones_like(age[:, 0], dtype=torch.bool)]
        for i in range(1, self.options.live_blocks):
            written = initial[:, i - 1] - masks_now[:, i - 1]
            enough = written >= self.options.open_share * initial[:, i - 1]
            is_open.append(is_open[-1] & ((age[:, i] > 0) | enough))
        return torch.stack(is_open, dim=1)


@dataclass(frozen=True)
class _Rows:
    """Rows for the rule, one for each live block of each row: row r, block i becomes r * blocks +
    i. `shown` [rows, blocks, length]; `age` and `initial` [rows, blocks].
    """

    shown: Tensor
    age: Tensor
    initial: Tensor

    def expand(self, state: State) -> State:
        """Every tensor once for each live block."""
        return {name: self._repeat(values) for name, values in state.items()}

    def prediction(self, prediction: Prediction) -> Prediction:
        """What the rule sees: masks outside its block look like written positions."""
        masked = self._repeat(prediction.masked) & self.shown.flatten(0, 1)
        sampling = prediction.sampling
        mass = None
        if prediction.mass is not None:
            peak, rest = (self._repeat(part) for part in prediction.mass)
            mass = (peak.masked_fill(~masked, 0.0), rest.masked_fill(~masked, torch.inf))
        return replace(
            prediction,
            ids=self._repeat(prediction.ids).masked_fill(~masked, 0),
            logit=self._repeat(prediction.logit).masked_fill(~masked, 0.0),
            lse=self._repeat(prediction.lse).masked_fill(~masked, torch.inf),
            logit_row=self._repeat(prediction.logit_row),
            masked=masked,
            mass=mass,
            masked_index=None,
            leave_one_out_probs=None,
            sampling=Sampling(
                seed=self._repeat(sampling.seed),
                position=self._repeat(sampling.position),
                step=self.age.flatten(),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
            ),
        )

    def block(self, block: Block) -> Block:
        """The blocks that belong to the rows."""
        shown = self.shown.flatten(0, 1)
        return Block(
            tokens=self._repeat(block.tokens),
            masked=self._repeat(block.masked) & shown,
            editable=self._repeat(block.editable) & shown,
            initial_masks=self.initial.flatten(),
            step=self.age.flatten(),
        )

    def join_decision(self, decision: Decision, prediction: Prediction) -> Decision:
        """The decision for all positions; the top-1 id with confidence 0 where nothing is open."""
        shown = self.shown.any(1)
        return Decision(
            tokens=torch.where(shown, self.join(decision.tokens), prediction.ids),
            commit=self.join(decision.commit) & shown,
            confidence=self.join(decision.confidence),
            credit=None if decision.credit is None else self.join(decision.credit),
        )

    def join(self, values: Tensor) -> Tensor:
        """[rows, length, ...] from the rule's [rows * blocks, length, ...]: of each position what
        its block's row has, 0 where no block is open.
        """
        apart = values.unflatten(0, self.shown.shape[:2])
        shown = self.shown.reshape(*self.shown.shape, *[1] * (apart.dim() - 3))
        return torch.where(shown, apart, 0).sum(1).to(values.dtype)

    def _repeat(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.shown.shape[1], dim=0)


def _block_numbers(block: Block) -> Int[Tensor, "rows length"]:
    """0 in the current block, 1 in the next one, and so on."""
    if block.block_number is not None:
        return block.block_number
    if block.next_block is not None:
        return block.next_block.long()
    return torch.zeros_like(block.tokens)


def _of_block(
    values: Int[Tensor, "rows length"], member: Bool[Tensor, "rows blocks length"]
) -> Int[Tensor, "rows blocks"]:
    """The number that all positions of a block share, [rows, blocks]; 0 for a block without."""
    return (values[:, None] * member).amax(-1)


_OWN = "rule."


def _prefixed(state: State) -> State:
    return {_OWN + name: values for name, values in state.items()}


def _own(state: State) -> State:
    """The rule's part of the state."""
    own = {name: values for name, values in state.items() if name.startswith(_OWN)}
    return {name.removeprefix(_OWN): values for name, values in own.items()}
