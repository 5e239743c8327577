"""The laws that every decoder keeps, checked on random cases: `credit check-decoder` and the tests.

failure = broken(LAWS[0], create("credit"))   # None, or what happened
"""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.decoders._states import stack_states, take_rows
from creditdecoding.decoders.base import (
    Block,
    Decision,
    Decoder,
    Prediction,
    Sampling,
    State,
    capabilities_of,
    from_logits,
)
from creditdecoding.errors import OptionError
from creditdecoding.plugins import describe_error
from creditdecoding.wording import count

CASES = 24
"""Random cases that a law is tried on."""

CPU = torch.device("cpu")
FORBIDDEN = 0
"""The id that has probability 0 in every case."""

ALL_ROWS = slice(None)
_SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 2},
    {"temperature": 1.0, "top_p": 0.6},
)


class BrokenLawError(Exception):
    """What a decoder did against a law."""


def require(holds: bool | Tensor, problem: str) -> None:
    """Raise `BrokenLawError` unless a condition holds."""
    if not bool(holds):
        raise BrokenLawError(problem)


@dataclass(frozen=True)
class Case:
    """Rows to decode: logits [steps, rows, length, vocab], what is masked at first, the seeds of
    the rows, and how tokens are drawn.

    `unseen` [steps, rows, length] is the leave-one-out probability of a written token.
    """

    logits: Tensor
    unseen: Tensor
    masked: Tensor
    seeds: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def begin(self, decoder: Decoder, rows: slice = ALL_ROWS) -> State:
        """The state before the first step."""
        count, length = self.masked[rows].shape
        return decoder.init(count, length, self.logits.shape[-1], CPU)

    def step(
        self, t: int, masked: Tensor, rows: slice = ALL_ROWS, editable: Tensor | None = None
    ) -> tuple[Prediction, Block]:
        """What a decoder sees of some rows at step `t`."""
        count, length = masked.shape
        steps = torch.full((count,), t)
        positions = torch.arange(length).expand(count, -1) + 7
        sampling = Sampling(self.seeds[rows], positions, steps, **self.options)
        size = self.masked[rows].sum(-1)
        tokens = torch.zeros(masked.shape, dtype=torch.long)
        unseen = torch.where(self.masked[rows] & ~masked, self.unseen[t, rows], 1.0)
        logits = self.logits[t, rows].clone()
        prediction = from_logits(logits, masked, sampling)
        editable = masked if editable is None else editable
        block = Block(tokens, masked, editable, size, steps)
        return replace(prediction, leave_one_out_probs=unseen), block


def make_case(seed: int, fewest_rows: int = 1) -> Case:
    """A random case, the same for the same seed."""
    draw = random.Random(seed)
    noise = torch.Generator().manual_seed(seed)
    rows = draw.randint(fewest_rows, fewest_rows + 2)
    length, vocab = draw.randint(1, 8), draw.randint(4, 10)
    scale = draw.choice((0.1, 1.0, 4.0, 12.0))
    logits = torch.randn(length, rows, length, vocab, generator=noise) * scale
    logits[..., FORBIDDEN] = -torch.inf
    masked = torch.rand(rows, length, generator=noise) < draw.choice((0.5, 1.0))
    sharpness = draw.choice((0.02, 1.0, 50.0))  # borne out, mixed, doubtful
    unseen = torch.rand(length, rows, length, generator=noise) ** sharpness
    seeds = torch.randint(0, 2**40, (rows,), generator=noise)
    return Case(logits, unseen, masked, seeds, draw.choice(_SAMPLING))


def variants(decoder: Decoder) -> list[Decoder]:
    """The decoder, and with every knob at the ends of its range or at another value."""
    variants = [decoder]
    for knob in dataclasses.fields(decoder):  # type: ignore[arg-type]
        for value in _other_values(knob):
            try:
                variants.append(replace(decoder, **{knob.name: value}))  # type: ignore[type-var]
            except OptionError:  # excluded by another knob
                continue
    return variants


def _other_values(knob: dataclasses.Field[Any]) -> list[Any]:
    meta: Any = knob.metadata
    default: Any = knob.default
    if meta.get("choices"):
        return list(meta["choices"])
    kind = type(default)
    if meta.get("ge") is not None and meta.get("le") is not None:
        return [kind(meta["ge"]), kind(meta["le"])]
    return [default + 1] if kind is int else []


def still_masked(masked: Tensor, decision: Decision) -> Tensor:
    """What is masked after a decision."""
    masked = masked & ~decision.commit
    return masked if decision.remask is None else masked | decision.remask


@dataclass(frozen=True)
class Played:
    """A step that was taken: the decision, and what was masked before it."""

    decision: Decision
    masked: Tensor


def play(decoder: Decoder, case: Case, rows: slice = ALL_ROWS) -> Iterator[Played]:
    """Decode some rows of a case together."""
    masked = case.masked[rows].clone()
    state = case.begin(decoder, rows)
    for t in range(len(case.logits)):
        decision, state = decoder.step(*case.step(t, masked, rows), state)
        yield Played(decision, masked)
        masked = still_masked(masked, decision)


def rows_of(decision: Decision, rows: slice) -> Decision:
    """Some rows of a decision."""
    values = {name: value for name, value in vars(decision).items() if value is not None}
    return replace(decision, **{name: value[rows] for name, value in values.items()})


def require_same(ours: Decision, expected: Decision, masked: Tensor) -> None:
    """Equal decisions at masked positions; numbers to float tolerance."""
    require(torch.equal(ours.commit, expected.commit), "other positions are committed")
    require((ours.remask is None) == (expected.remask is None), "remask is there only once")
    if ours.remask is not None and expected.remask is not None:
        require(torch.equal(ours.remask, expected.remask), "other positions become masks again")
    require(torch.equal(ours.tokens[masked], expected.tokens[masked]), "other tokens are chosen")
    _require_close(ours.confidence, expected.confidence, masked, "the confidence differs")
    if ours.credit is not None and expected.credit is not None:
        _require_close(ours.credit, expected.credit, masked, "the credit differs")


def _require_close(ours: Tensor, expected: Tensor, masked: Tensor, problem: str) -> None:
    require(torch.allclose(ours[masked], expected[masked], rtol=1e-4, atol=1e-6), problem)


# The laws. Each gets a decoder, a case and a source of further choices.


def shapes(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """Decisions and states have the declared shapes and types"""
    masked = case.masked
    decision, state = decoder.step(*case.step(0, masked), case.begin(decoder))
    declared = {"tokens": torch.long, "commit": torch.bool, "confidence": torch.float32}
    for name, dtype in declared.items():
        value = getattr(decision, name)
        require(value.shape == masked.shape, f"{name} has shape {tuple(value.shape)}")
        require(value.dtype == dtype, f"{name} is {value.dtype}, not {dtype}")
    require(~decision.confidence[masked].isnan().any(), "a confidence is not a number")
    again = decision.needs_another_pass
    require(again is None or capabilities_of(decoder).can_edit, "needs_another_pass needs can_edit")
    for name, value in state.items():
        problem = f"the state {name} has no row axis: {tuple(value.shape)}"
        require(value.dim() > 0 and len(value) == len(masked), problem)


def commits(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """Only editable positions are committed, and at least one in every row that has one"""
    masked = case.masked
    chance = torch.rand(masked.shape, generator=torch.Generator().manual_seed(draw.randint(0, 999)))
    editable = masked & (chance < 0.5)
    editable = torch.where(editable.any(-1, keepdim=True), editable, masked)
    state = case.begin(decoder)
    for t in range(min(2, len(case.logits))):
        decision, state = decoder.step(*case.step(t, masked, editable=editable), state)
        require(~(decision.commit & ~editable).any(), "a position outside editable is committed")
        stalled = masked.any(-1) & ~decision.commit.any(-1)
        require(~stalled.any(), "a row with masks commits nothing: use at_least_one")


def looks_ahead(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """A decoder that looks ahead also writes in the current block"""
    if not capabilities_of(decoder).looks_ahead:
        return
    masked = case.masked.clone()
    masked[:, 0] = True
    prediction, block = case.step(0, masked)
    first_of_next = draw.randint(1, masked.shape[1])
    behind = (torch.arange(masked.shape[1]) >= first_of_next).expand(masked.shape)
    decision, _ = decoder.step(prediction, replace(block, next_block=behind), case.begin(decoder))
    require((decision.commit & ~behind).any(-1).all(), "nothing is written in the current block")
    require(~(decision.commit & ~masked).any(), "a position without a mask is committed")


def forbidden(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """A token of probability 0 is never written, at any temperature"""
    vocab = case.logits.shape[-1]
    for played in play(decoder, case):
        written = played.decision.tokens[played.decision.commit & played.masked]
        require(~(written == FORBIDDEN).any(), "a token of probability 0 is written")
        require(((written >= 0) & (written < vocab)).all(), "an id outside the vocabulary")


def ends(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """A block takes no more passes than it has positions"""
    *_, last = play(decoder, case)
    left = still_masked(last.masked, last.decision)
    masks = count(int(left.sum()), "mask is", "masks are")
    passes = count(len(case.logits), "pass", "passes")
    require(~left.any(), f"{masks} left after {passes}")


def remasks(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """Only tokens written in this block become masks again, and only with can_remask"""
    for played in play(decoder, case):
        decision, masked = played.decision, played.masked
        if decision.remask is None:
            continue
        require(capabilities_of(decoder).can_remask, "remask without the capability can_remask")
        is_bool = decision.remask.dtype == torch.bool and decision.remask.shape == masked.shape
        require(is_bool, "remask is not a set of positions")
        wrong = decision.remask & (masked | ~case.masked | decision.commit)
        require(~wrong.any(), "a given token, a mask or a new token becomes a mask")
        ended = decision.remask.any(-1) & ~masked.any(-1)
        require(~ended.any(), "a row without masks gets new ones")


def is_pure(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """Nothing is changed in place, and the same step decides the same again"""
    knobs = repr(decoder)
    masked, state = case.masked, case.begin(decoder)
    for t in range(len(case.logits)):
        prediction, block = case.step(t, masked)
        inputs = [*_tensors(prediction), *_tensors(block), *_tensors(state)]
        before = copy.deepcopy(inputs)
        decision, after = decoder.step(prediction, block, state)
        require(_all_equal(inputs, before), "prediction, block or state is changed in place")
        again, _ = decoder.step(prediction, block, state)
        require(_all_equal(_tensors(decision), _tensors(again)), "the same step decides otherwise")
        state, masked = after, still_masked(masked, decision)
    require(repr(decoder) == knobs, "the decoder changes its knobs")


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor of a state or of a (nested) dataclass."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in _tensors(inner)]
    return _tensors(vars(value)) if dataclasses.is_dataclass(value) else []


def _all_equal(ours: list[Tensor], expected: list[Tensor]) -> bool:
    return len(ours) == len(expected) and all(map(torch.equal, ours, expected))


def neighbours(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """A row decides the same alone and beside others"""
    together = list(play(decoder, case))
    for row in range(len(case.masked)):
        own = slice(row, row + 1)
        for ours, alone in zip(together, play(decoder, case, own)):
            require_same(rows_of(ours.decision, own), alone.decision, alone.masked)


def stacking(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """States of rows can be stacked and taken apart in any order"""
    count = len(case.masked)
    singles = [slice(row, row + 1) for row in range(count)]
    alone = [list(play(decoder, case, own)) for own in singles]
    states = [case.begin(decoder, own) for own in singles]
    masked = case.masked.clone()
    for t in range(len(case.logits)):
        order = draw.sample(range(count), count)
        shuffled = _reorder(case, order)
        seen = shuffled.step(t, masked[order])
        stacked = stack_states([states[row] for row in order])
        decision, after = decoder.step(*seen, stacked)
        for slot, row in enumerate(order):
            own = slice(slot, slot + 1)
            states[row] = take_rows(after, own)
            ours = rows_of(decision, own)
            require_same(ours, alone[row][t].decision, masked[row : row + 1])
            masked[row] = still_masked(masked[row], ours)[0]


def _reorder(case: Case, order: list[int]) -> Case:
    return replace(
        case,
        logits=case.logits[:, order],
        unseen=case.unseen[:, order],
        masked=case.masked[order],
        seeds=case.seeds[order],
    )


def widths(decoder: Decoder, case: Case, draw: random.Random) -> None:
    """A neighbour with many favourite tokens changes nothing"""
    length, vocab = 2, 16
    steps = 12
    logits = torch.zeros(steps, 2, length, vocab)
    for t in range(steps):
        logits[t, 0, :, 1 + t] = 2.0
        logits[t, 1, :, 3] = 2.0
    logits[..., FORBIDDEN] = -torch.inf
    masked = torch.ones(2, length, dtype=torch.bool)
    case = Case(logits, torch.ones(steps, 2, length), masked, torch.zeros(2, dtype=torch.long))
    second = slice(1, 2)
    state, alone = case.begin(decoder), case.begin(decoder, second)
    for t in range(steps):
        both, state = decoder.step(*case.step(t, masked), state)
        single, alone = decoder.step(*case.step(t, masked[second], second), alone)
        require_same(rows_of(both, second), single, masked[second])


@dataclass(frozen=True)
class Law:
    """A law: its name, its sentence, and the check, which raises `BrokenLawError`."""

    check: Callable[[Decoder, Case, random.Random], None]
    fewest_rows: int = 1
    makes_own_case: bool = False

    @property
    def name(self) -> str:
        """The name of its check."""
        return self.check.__name__

    @property
    def sentence(self) -> str:
        """What it says."""
        return (self.check.__doc__ or "").strip()


LAWS = (
    Law(shapes),
    Law(commits),
    Law(forbidden),
    Law(ends),
    Law(looks_ahead),
    Law(remasks),
    Law(is_pure),
    Law(neighbours, fewest_rows=2),
    Law(stacking, fewest_rows=2),
    Law(widths, makes_own_case=True),
)


def broken(law: Law, decoder: Decoder, cases: int = CASES) -> str | None:
    """How a decoder breaks a law, with the case and the knobs; None if it keeps the law."""
    settings = variants(decoder)
    module = sys.modules.get(type(decoder).__module__)
    for seed in range(1 if law.makes_own_case else max(cases, len(settings))):
        case = make_case(seed, law.fewest_rows)
        setting = settings[seed % len(settings)]
        try:
            law.check(setting, case, random.Random(seed))
        except BrokenLawError as error:
            return _report(str(error), seed, setting, case)
        except Exception as error:
            problem = describe_error(error, getattr(module, "__file__", None) or "")
            return _report(problem, seed, setting, case)
    return None


def _report(problem: str, seed: int, decoder: Decoder, case: Case) -> str:
    options = ", ".join(f"{name} {value}" for name, value in case.options.items()) or "greedy"
    return f"{problem} (case {seed}, {options}; {decoder})"
