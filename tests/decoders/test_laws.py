"""The laws of a decoder, over random cases, for every file of `creditdecoding/decoders`: a new
decoder is held to them unasked. And each law finds the decoder that breaks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from creditdecoding.decoders import create, names
from creditdecoding.decoders._laws import (
    LAWS,
    Law,
    broken,
    make_case,
    play,
)
from creditdecoding.decoders._states import stack_states
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Prediction,
    Sampling,
    State,
    at_least_one,
    from_logits,
)
from creditdecoding.errors import OptionError

CASES = 4
LONG = ("neighbours", "stacking", "widths")
every_decoder = pytest.mark.parametrize("name", names(controls=True))
every_law = pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, id=law.name, marks=[pytest.mark.slow] if law.name in LONG else [])
        for law in LAWS
    ],
)


@every_decoder
@every_law
def test_every_decoder_keeps_every_law(name: str, law: Law) -> None:
    assert broken(law, create(name), CASES) is None


def takes_live_blocks(name: str) -> bool:
    """Whether a rule may be written in several blocks at once."""
    try:
        create(name, live_blocks=2)
    except OptionError:
        return False
    return True


@pytest.mark.parametrize("name", list(filter(takes_live_blocks, names())))
@every_law
def test_every_rule_keeps_the_laws_in_live_blocks(name: str, law: Law) -> None:
    assert broken(law, create(name, live_blocks=2, open_share=0.3), CASES) is None


def plain(prediction: Prediction, block: Block, **changes: Any) -> Decision:
    """The decision of the rule `threshold` at 0.5, with some fields changed."""
    tokens, confidence = prediction.choose()
    commit = at_least_one(confidence >= 0.5, confidence, block.editable)
    return dataclasses.replace(Decision(tokens, commit, confidence.float()), **changes)


Step = Callable[[Prediction, Block, State], "tuple[Decision, State]"]


def rule(step: Step, **capabilities: Any) -> Any:
    """A decoder with this step."""
    declared = Capabilities(**capabilities)
    body = {"step": lambda self, *seen: step(*seen), "capabilities": declared, **ZEROS}
    return dataclasses.dataclass(frozen=True)(type("Broken", (BaseDecoder,), body))()


def _zeros(self: Any, rows: int, length: int, vocab: int, device: torch.device) -> State:
    return {"seen": torch.zeros(rows, vocab, device=device)}


ZEROS = {"init": _zeros}


def float64(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    return plain(prediction, block, confidence=prediction.choose()[1].double()), state


def lazy(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    decision = plain(prediction, block)
    return dataclasses.replace(
        decision, commit=decision.commit & (decision.confidence > 0.9)
    ), state


def writes_zero(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    return plain(prediction, block, tokens=torch.zeros_like(prediction.ids)), state


def undoes(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    decision = plain(prediction, block)
    return dataclasses.replace(decision, remask=decision.commit), state


def only_behind(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    if block.next_block is None:
        return plain(prediction, block), state
    return plain(prediction, block, commit=block.masked & block.next_block), state


def in_place(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    state["seen"] += 1
    return plain(prediction, block), state


def shy(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    """Writes one token in the whole batch if it is beside others."""
    decision = plain(prediction, block)
    least = decision.confidence.max() if len(block.masked) > 1 else 0.5
    commit = at_least_one(decision.confidence > least, decision.confidence, block.editable)
    return dataclasses.replace(decision, commit=commit), state


def numbered(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
    """Remembers by the number of the row."""
    seen = state["seen"] + torch.arange(len(block.masked))[:, None]
    decision = plain(prediction, block)
    return dataclasses.replace(decision, credit=seen[:, :1].expand_as(decision.confidence)), {
        "seen": seen
    }


@pytest.mark.parametrize(
    ("step", "capabilities", "law"),
    [
        (float64, {}, "shapes"),
        (lazy, {}, "commits"),
        (lazy, {}, "ends"),
        (writes_zero, {}, "forbidden"),
        (undoes, {}, "remasks"),
        (undoes, {"can_remask": True}, "remasks"),
        (only_behind, {"looks_ahead": True}, "looks_ahead"),
        (in_place, {}, "is_pure"),
        (shy, {}, "neighbours"),
        (numbered, {}, "stacking"),
        (numbered, {}, "widths"),
    ],
)
def test_each_law_finds_the_decoder_that_breaks_it(
    step: Step, capabilities: dict[str, Any], law: str
) -> None:
    (checked,) = (entry for entry in LAWS if entry.name == law)
    problem = broken(checked, rule(step, **capabilities))
    assert problem is not None and "case" in problem and "Broken()" in problem


def test_an_exception_in_a_step_breaks_a_law_with_file_and_line() -> None:
    def fails(prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        raise ValueError("no luck")

    problem = broken(LAWS[0], rule(fails))
    assert problem is not None and problem.startswith("ValueError: no luck (")
    assert "test_laws.py, line " in problem


def test_stacking_pads_every_axis_but_the_row() -> None:
    one = {"a": torch.ones(1, 2, 3), "b": torch.ones(1)}
    two = {"a": torch.full((2, 4, 1), 2.0), "b": torch.zeros(2)}
    stacked = stack_states([one, two])
    assert stacked["a"].shape == (3, 4, 3) and stacked["b"].tolist() == [1.0, 0.0, 0.0]
    assert float(stacked["a"].sum()) == 6.0 + 16.0
    assert torch.equal(stacked["a"][0, :2], torch.ones(2, 3)) and torch.equal(
        stacked["a"][1:, :, :1], two["a"]
    )
    assert stack_states([]) == {} and stack_states([{}, {}]) == {}


@pytest.mark.parametrize("k", (1, 2, 3, 9))
@pytest.mark.parametrize("order", ("low_confidence", "random"))
def test_fixed_commits_exactly_k(k: int, order: str) -> None:
    """`fixed`: k a step, the rest at the last; the most confident ones, or random ones that the
    seed decides.
    """
    logits = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(1)) * 3
    masked = torch.ones(2, 7, dtype=torch.bool)
    masked[1, :2] = False
    seen = from_logits(logits, masked)
    block = Block(
        torch.zeros(2, 7, dtype=torch.long),
        masked,
        masked,
        masked.sum(-1),
        torch.zeros(2, dtype=torch.long),
    )
    decision, _ = create("fixed", k=k, order=order).step(seen, block, {})
    assert decision.commit.sum(-1).tolist() == [min(k, 7), min(k, 5)]
    if order == "low_confidence":
        for row in range(2):
            scores = decision.confidence[row]
            taken, left = scores[decision.commit[row]], scores[masked[row] & ~decision.commit[row]]
            assert not len(left) or float(taken.min()) >= float(left.max())


def test_random_order_ignores_confidence_and_follows_the_seed() -> None:
    """Over many seeds every position comes first about equally often; one seed always gives the
    same.
    """
    rows, length = 2000, 4
    logits = (
        torch.tensor([8.0, 0.0, 0.0]).repeat(rows, length, 1)
        * torch.arange(1, length + 1)[None, :, None]
    )
    masked = torch.ones(rows, length, dtype=torch.bool)
    sampling = Sampling(
        torch.arange(rows),
        torch.arange(length).expand(rows, -1),
        torch.zeros(rows, dtype=torch.long),
    )
    block = Block(
        torch.zeros(rows, length, dtype=torch.long),
        masked,
        masked,
        masked.sum(-1),
        torch.zeros(rows, dtype=torch.long),
    )
    first, _ = create("fixed", order="random").step(
        from_logits(logits, masked, sampling), block, {}
    )
    again, _ = create("fixed", order="random").step(
        from_logits(logits, masked, sampling), block, {}
    )
    assert torch.equal(first.commit, again.commit)
    share = first.commit.double().mean(0)
    assert bool(((share - 0.25).abs() < 4 * (0.25 * 0.75 / rows) ** 0.5).all())


@pytest.mark.parametrize("threshold", (0.0, 0.4, 0.9, 1.0))
@pytest.mark.parametrize("seed", range(3))
def test_threshold_is_what_it_says(seed: int, threshold: float) -> None:
    """`threshold` against its own definition in plain Python."""
    case = dataclasses.replace(make_case(seed), options={})
    first = next(play(create("threshold", threshold=threshold), case))
    decision, masked = first.decision, first.masked
    p = case.logits[0].softmax(-1)
    for row in range(len(masked)):
        where = masked[row].nonzero()[:, 0].tolist()
        best = max(where, key=lambda i: float(p[row, i].max()), default=None)
        for i in where:
            confidence = float(p[row, i].max())
            assert float(decision.confidence[row, i]) == pytest.approx(confidence, abs=1e-5)
            assert int(decision.tokens[row, i]) == int(p[row, i].argmax())
            if abs(confidence - threshold) > 1e-5:
                assert bool(decision.commit[row, i]) == (confidence >= threshold or i == best)
