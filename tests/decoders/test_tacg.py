"""`tacg` against numbers computed by hand: the slow average, the score, who is ready, the gate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from creditdecoding.decoders import create
from creditdecoding.decoders.base import from_logits
from tests.helpers.rules import peaks, predict, step


def commits_by_pass(history: list[Tensor], **knobs: float) -> list[list[int]]:
    """The columns committed in each pass; what is masked stays masked."""
    decoder, state, columns = create("tacg", **knobs), None, []
    for chances in history:
        decision, state = step(decoder, predict(chances), state)
        columns.append(decision.commit[0].nonzero()[:, 0].tolist())
    return columns


def test_the_score_of_a_position_that_moved() -> None:
    """Logits (0, 1), then (0, 3). e = (0, .95 + .15) = (0, 1.1); beyond it e + 1.3 (l - e) is
    (0, 1.1 + 1.3 * 1.9) = (0, 3.57).
    """
    decoder = create("tacg")
    masked = torch.ones(1, 1, dtype=torch.bool)
    first, state = step(decoder, from_logits(torch.tensor([[[0.0, 1.0]]]), masked))
    assert float(first.confidence) == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-6)
    second, state = step(decoder, from_logits(torch.tensor([[[0.0, 3.0]]]), masked), state)
    sigmoid = torch.tensor([3.0, 3.57, 1.1], dtype=torch.float64).sigmoid()
    expected = sigmoid[0] + 0.05 * (sigmoid[1] - sigmoid[2])
    assert float(second.confidence) == pytest.approx(float(expected), abs=1e-6)
    assert state["average"][0, 0].tolist() == pytest.approx([0.0, 1.1], abs=1e-6)


def test_a_fall_adds_nothing() -> None:
    """Logits (0, 3), then (0, 1): the guided distribution is below the average's."""
    masked = torch.ones(1, 1, dtype=torch.bool)
    decoder = create("tacg", bonus=1.0)
    _, state = step(decoder, from_logits(torch.tensor([[[0.0, 3.0]]]), masked))
    fallen, _ = step(decoder, from_logits(torch.tensor([[[0.0, 1.0]]]), masked), state)
    assert float(fallen.confidence) == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-6)


def test_an_id_that_may_not_be_written_is_left_out() -> None:
    """Id 0 is forbidden throughout: the numbers are those of the two other ids."""
    masked = torch.ones(1, 1, dtype=torch.bool)
    decoder, states = create("tacg"), [None, None]
    for gap in (1.0, 3.0):
        forbidden = from_logits(torch.tensor([[[-torch.inf, 0.0, gap]]]), masked)
        without = from_logits(torch.tensor([[[0.0, gap]]]), masked)
        decision, states[0] = step(decoder, forbidden, states[0])
        expected, states[1] = step(decoder, without, states[1])
        assert float(decision.confidence) == pytest.approx(float(expected.confidence), abs=1e-6)


def test_the_gate_wants_a_streak_or_a_sure_token() -> None:
    """.96 is sure; .92 is ready in pass 1 and passes the gate in pass 3; .7 never is ready."""
    calm = peaks((0.92, 0.96, 0.7))
    assert commits_by_pass([calm] * 3) == [[1], [1], [0, 1]]
    assert commits_by_pass([calm] * 2, streak=2) == [[1], [0, 1]]
    assert commits_by_pass([calm], sure=0.92) == [[0, 1]]
    flips = [peaks((0.92, 0.96, 0.7), (3 + turn % 2, 3, 3)) for turn in range(4)]
    assert commits_by_pass(flips) == [[1]] * 4


@pytest.mark.parametrize(
    ("above", "between", "extra"),
    [(0, 3, 1), (1, 3, 1), (4, 3, 1), (5, 3, 2), (9, 4, 2)],
)
def test_a_quarter_more_by_score(above: int, between: int, extra: int) -> None:
    """min(2, ceil(n / 4)) positions between .8 and .9 join n above .9: the best ones."""
    doubtful = [0.82 + 0.01 * i for i in range(between)]
    chances = peaks((*([0.93] * above), *doubtful, 0.5))
    joined = list(range(above + between - extra, above + between))
    assert commits_by_pass([chances], streak=1) == [[*range(above), *joined]]
    assert commits_by_pass([chances], streak=1, extra=0)[0][:above] == list(range(above))


def test_bounds_are_strict_below_and_the_schedule_steps_in() -> None:
    assert commits_by_pass([peaks((0.7, 0.6, 0.5))]) == [[0]]
    chances = peaks((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    assert commits_by_pass([chances], steps=3) == [[4, 5, 6]]
    ready_but_gated = peaks((0.92, 0.91, 0.3))
    assert commits_by_pass([ready_but_gated]) == [[0]]
    assert commits_by_pass([ready_but_gated], steps=2) == [[0, 1]]
