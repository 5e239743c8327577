"""Blocks of an engine: rounds of several passes, and blocks that begin again on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.decoders import _credit, create
from creditdecoding.integrations.blocks import (
    BlockRound,
    BlockState,
    ReservedIds,
    SamplingParams,
    new_blocks,
)

ROWS, LENGTH, VOCAB, MASK = 3, 6, 40, 2
RESERVED = ReservedIds(MASK, (5,))
POSITIONS = torch.arange(LENGTH).expand(ROWS, -1)
DRAWN = SamplingParams(temperature=0.8, top_k=9)
RULES = ["credit", "klass", "edit", "fixed", "entropy"]


def empty_blocks(sampling: list[SamplingParams]) -> tuple[Tensor, list[BlockState]]:
    tokens = torch.full((ROWS, LENGTH), MASK)
    in_prompt = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    return tokens, new_blocks(~in_prompt, in_prompt, ["a", "b", "c"], sampling, [1, 2, 3])


def logits_of(step: int) -> Tensor:
    return 3 * torch.randn(ROWS * LENGTH, VOCAB, generator=torch.Generator().manual_seed(step))


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_a_round_of_several_passes_is_as_many_rounds_of_one(rule: str) -> None:
    sampling = [SamplingParams(), DRAWN, SamplingParams()]
    together, blocks = empty_blocks(sampling)
    apart = together.clone()
    several = BlockRound(create(rule), RESERVED, blocks)
    for step in range(LENGTH + 2):
        several.step(logits_of(step), together, POSITIONS)
        single = BlockRound(create(rule), RESERVED, blocks)
        single.step(logits_of(step), apart, POSITIONS)
        blocks = single.states()
        assert torch.equal(together, apart)
        assert several.read() == single.read()
    for left, right in zip(several.states(), blocks):
        assert_same(left.progress, right.progress)


@pytest.mark.parametrize("rule", RULES)
def test_a_block_that_is_done_begins_again_as_a_new_one(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, while the others go on; memory does not grow from block to block."""
    monkeypatch.setattr(_credit, "_must_grow", lambda slots, missing: True)
    tokens, blocks = empty_blocks([SamplingParams(), DRAWN, DRAWN])
    own, fresh = empty_blocks([SamplingParams(), DRAWN, DRAWN])
    states, ended = list(fresh), 0
    for step in range(4 * LENGTH):  # logits stay for nine passes: edits come to rest
        restarting = BlockRound(create(rule), RESERVED, blocks)
        done = restarting.step(logits_of(step // 9), tokens, POSITIONS).tolist()
        emitted = tokens.clone()
        restarting.restart()
        blocks = restarting.states()
        renewed = BlockRound(create(rule), RESERVED, states)
        assert renewed.step(logits_of(step // 9), own, POSITIONS).tolist() == done
        assert torch.equal(own, emitted)
        states = [new if ready else old for ready, new, old in zip(done, fresh, renewed.states())]
        own[torch.tensor(done)] = MASK
        ended += sum(done)
    assert ended > ROWS
    for block in blocks:
        slots = (block.decoder_state or {}).get("slot_ids", torch.zeros(1, 1, 0))
        assert slots.shape[2] <= LENGTH


def test_a_row_that_fails_is_marked_after_the_round_and_others_go_on() -> None:
    tokens, blocks = empty_blocks([SamplingParams()] * ROWS)
    failing = BlockRound(create("fixed"), RESERVED, blocks)
    logits = logits_of(0)
    logits[LENGTH, 7] = torch.nan
    failing.step(logits, tokens, POSITIONS)
    failing.mark_lost(-1, together=True)
    assert MASK not in tokens[1] and -1 not in tokens
    failing.step(logits_of(1), tokens, POSITIONS)
    failing.mark_lost(-1, together=False)
    assert tokens[1].tolist() == [-1] * LENGTH
    assert failing.read() == ([False, True, False], [False, True, False])
