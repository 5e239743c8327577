"""Every competing rule against numbers computed by hand from its definition, and the places where
public copies go wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders._states import stack_states, take_rows
from creditdecoding.decoders.base import (
    Prediction,
    from_logits,
)
from creditdecoding.decoders.hierarchy import best_of_runs
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.trace import FinishEvent, StepEvent
from tests.helpers.oracle import HashModel
from tests.helpers.rules import CPU, VOCAB, commits, peaks, predict, step

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


TESTED_ELSEWHERE = (
    "less",
    "tacg",
    "credit",
    "edit",
    "wino",
    "thrift",
    "credit_adaptive",
    "credit_full",
    "fixed",
    "threshold",
)


def test_every_rule_has_its_tests() -> None:
    difference = {*RULES, *TESTED_ELSEWHERE} ^ set(names(controls=True))
    assert not difference, (
        f"{', '.join(sorted(difference))}: write tests of the rule below and add its name to RULES; "
        "its row goes into docs/reference/decoders.md"
    )


# factor: (n + 1) e_(n) < f


# ranked: .99 .9 .7 .6, doubts .01 .1 .3 .4, times n + 1: .02 .3 1.2 2.0
PROFILE = (0.7, 0.99, 0.6, 0.9)


@pytest.mark.parametrize(
    ("bound", "expected"),
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
def test_factor_takes_the_largest_prefix(bound: float, expected: list[int]) -> None:
    assert commits("factor", peaks(PROFILE), factor=bound) == expected


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
    ("margin", "expected"),
    [(0.99, [1]), (0.8, [1]), (0.78, [1, 3]), (0.3, [1, 3]), (0.28, [0, 1, 3]), (0.0, [0, 1, 3])],
)
def test_frechet_sums_the_doubts(margin: float, expected: list[int]) -> None:
    """Doubts .01 .1 .3 .4: 1 - .01 - .01 = .98, 1 - .11 - .1 = .79, 1 - .41 - .3 = .29, 1 - .81 -
    .4 = -.21.
    """
    assert commits("frechet", peaks(PROFILE), margin=margin) == expected


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
    ("gamma", "expected"),
    [(0.0, [0, 2]), (0.69, [0, 2]), (0.7, [0, 1, 2]), (1.79, [0, 1, 2]), (1.8, [0, 1, 2, 3])],
)
def test_entropy_counts_all_but_the_largest(gamma: float, expected: list[int]) -> None:
    """Even over 2, 3, 1, 4 ids: ranked 0, log 2 = .693, log 3 = 1.099, log 4 = 1.386; before each:
    0, 0, .693, 1.792.
    """
    chances = evenly(2, 3, 1, 4)
    assert commits("entropy", chances, gamma=gamma) == expected
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


# localleap


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (0, [4]),
        (1, [4, 5]),
        (2, [2, 4, 5]),
        (4, [0, 2, 4, 5]),
        (5, [0, 2, 4, 5, 9]),
        (10**9, [0, 2, 4, 5, 9]),
    ],
)
def test_localleap_relaxes_near_anchors(radius: int, expected: list[int]) -> None:
    """One anchor (.95) in column 4; .76 beside it, .8 at distances 2, 4, 5; .74 beside it is below
    the relaxed .75.
    """
    chances = peaks((0.8, 0.2, 0.8, 0.74, 0.95, 0.76, 0.2, 0.2, 0.2, 0.8))
    assert commits("localleap", chances, radius=radius) == expected


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
        best = best_of_runs(score, masked, editable)
        for row in range(4):
            expected, column = set(), 0
            while column < 9:
                end = column
                while end < 9 and masked[row, end]:
                    end += 1
                inside = [i for i in range(column, end) if editable[row, i]]
                if inside:
                    expected.add(max(inside, key=lambda i: (float(score[row, i]), -i)))
                column = end + 1
            assert set(best[row].nonzero()[:, 0].tolist()) == expected


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


# prophet


def gaps(*gap_values: float) -> Tensor:
    """Distributions over two ids whose logits differ by so much."""
    return torch.stack(
        [torch.tensor([0.0, g], dtype=torch.float64).softmax(-1) for g in gap_values]
    )


@pytest.mark.parametrize(
    ("size", "gap_values", "everything"),
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
    size: int, gap_values: tuple[float, ...], everything: bool
) -> None:
    decision, _ = step(create("prophet"), predict(gaps(*gap_values)), size=size)
    best = max(range(len(gap_values)), key=lambda i: gap_values[i])
    assert decision.commit[0].tolist() == (
        [True] * len(gap_values) if everything else [i == best for i in range(len(gap_values))]
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
    masked, order = seen.masked, []
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
        order.append(decision.commit[0].nonzero()[:, 0].tolist())
        assert decision.tokens[0, decision.commit[0]].tolist() == [
            4 if i == 1 else 5 for i in order[-1]
        ]
        masked = masked & ~decision.commit
    assert order == [[1], [0], [2]]


MASK, SIZE = 9, 9
WORDS = SpecialTokens(MASK, (8,), SIZE, lambda ids: "".join(chr(97 + i) for i in ids))


@pytest.mark.slow
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
    shapes = [(3, 8, 0.0), (8, 8, 0.0), (5, 12, 0.0), (5, 9, 0.8), (8, 13, 0.8), (3, 7, 0.0)]
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
        for i, (block, length, heat) in enumerate(shapes)
    ]

    def events_of(which: Sequence[int], batch: int) -> dict[int, list[Any]]:
        events: dict[int, list[Any]] = {i: [] for i in which}
        for event in denoise(
            HashModel(MASK + 1, MASK), [rows[i] for i in which], WORDS, CPU, batch_size=batch
        ):
            if isinstance(event, StepEvent):
                events[event.row].append((event.positions, event.tokens, event.committed))
            elif isinstance(event, FinishEvent):
                events[event.row].append(event.tokens)
        return events

    together = events_of(range(len(rows)), 4)
    for i in range(len(rows)):
        assert events_of([i], 1)[i] == together[i]


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
    for chance in chances:
        decision, both = step(
            decoder, predict(torch.stack((chance, chance)), masked), stack_states([narrow, wide])
        )
        narrow, wide = take_rows(both, slice(0, 1)), take_rows(both, slice(1, 2))
        expected, alone = step(decoder, predict(chance[:2]), alone, size=5)
        assert torch.equal(decision.commit[0, :2], expected.commit[0]) and not bool(
            decision.commit[0, 2:].any()
        )
        assert torch.allclose(decision.confidence[0, :2], expected.confidence[0], atol=1e-6)
