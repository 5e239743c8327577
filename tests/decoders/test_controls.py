"""The controls of credit against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.decoders import create
from tests.helpers.rules import CPU, VOCAB, peaks, predict, step


def history(name: str, chances: Sequence[Tensor], **knobs: Any) -> list[list[int]]:
    """Committed columns of a row at each step, what is committed leaving the masks."""
    decoder, state, decisions = create(name, **knobs), None, []
    masked = torch.ones(1, len(chances[0]), dtype=torch.bool)
    for chance in chances:
        decision, state = step(decoder, predict(chance, masked), state)
        decisions.append(decision.commit[0].nonzero()[:, 0].tolist())
        masked = masked & ~decision.commit
    return decisions


def test_stable_waits_for_the_id_to_stay() -> None:
    """Column 0 stays 3, column 1 changes at the second step, column 2 stays but is at .7, column 3
    is the one forced each time.
    """
    one, two = (
        peaks((0.85, 0.85, 0.7, 0.95), (3, 3, 3, 3)),
        peaks((0.85, 0.85, 0.7, 0.1), (3, 4, 3, 3)),
    )
    assert history("stable", [one, two, two, two]) == [[3], [0], [1], [2]]
    assert history("stable", [one, two, two], threshold=0.7, k=2) == [[3], [0, 2], [1]]
    assert history("stable", [one, two, two], k=1) == [[0, 1, 3], [2], []]
    assert history("stable", [one, two, two], k=3) == [
        [3],
        [0],
        [1],
    ]  # nothing waited long enough: the best, each time


def test_stable_lets_the_sure_ones_pass_and_one_makes_all_wait() -> None:
    sure = peaks((0.95, 0.99, 0.97))
    assert history("stable", [sure, sure]) == [[0, 1, 2], []]
    assert history("stable", [sure, sure], sure=1.0) == [[1], [0, 2]]
    certain = peaks((1.0, 1.0))
    assert history("stable", [certain, certain], sure=1.0) == [[0], [1]]
    assert history("stable", [peaks((0.85, 0.95)), peaks((0.5, 0.5)), peaks((0.85, 0.5))]) == [
        [1],
        [0],
        [],
    ]


def test_stable_counts_the_id_that_is_written() -> None:
    """A drawn token that is not the top-1 is no stable one, however long the top-1 has been there."""
    chances = torch.cat([peaks([0.5], [3]) for _ in range(40)])
    decoder, state = create("stable", threshold=0.0, k=2), None
    for _ in range(2):
        decision, state = step(decoder, predict(chances, temperature=1.0), state)
    top = decision.tokens[0] == 3
    assert 5 < int(top.sum()) < 35
    assert torch.equal(decision.commit[0], top)


# the controls of credit: threshold 1 never passes by itself, what is masked stays masked,
# probability .8, defaults of the paper
#   credit of the first step .8^.2 = .95635


def fused(top: float, credit: float, other: float = 0.0) -> float:
    """Eq. 7 over two ids: p (1 + C)^.65, normalised."""
    weights = [top * (1 + credit) ** 0.65, (1 - top) * (1 + other) ** 0.65]
    return weights[0] / sum(weights)


def watched(name: str, ids: Sequence[int]) -> tuple[list[float], list[float]]:
    """Fused confidence and credit of a position over two ids whose top-1 (at .8) is `ids` in turn."""
    decoder, state = create(name, threshold=1.0), None
    confidence, credit = [], []
    for top in ids:
        chances = torch.tensor([[0.8, 0.2] if top == 0 else [0.2, 0.8]], dtype=torch.float64)
        decision, state = step(decoder, predict(chances), state)
        assert int(decision.tokens) == top and decision.credit is not None
        confidence.append(float(decision.confidence))
        credit.append(float(decision.credit))
    return confidence, credit


def test_blind_credit_goes_to_whatever_is_on_top() -> None:
    """.95635, then .7 * .95635 + .95635 = 1.62580, then 2.09441, whether the id changes or not;
    credit itself gives .95635 after a change.
    """
    steps = [0.95635, 1.62580, 2.09441]
    for ids in ((0, 0, 0), (0, 1, 0)):
        confidence, credit = watched("credit_blind", ids)
        assert credit == pytest.approx(steps, abs=1e-5)
        assert confidence == pytest.approx([fused(0.8, c) for c in steps], abs=1e-5)
    assert watched("credit_blind", (0, 0, 0)) == tuple(
        pytest.approx(x, abs=1e-6) for x in watched("credit", (0, 0, 0))
    )
    confidence, credit = watched("credit", (0, 1))
    assert credit[1] == pytest.approx(0.95635, abs=1e-5) and confidence[1] == pytest.approx(
        fused(0.8, 0.95635, 0.66945), abs=1e-5
    )


def test_first_credit_only_decays() -> None:
    """.95635, then .7 times that: .66945, .46861. After a change the new top-1 has none and the old
    one still pulls.
    """
    confidence, credit = watched("credit_first", (0, 0, 0))
    assert credit == pytest.approx([0.95635, 0.66945, 0.46861], abs=1e-5)
    assert confidence == pytest.approx(
        [fused(0.8, c) for c in (0.95635, 0.66945, 0.46861)], abs=1e-5
    )
    confidence, credit = watched("credit_first", (0, 1, 0))
    assert credit == pytest.approx([0.95635, 0.0, 0.46861], abs=1e-5)
    assert confidence[1] == pytest.approx(fused(0.8, 0.0, 0.66945), abs=1e-5)
    assert watched("credit_first", (1,)) == watched("credit", (1,))


def test_first_credit_keeps_its_slots() -> None:
    """Many favourites in turn: no slot is added after the first step, and a position that is not
    masked gets none.
    """
    decoder, masked = create("credit_first"), torch.tensor([[True, False]])
    state = decoder.init(1, 2, VOCAB, CPU)
    for top in range(8):
        _, state = step(decoder, predict(peaks((0.5, 0.5), (top, top)), masked), state)
    assert state["slot_ids"].tolist() == [[[1, 0], [0, 0]]]
