"""`less` against numbers computed by hand: the same top-1 id for some passes, confidence, and a
small coarse Jensen-Shannon divergence from the last pass.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from creditdecoding.decoders import create
from creditdecoding.decoders.less import coarse_divergence
from tests.helpers.rules import VOCAB, peaks, predict, step


def commits_by_pass(history: list[Tensor], **knobs: float) -> list[list[int]]:
    """The columns committed in each pass; what is masked stays masked."""
    decoder, state, columns = create("less", **knobs), None, []
    for chances in history:
        decision, state = step(decoder, predict(chances), state)
        columns.append(decision.commit[0].nonzero()[:, 0].tolist())
    return columns


def test_divergence_between_two_lists_of_likely_ids() -> None:
    """Now .6 on id 1, .3 on id 2, .1 elsewhere; before .5 on id 1, .2 on id 3, .3 elsewhere."""
    now, before = torch.tensor([[[0.6, 0.3]]]), torch.tensor([[[0.5, 0.2]]])
    moved = coarse_divergence(torch.tensor([[[1, 2]]]), now, torch.tensor([[[1, 3]]]), before)
    pairs = [(0.6, 0.5), (0.3, 0.0), (0.0, 0.2), (0.1, 0.3)]
    expected = 0.0
    for p, q in pairs:
        mean = (p + q) / 2
        expected += sum(x * math.log(x / mean) for x in (p, q) if x > 0) / 2
    assert float(moved) == pytest.approx(expected, abs=1e-6)


def test_divergence_is_symmetric_bounded_and_1_without_a_past() -> None:
    ids, other = torch.tensor([[[1, 2]]]), torch.tensor([[[3, 4]]])
    p, q = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[0.7, 0.3]]])
    assert float(coarse_divergence(ids, p, ids, p)) == pytest.approx(0.0, abs=1e-7)
    apart = float(coarse_divergence(ids, p, other, q))
    assert apart == pytest.approx(math.log(2), abs=1e-6)
    assert apart == pytest.approx(float(coarse_divergence(other, q, ids, p)))
    assert float(coarse_divergence(ids, p, torch.zeros_like(ids), torch.zeros_like(p))) == 1.0


def test_nothing_is_stable_before_pass_3() -> None:
    """All columns are calm and confident: the best one in passes 1 and 2, then all that reach the
    threshold.
    """
    calm = peaks((0.8, 0.99, 0.74))
    assert commits_by_pass([calm] * 3) == [[1], [1], [0, 1]]
    assert commits_by_pass([calm] * 3, passes=1) == [[1], [0, 1], [0, 1]]
    assert commits_by_pass([calm] * 4, passes=3) == [[1], [1], [1], [0, 1]]
    assert commits_by_pass([calm] * 3, threshold=0.7)[2] == [0, 1, 2]
    assert commits_by_pass([peaks((0.8, 0.75))] * 3, threshold=0.76)[2] == [0]


def test_a_changed_id_starts_over_and_stable_ones_come_alone() -> None:
    """Column 0 has another id in the second pass; column 1 is the best and flips in every pass."""
    history = [
        peaks((0.9, 0.99), (3, 4)),
        peaks((0.9, 0.99), (5, 6)),
        peaks((0.9, 0.99), (3, 4)),
        peaks((0.9, 0.99), (3, 6)),
        peaks((0.9, 0.99), (3, 4)),
    ]
    assert commits_by_pass(history) == [[1], [1], [1], [1], [0]]


def test_a_distribution_that_moves_waits() -> None:
    """.78 and then .99 on the same id. The 15 others share the rest, 7 of them are kept."""
    history = [peaks((0.78, 0.995)), peaks((0.78, 0.995)), peaks((0.99, 0.995))]
    kept, rest = 7 / 15, 8 / 15
    pairs = [(0.99, 0.78), (0.01 * kept, 0.22 * kept), (0.01 * rest, 0.22 * rest)]
    moved = 0.0
    for p, q in pairs:
        mean = (p + q) / 2
        moved += (p * math.log(p / mean) + q * math.log(q / mean)) / 2
    assert 0.04 < moved < 0.1
    assert commits_by_pass(history)[2] == [1]
    assert commits_by_pass(history, divergence=moved + 1e-4)[2] == [0, 1]
    assert commits_by_pass(history, divergence=moved - 1e-4)[2] == [1]


def test_without_a_stable_position_the_schedule_decides() -> None:
    """Seven masks in three steps: 3, 2, 2."""
    chances = peaks((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    assert commits_by_pass([chances], steps=3) == [[4, 5, 6]]
    assert commits_by_pass([chances], steps=7) == [[6]]
    assert commits_by_pass([chances], steps=20) == [[6]]


def test_a_vocabulary_smaller_than_the_list() -> None:
    two = torch.tensor([[0.9, 0.1], [0.8, 0.2]], dtype=torch.float64)
    assert commits_by_pass([two] * 3) == [[0], [0], [0, 1]]
    assert commits_by_pass([peaks((0.8, 0.99))] * 3, kept=VOCAB + 4)[2] == [0, 1]
