"""Every competing rule against numbers computed by hand from its definition, and the places where
public copies go wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import (
    Block,
    Decision,
    Decoder,
    Prediction,
    Sampling,
    State,
    from_logits,
    stack_states,
    take_rows,
)
from creditdecoding.decoders.hierarchy import best_of_runs
from creditdecoding.decoders.klass import divergence
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.trace import FinishEvent, StepEvent
from tests.helpers.oracle import HashModel

torch.set_num_threads(1)
CPU = torch.device("cpu")
RULES = (
    "factor",
    "frechet",
    "entropy",
    "klass",
    "localleap",
    "hierarchy",
    "margin",
    "stable",
    "prophet",
    "credit_blind",
    "credit_first",
)
VOCAB = 16


def peaks(confidences: Sequence[float], ids: Sequence[int] | None = None) -> Tensor:
    """Distributions [length, vocab] with the given top-1 probabilities, the rest spread evenly."""
    made = torch.tensor([[(1 - c) / (VOCAB - 1)] * VOCAB for c in confidences], dtype=torch.float64)
    made[range(len(confidences)), list(ids or [3] * len(confidences))] = torch.tensor(
        list(confidences), dtype=torch.float64
    )
    return made


def predict(chances: Tensor, masked: Tensor | None = None, **options: Any) -> Prediction:
    """What a decoder sees of distributions [rows, length, vocab] (or of one row)."""
    chances = chances if chances.dim() == 3 else chances[None]
    masked = (
        torch.ones(chances.shape[:2], dtype=torch.bool)
        if masked is None
        else masked.view(chances.shape[:2])
    )
    zero = torch.zeros(len(chances), dtype=torch.long)
    sampling = Sampling(
        zero, torch.arange(chances.shape[1]).expand(len(chances), -1), zero, **options
    )
    return from_logits(chances.log().float(), masked, sampling)


def block_of(seen: Prediction, editable: Tensor | None = None, size: int | None = None) -> Block:
    rows, length = seen.masked.shape
    sizes = torch.full((rows,), length if size is None else size)
    return Block(
        torch.zeros(rows, length, dtype=torch.long),
        seen.masked,
        seen.masked if editable is None else editable,
        sizes,
        torch.zeros_like(sizes),
    )


def step(
    decoder: Decoder, seen: Prediction, state: State | None = None, **options: Any
) -> tuple[Decision, State]:
    state = decoder.init(*seen.masked.shape, seen.logits.shape[1], CPU) if state is None else state
    return decoder.step(seen, block_of(seen, **options), state)


def commits(
    name: str,
    chances: Tensor,
    masked: Tensor | None = None,
    editable: Tensor | None = None,
    **knobs: Any,
) -> list[int]:
    """The columns that a rule without a past commits in a single row."""
    decision, _ = step(create(name, **knobs), predict(chances, masked), editable=editable)
    return decision.commit[0].nonzero()[:, 0].tolist()


def test_every_rule_has_its_tests() -> None:
    assert set(RULES) | {
        "credit",
        "edit",
        "wino",
        "thrift",
        "credit_adaptive",
        "credit_full",
        "fixed",
        "threshold",
    } == set(names(controls=True))


# factor: (n + 1) e_(n) < f


# ranked: .99 .9 .7 .6, doubts .01 .1 .3 .4, times n + 1: .02 .3 1.2 2.0
PROFILE = (0.7, 0.99, 0.6, 0.9)


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        (0.01, [1]),
        (0.1, [1]),
        (0.29, [1]),
        (0.31, [1, 3]),
        (1.0, [1, 3]),
        (1.21, [0, 1, 3]),
        (2.01, [0, 1, 2, 3]),
    ],
)
def test_factor_takes_the_largest_prefix(bound: float, found: list[int]) -> None:
    assert commits("factor", peaks(PROFILE), factor=bound) == found


def test_factor_judges_the_last_masked_token_as_any_other() -> None:
    """.99 .9 .6: 4 * .4 = 1.6 fails, though it is the last (some copies take it); .99 .98 .97: 4 *
    .03 = .12 passes (others drop it).
    """
    assert commits("factor", peaks((0.99, 0.9, 0.6))) == [0, 1]
    assert commits("factor", peaks((0.99, 0.98, 0.97))) == [0, 1, 2]
    assert commits("factor", peaks((0.99, 0.97))) == [0, 1]


def test_factor_with_equals_takes_the_first_ones() -> None:
    """Four times .75: 2/4, 3/4, 4/4, 5/4."""
    assert commits("factor", peaks([0.75] * 4), factor=0.9) == [0, 1]
    assert commits("factor", peaks([0.75] * 4), factor=1.1) == [0, 1, 2]


@pytest.mark.parametrize("name", ("factor", "frechet"))
def test_profiles_of_one_and_of_nothing(name: str) -> None:
    """A single mask is written whatever its confidence; where nothing passes, the best is; what may
    not be written is not counted.
    """
    assert commits(name, peaks((0.1, 0.99)), masked=torch.tensor([True, False])) == [0]
    assert commits(name, peaks((0.2, 0.3, 0.25))) == [1]
    editable = torch.tensor([[False, True, True]])
    assert commits(name, peaks((0.99, 0.95, 0.9)), editable=editable) == [
        1,
        2,
    ]  # as the first two: .1 .3 and .9 .75
    assert (
        step(create(name), predict(peaks((0.9, 0.9)), torch.tensor([False, False])))[0].commit.sum()
        == 0
    )


# frechet: 1 - sum e - e_(n) > margin


@pytest.mark.parametrize(
    ("margin", "found"),
    [(0.99, [1]), (0.8, [1]), (0.78, [1, 3]), (0.3, [1, 3]), (0.28, [0, 1, 3]), (0.0, [0, 1, 3])],
)
def test_frechet_sums_the_doubts(margin: float, found: list[int]) -> None:
    """Doubts .01 .1 .3 .4: 1 - .01 - .01 = .98, 1 - .11 - .1 = .79, 1 - .41 - .3 = .29, 1 - .81 -
    .4 = -.21.
    """
    assert commits("frechet", peaks(PROFILE), margin=margin) == found


def test_frechet_with_equal_doubts_is_factor() -> None:
    """Ten times .9: 1 - (n + 1) / 10 > .25 up to n = 6, as (n + 1) / 10 < .75."""
    assert (
        commits("frechet", peaks([0.9] * 10), margin=0.25)
        == commits("factor", peaks([0.9] * 10), factor=0.75)
        == [0, 1, 2, 3, 4, 5]
    )


def test_frechet_takes_no_less_than_factor() -> None:
    noise = torch.Generator().manual_seed(0)
    for _ in range(50):
        chances = peaks((0.3 + 0.7 * torch.rand(12, generator=noise)).tolist())
        margin = float(torch.rand((), generator=noise))
        assert set(commits("factor", chances, factor=1 - margin)) <= set(
            commits("frechet", chances, margin=margin)
        )


# entropy: sum H - max H <= gamma


def evenly(*counts: int) -> Tensor:
    """Distributions that are even over so many ids: entropy log(count)."""
    return torch.tensor(
        [[1 / n if i < n else 0.0 for i in range(VOCAB)] for n in counts], dtype=torch.float64
    )


@pytest.mark.parametrize(
    ("gamma", "found"),
    [(0.0, [0, 2]), (0.69, [0, 2]), (0.7, [0, 1, 2]), (1.79, [0, 1, 2]), (1.8, [0, 1, 2, 3])],
)
def test_entropy_counts_all_but_the_largest(gamma: float, found: list[int]) -> None:
    """Even over 2, 3, 1, 4 ids: ranked 0, log 2 = .693, log 3 = 1.099, log 4 = 1.386; before each:
    0, 0, .693, 1.792.
    """
    chances = evenly(2, 3, 1, 4)
    assert commits("entropy", chances, gamma=gamma) == found
    decision, _ = step(create("entropy", gamma=gamma), predict(chances))
    assert decision.confidence[0].tolist() == pytest.approx([1 / 2, 1 / 3, 1, 1 / 4])


def test_entropy_is_not_confidence() -> None:
    """.6 and .4 has entropy .673; .7 and the rest evenly over 15 ids .611 + .3 log 15 = 1.423: less
    sure, less confident first.
    """
    two = torch.zeros(1, VOCAB, dtype=torch.float64)
    two[0, :2] = torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert commits("entropy", torch.cat((peaks([0.7]), two))) == [1]
    assert commits("entropy", evenly(3, 3, 3), gamma=1.0) == [0]
    assert commits("entropy", evenly(3, 3, 3), gamma=1.1) == [0, 1]
    assert commits("entropy", evenly(5), gamma=0.0) == [0]


# klass: confidence > threshold and KL(now || before) < kl in each of the last n steps


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
    decoder, state, found = create("klass", n=2), None, []
    for t in range(4):
        decision, state = step(decoder, predict(peaks((0.92, 0.97, 0.6), (3, 3 + t % 2, 5))), state)
        found.append(decision.commit[0].tolist())
    best, calm = [False, True, False], [True, False, False]
    assert (
        found == [best, best, calm, calm]
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


# localleap


@pytest.mark.parametrize(
    ("radius", "found"),
    [
        (0, [4]),
        (1, [4, 5]),
        (2, [2, 4, 5]),
        (4, [0, 2, 4, 5]),
        (5, [0, 2, 4, 5, 9]),
        (10**9, [0, 2, 4, 5, 9]),
    ],
)
def test_localleap_relaxes_near_anchors(radius: int, found: list[int]) -> None:
    """One anchor (.95) in column 4; .76 beside it, .8 at distances 2, 4, 5; .74 beside it is below
    the relaxed .75.
    """
    chances = peaks((0.8, 0.2, 0.8, 0.74, 0.95, 0.76, 0.2, 0.2, 0.2, 0.8))
    assert commits("localleap", chances, radius=radius) == found


def test_localleap_without_anchors_takes_the_best_only() -> None:
    assert commits("localleap", peaks((0.8, 0.89, 0.8))) == [
        1
    ]  # 1 is no anchor: its neighbours keep the threshold
    assert commits("localleap", peaks((0.8, 0.1)), masked=torch.tensor([False, True])) == [1]
    assert commits(
        "localleap", peaks((0.99, 0.8, 0.3)), editable=torch.tensor([[False, True, True]])
    ) == [1]  # what is not written is no anchor
    both = torch.stack((peaks((0.95, 0.8, 0.8)), peaks((0.5, 0.8, 0.85))))
    assert step(create("localleap"), predict(both))[0].commit.tolist() == [
        [True] * 3,
        [False, False, True],
    ]


# hierarchy


def test_hierarchy_takes_the_best_of_each_run() -> None:
    """Runs .5 .6 .3, .35 .2 and .45: the best of the first and of the third pass .4; a second .95
    in a run passes .9 by itself.
    """
    masked = torch.tensor([True, True, True, False, True, True, False, True])
    chances = peaks((0.5, 0.6, 0.3, 0.99, 0.35, 0.2, 0.99, 0.45))
    assert commits("hierarchy", chances, masked) == [1, 7]
    assert commits("hierarchy", chances, masked, low=0.3) == [1, 4, 7]
    assert commits("hierarchy", chances, masked, low=0.6) == [
        1
    ]  # the best of the row, even though it is not above
    chances = peaks((0.95, 0.97, 0.3, 0.99, 0.35, 0.2, 0.99, 0.45))
    assert commits("hierarchy", chances, masked) == [0, 1, 7]


def test_hierarchy_of_a_batch_is_that_of_its_rows() -> None:
    noise = torch.Generator().manual_seed(3)
    for _ in range(30):
        masked = torch.rand(4, 9, generator=noise) < 0.6
        score = (torch.rand(4, 9, generator=noise) * 5).round() / 5  # many equals
        editable = masked & (torch.rand(4, 9, generator=noise) < 0.8)
        found = best_of_runs(score, masked, editable)
        for row in range(4):
            wanted, column = set(), 0
            while column < 9:
                end = column
                while end < 9 and masked[row, end]:
                    end += 1
                inside = [i for i in range(column, end) if editable[row, i]]
                if inside:
                    wanted.add(max(inside, key=lambda i: (float(score[row, i]), -i)))
                column = end + 1
            assert set(found[row].nonzero()[:, 0].tolist()) == wanted


# margin


def test_margin_is_the_lead_of_the_first_over_the_second() -> None:
    """.6 .3 .1 leads by .3; .5 and the rest evenly over 15 by .467; .45 .44 .11 by .01."""
    chances = peaks((0.5, 0.5, 0.5))
    chances[0], chances[2] = 0.0, 0.0
    chances[0, :3] = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    chances[2, 4:7] = torch.tensor([0.45, 0.44, 0.11], dtype=torch.float64)
    decision, _ = step(create("margin"), predict(chances))
    assert decision.confidence[0].tolist() == pytest.approx([0.3, 0.5 - 0.5 / 15, 0.01], abs=1e-6)
    assert commits("margin", chances) == [1]
    assert commits("margin", chances, k=2) == [0, 1]
    assert commits("margin", chances, threshold=0.29) == [0, 1]
    assert (
        commits("margin", chances, threshold=0.31)
        == commits("margin", chances, threshold=0.5)
        == [1]
    )
    assert commits("margin", chances, k=9) == [0, 1, 2]
    assert commits("margin", evenly(2, 2, 2), k=2) == [0, 1]  # leads of 0: the first ones
    assert commits("margin", evenly(1, 1, 1)) == [
        0
    ]  # the default threshold leaves even a certain one to k


# stable


def history(name: str, chances: Sequence[Tensor], **knobs: Any) -> list[list[int]]:
    """Committed columns of a row at each step, what is committed leaving the masks."""
    decoder, state, found = create(name, **knobs), None, []
    masked = torch.ones(1, len(chances[0]), dtype=torch.bool)
    for each in chances:
        decision, state = step(decoder, predict(each, masked), state)
        found.append(decision.commit[0].nonzero()[:, 0].tolist())
        masked = masked & ~decision.commit
    return found


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


# prophet


def gaps(*given: float) -> Tensor:
    """Distributions over two ids whose logits differ by so much."""
    return torch.stack([torch.tensor([0.0, g], dtype=torch.float64).softmax(-1) for g in given])


@pytest.mark.parametrize(
    ("size", "given", "everything"),
    [
        (4, (5.0, 10.1, 7.4, 7.4), False),  # mean 7.475 at the beginning
        (4, (5.0, 10.3, 7.4, 7.4), True),  # mean 7.525
        (6, (4.8, 5.0, 5.0, 5.0), False),  # 2 of 6 written, .333: mean 4.95
        (6, (5.2, 5.0, 5.0, 5.0), True),  # mean 5.05
        (7, (5.2, 5.0, 5.0, 5.0, 5.0), False),  # 2 of 7 written, .286: early
        (6, (3.0, 3.0), False),  # 4 of 6 written, .667: still the middle
        (10, (2.6, 2.5, 2.5), True),  # 7 of 10 written, .7: late
        (10, (2.6, 2.4, 2.4), False),  # mean 2.467
    ],
)
def test_prophet_writes_all_once_the_mean_gap_is_large_enough(
    size: int, given: tuple[float, ...], everything: bool
) -> None:
    decision, _ = step(create("prophet"), predict(gaps(*given)), size=size)
    best = max(range(len(given)), key=lambda i: given[i])
    assert decision.commit[0].tolist() == (
        [True] * len(given) if everything else [i == best for i in range(len(given))]
    )


def test_prophet_means_over_what_is_masked_and_row_by_row() -> None:
    masked = torch.tensor([[True, True, False], [True, True, True]])
    chances = torch.stack((gaps(8.0, 8.0, 0.0), gaps(8.0, 8.0, 0.0)))
    decision, _ = step(create("prophet", k=2, mid=9.0), predict(chances, masked), size=3)
    assert decision.commit.tolist() == [[True, True, False], [True, True, False]]
    decision, _ = step(
        create("prophet", mid=7.9), predict(chances, masked), size=3
    )  # 1 of 3 written in the first row
    assert decision.commit.tolist() == [[True, True, False], [True, False, False]]


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


# what every rule must bear


def hush(seen: Prediction, banned: int) -> Prediction:
    """The same with the confidence of one id 0, as generate.py makes it: it can be written, last."""
    flat = seen.logits.clone()
    kept = flat[:, [banned]].clone()
    flat[:, banned] = -torch.inf
    made = from_logits(flat.view(*seen.masked.shape, -1), seen.masked, seen.sampling)
    logit = torch.where(seen.ids == banned, -torch.inf, made.logit)
    lse = made.lse.nan_to_num(nan=torch.inf)  # nothing but the hushed id
    return dataclasses.replace(
        made, ids=seen.ids, logit=logit, lse=lse, suppressed_ids=(banned,), suppressed_logits=kept
    )


@pytest.mark.parametrize("options", ({}, {"temperature": 0.2}))
@pytest.mark.parametrize("name", RULES)
def test_hushed_tokens_are_written_last(name: str, options: dict[str, Any]) -> None:
    """Three positions, two of which want the hushed id for certain: the third is written first,
    then they, one a step.
    """
    seen = hush(
        predict(
            torch.cat((peaks((1.0,), (5,)), peaks((0.6,), (4,)), peaks((0.999999,), (5,)))),
            **options,
        ),
        5,
    )
    decoder = create(name, **({"late": 9.0} if name == "prophet" else {}))
    state = decoder.init(1, 3, VOCAB, CPU)
    masked, found = seen.masked, []
    for _ in range(3):
        now = dataclasses.replace(
            seen,
            masked=masked,
            ids=seen.ids * masked,
            logit=seen.logit.masked_fill(~masked, 0.0),
            lse=seen.lse.masked_fill(~masked, torch.inf),
        )
        decision, state = step(decoder, now, state)
        assert not bool(decision.confidence.isnan().any())
        found.append(decision.commit[0].nonzero()[:, 0].tolist())
        assert decision.tokens[0, decision.commit[0]].tolist() == [
            4 if i == 1 else 5 for i in found[-1]
        ]
        masked = masked & ~decision.commit
    assert found == [[1], [0], [2]]


MASK, SIZE = 9, 9
WORDS = SpecialTokens(MASK, (8,), SIZE, lambda ids: "".join(chr(97 + i) for i in ids))


@pytest.mark.parametrize("name", RULES)
def test_rows_of_all_widths_together_are_rows_alone(name: str) -> None:
    """Blocks of 3, 5 and 8, of different ages, sampled and not, two at a time: each row's steps are
    those it takes alone.
    """
    knobs = {
        "klass": {"threshold": 0.3, "kl": 0.5, "n": 1},
        "prophet": {"early": 1.5, "mid": 1.0, "late": 0.5},
    }.get(name, {})
    decoder = create(name, **knobs)
    asked = [(3, 8, 0.0), (8, 8, 0.0), (5, 12, 0.0), (5, 9, 0.8), (8, 13, 0.8), (3, 7, 0.0)]
    rows = [
        new_request(
            i,
            [1, 2 + i % 3],
            GenerationConfig(
                decoder=decoder,
                block_length=block,
                gen_length=length,
                temperature=heat,
                seed=i,
                early_stop=False,
            ),
            WORDS,
            64,
        )
        for i, (block, length, heat) in enumerate(asked)
    ]

    def told(which: Sequence[int], batch: int) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {i: [] for i in which}
        for event in denoise(
            HashModel(MASK + 1, MASK), [rows[i] for i in which], WORDS, CPU, batch_size=batch
        ):
            if isinstance(event, StepEvent):
                found[event.row].append((event.positions, event.tokens, event.committed))
            elif isinstance(event, FinishEvent):
                found[event.row].append(event.tokens)
        return found

    together = told(range(len(rows)), 4)
    for i in range(len(rows)):
        assert told([i], 1)[i] == together[i]


@pytest.mark.parametrize("name", RULES)
def test_state_of_a_wider_neighbour_changes_nothing(name: str) -> None:
    """A row of two beside one of five: its state, padded and cut out again, decides as before."""
    decoder = create(name)
    chances = [
        peaks((0.7, 0.6, 0.5, 0.4, 0.3), [3 + (t + i) % 2 for i in range(5)]) for t in range(3)
    ]
    narrow, wide, alone = (
        decoder.init(1, 2, VOCAB, CPU),
        decoder.init(1, 5, VOCAB, CPU),
        decoder.init(1, 2, VOCAB, CPU),
    )
    masked = torch.tensor([[True, True, False, False, False], [True] * 5])
    for each in chances:
        decision, both = step(
            decoder, predict(torch.stack((each, each)), masked), stack_states([narrow, wide])
        )
        narrow, wide = take_rows(both, slice(0, 1)), take_rows(both, slice(1, 2))
        wanted, alone = step(decoder, predict(each[:2]), alone, size=5)
        assert torch.equal(decision.commit[0, :2], wanted.commit[0]) and not bool(
            decision.commit[0, 2:].any()
        )
        assert torch.allclose(decision.confidence[0, :2], wanted.confidence[0], atol=1e-6)
