"""The rule of experiments/rivals.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from creditdecoding.decoders import load
from creditdecoding.decoders._laws import LAWS, Law, broken
from creditdecoding.decoders.base import Block, from_logits
from experiments import rivals
from experiments.rivals import Rivals


@pytest.mark.parametrize("law", [pytest.param(law, id=law.name) for law in LAWS])
def test_it_keeps_every_law_of_decoders(law: Law) -> None:
    rule, _ = load(str(Path(rivals.__file__)))
    assert broken(law, rule, 2) is None


def written(probabilities: list[list[float]], rule: Rivals) -> list[bool]:
    """Which positions of one block are written in its first pass."""
    logits = torch.tensor([probabilities]).log()
    masked = torch.ones(1, len(probabilities), dtype=torch.bool)
    block = Block(
        tokens=torch.zeros_like(masked, dtype=torch.long),
        masked=masked,
        editable=masked,
        initial_masks=masked.sum(-1),
        step=torch.zeros(1, dtype=torch.long),
    )
    decision, _ = rule.step(from_logits(logits, masked), block, {})
    committed: list[bool] = decision.commit[0].tolist()
    return committed


def test_of_two_unsure_positions_that_want_the_same_ids_the_surer_is_written() -> None:
    swapped = [[0.6, 0.4, 0.0, 0.0], [0.35, 0.65, 0.0, 0.0]]
    assert written(swapped, Rivals()) == [False, True]


def test_unsure_positions_with_other_candidates_are_written_together() -> None:
    apart = [[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.35, 0.65]]
    assert written(apart, Rivals()) == [True, True]


def test_sure_positions_are_written_together_even_with_the_same_id() -> None:
    commas = [[0.99, 0.01, 0.0, 0.0], [0.99, 0.01, 0.0, 0.0]]
    assert written(commas, Rivals()) == [True, True]


def test_a_rival_blocks_only_if_it_could_be_written_itself() -> None:
    one_below = [[0.6, 0.4, 0.0, 0.0], [0.45, 0.55, 0.0, 0.0]]
    assert written(one_below, Rivals(threshold=0.58)) == [True, False]
    assert written(one_below, Rivals(threshold=0.5)) == [True, False]
    both_sure_enough = [[0.8, 0.2, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0]]
    assert written(both_sure_enough, Rivals(most=0.25)) == [True, True]


def test_fewer_candidates_see_fewer_rivals() -> None:
    third = [[0.5, 0.3, 0.2, 0.0], [0.0, 0.3, 0.2, 0.5]]
    assert written(third, Rivals(candidates=3)) == [True, False]
    assert written(third, Rivals(candidates=1)) == [True, True]
