"""Token editing: the rule by hand, and the loop around a rule that writes over its own tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoders.base import Block, from_logits
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_infill_request, new_request
from creditdecoding.trace import FinishEvent, StepEvent

CPU = torch.device("cpu")
MASK, END = 7, 6
WORDS = SpecialTokens(MASK, (END,), 8, lambda ids: "".join("abcdefg"[i] for i in ids))


def chance(*rows: dict[int, float]) -> Tensor:
    """Logits [1, length, 8] with the given probabilities, the rest spread over the other ids."""
    columns = []
    for row in rows:
        rest = (1 - sum(row.values())) / (8 - len(row))
        columns.append([row.get(i, rest) for i in range(8)])
    return torch.tensor(columns).log()[None]


def step(decoder: Any, logits: Tensor, tokens: list[int], prompt_length: int, state: Any) -> Any:
    now = torch.tensor([tokens])
    masked = now == MASK
    editable = torch.arange(len(tokens))[None] >= prompt_length
    zero = torch.zeros(1, dtype=torch.long)
    return decoder.step(
        from_logits(logits, editable), Block(now, masked, editable, zero + 4, zero), state
    )


def test_by_hand() -> None:
    """LLaDA2.1: p > threshold writes a mask, p > editing_threshold replaces a token by another;
    prompt and agreement stay.
    """
    decoder = create("edit", threshold=0.7, editing_threshold=0.5)
    logits = chance({1: 0.9}, {2: 0.8}, {3: 0.6}, {4: 0.69}, {5: 0.71}, {1: 0.49})
    # positions: given | filled, disagrees at .8 | filled, agrees | mask .69 | mask .71 | filled,
    # disagrees at .49
    decision, state = step(decoder, logits, [0, 0, 3, MASK, MASK, 0], 1, decoder.init(1, 6, 8, CPU))
    assert decision.commit.tolist() == [[False, True, False, False, True, False]]
    assert decision.tokens[0, [1, 4]].tolist() == [2, 5]
    assert decision.needs_another_pass.tolist() == [False] and state["post_steps"].tolist() == [
        0
    ]  # a mask is left: the loop comes back anyway


def test_the_best_mask_is_written_when_none_passes_and_the_block_is_looked_at_again() -> None:
    decoder = create("edit", threshold=0.9, max_post_steps=2)
    decision, state = step(
        decoder, chance({1: 0.6}, {2: 0.5}), [MASK, 2], 0, decoder.init(1, 2, 8, CPU)
    )
    assert decision.commit.tolist() == [[True, False]] and decision.needs_another_pass.tolist() == [
        True
    ]
    decision, state = step(
        decoder, chance({3: 0.6}, {2: 0.5}), [1, 2], 0, state
    )  # first pass without masks: 1 becomes 3
    assert (
        decision.commit.tolist() == [[True, False]]
        and decision.needs_another_pass.tolist() == [True]
        and state["post_steps"].tolist() == [1]
    )
    decision, state = step(
        decoder, chance({1: 0.6}, {2: 0.5}), [3, 2], 0, state
    )  # the second is the last one allowed
    assert decision.commit.tolist() == [[True, False]] and decision.needs_another_pass.tolist() == [
        False
    ]


def test_a_pass_that_changes_nothing_ends_the_block() -> None:
    decoder = create("edit")
    decision, _ = step(decoder, chance({1: 0.9}, {2: 0.9}), [1, 2], 0, decoder.init(1, 2, 8, CPU))
    assert not decision.commit.any() and decision.needs_another_pass.tolist() == [False]


class Restless:
    """Wants another token at every place at every pass: only the bound ends it."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        self.passes += 1
        logits = torch.zeros(len(read[0]), 8)
        logits[torch.arange(len(read[0])), (read[1] + self.passes) % 5] = 9.0
        return logits


@pytest.mark.parametrize("post", [0, 1, 5])
def test_passes_are_bounded_and_the_prompt_stays(post: int) -> None:
    config = GenerationConfig(decoder=f"edit:max_post_steps={post}", gen_length=7, block_length=4)
    row = new_request(0, [1, 2, 3], config, WORDS, 99)
    events = list(denoise(Restless(), [row], WORDS, CPU))
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert len(steps) == 2 * (1 + post)
    assert all(min(event.positions) >= 3 for event in steps)
    finish = events[-1]
    assert isinstance(finish, FinishEvent)
    last = {p: t for event in steps for p, t in event.commits().items()}
    assert finish.tokens == tuple(last[p] for p in range(3, 10)), (
        "the answer holds what was written last"
    )


def test_infilling_edits_gaps_alone() -> None:
    row = new_infill_request(0, [1, MASK, 2, MASK, 3], GenerationConfig(decoder="edit"), WORDS, 99)
    events = list(denoise(Restless(), [row], WORDS, CPU))
    assert {p for event in events if isinstance(event, StepEvent) for p in event.positions} == {
        1,
        3,
    }
    finish = events[-1]
    assert isinstance(finish, FinishEvent) and finish.tokens[0::2] == (1, 2, 3)


class Ends:
    """Writes the end token first and takes it back at the second pass."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        self.passes += 1
        logits = torch.zeros(len(read[0]), 8)
        logits[:, END if self.passes == 1 else 2] = 9.0
        return logits


def test_an_end_token_that_may_still_be_replaced_ends_nothing() -> None:
    row = new_request(
        0, [1], GenerationConfig(decoder="edit", gen_length=4, block_length=4), WORDS, 99
    )
    events = list(denoise(Ends(), [row], WORDS, CPU))
    finish = events[-1]
    assert (
        isinstance(finish, FinishEvent)
        and finish.reason == "length"
        and finish.tokens == (2, 2, 2, 2)
    )
