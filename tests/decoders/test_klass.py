"""`klass` against numbers computed by hand: confidence > threshold and KL(now || before) < kl in each
of the last n steps.
"""

from __future__ import annotations

import math

import pytest
import torch

from creditdecoding.decoders import create
from creditdecoding.decoders._states import stack_states
from creditdecoding.decoders.base import (
    from_logits,
)
from creditdecoding.decoders.klass import divergence
from tests.helpers.rules import CPU, VOCAB, peaks, predict, step


def test_klass_measures_from_before_to_now() -> None:
    """Now (.9, .1), before (.8, .2): .9 log(9/8) + .1 log(1/2) = .0367; the other way round .0444."""
    now, before = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[0.8, 0.2]]])
    _, state = step(create("klass"), predict(before))
    assert float(divergence(predict(now), state)) == pytest.approx(
        0.9 * math.log(9 / 8) + 0.1 * math.log(1 / 2), abs=1e-6
    )
    assert float(divergence(predict(now), create("klass").init(1, 1, 2, CPU))) == math.inf
    gone = torch.tensor(
        [[[1.0, 0.0]]]
    )  # a probability of 0 adds nothing now, and everything before
    assert float(divergence(predict(gone), state)) == pytest.approx(math.log(1 / 0.8), abs=1e-6)
    assert float(divergence(predict(now), step(create("klass"), predict(gone))[1])) > 1e30


def test_klass_waits_for_n_calm_steps() -> None:
    """Columns: calm .92, flipping .97 (KL .94 log(.97 / .002) = 5.8), calm but unsure .6. What is
    masked stays masked here.
    """
    decoder, state, commits = create("klass", n=2), None, []
    for t in range(4):
        decision, state = step(decoder, predict(peaks((0.92, 0.97, 0.6), (3, 3 + t % 2, 5))), state)
        commits.append(decision.commit[0].tolist())
    best, calm = [False, True, False], [True, False, False]
    assert (
        commits == [best, best, calm, calm]
    )  # one divergence is there at the second step, two at the third; then not the best, but the calm


def test_klass_begins_again_after_a_move_and_is_strict() -> None:
    """Top-1 .95, then .97 (KL .0052 nats), then the same: below .01 all the time, above .005 at the
    second step only.
    """
    history = [0.95, 0.97, 0.97, 0.97, 0.97]

    def first(kl: float, n: int, threshold: float = 0.9) -> int:
        decoder, state = create("klass", kl=kl, n=n, threshold=threshold), None
        for t, c in enumerate(
            history
        ):  # the second column is the best one, so that the first is never the fallback
            decision, state = step(decoder, predict(peaks((c, 0.99), (3, 3 + t % 2))), state)
            if bool(decision.commit[0, 0]):
                return t
        return -1

    kl = 0.97 * math.log(0.97 / 0.95) + 0.03 * math.log(0.03 / 0.05)
    assert kl == pytest.approx(0.00490, abs=1e-4)
    assert [first(0.01, n) for n in (1, 2, 3)] == [1, 2, 3]
    assert [first(0.004, n) for n in (1, 2, 3)] == [2, 3, 4]
    assert first(0.01, 1, threshold=0.98) == -1


def test_klass_keeps_logits_as_they_are_and_rows_of_any_age_together() -> None:
    """The state has the model's dtype, takes no room before the first step, and a new row beside an
    old one has no past.
    """
    decoder = create("klass", n=1)
    seen = from_logits(
        peaks((0.95, 0.6)).log()[None].to(torch.bfloat16), torch.ones(1, 2, dtype=torch.bool)
    )
    fresh = decoder.init(1, 2, VOCAB, CPU)
    _, old = step(decoder, seen)
    assert fresh["logits"].numel() == 0 and old["logits"].dtype == torch.bfloat16
    both = stack_states([fresh, old])
    assert both["logits"].dtype == torch.bfloat16 and both["logits"].shape == (2, 2, VOCAB)
    twice = from_logits(
        peaks((0.95, 0.6)).log().expand(2, -1, -1).to(torch.bfloat16),
        torch.ones(2, 2, dtype=torch.bool),
    )
    assert divergence(twice, both).isinf().tolist() == [[True, True], [False, False]]
    _, after = step(decoder, twice, both)
    assert after["stable_steps"].tolist() == [[0, 0], [1, 1]]
    hole = torch.tensor([True, False])
    assert (
        float(step(decoder, predict(peaks((0.9, 0.9)), hole))[1]["logits"][0, 1].abs().sum()) == 0.0
    )
