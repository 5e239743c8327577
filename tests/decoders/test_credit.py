"""Holds `credit`, `credit_adaptive` and `credit_full` to the dense oracle, to hand-computed numbers
and to the known traps.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.decoders import create
from creditdecoding.decoders.base import Block, Decision, Decoder, State, from_logits
from tests.helpers.oracle import Oracle, Verdict

CPU = torch.device("cpu")
CREDITS = ("credit", "credit_adaptive", "credit_full")
TAUS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
KINDS = ("gauss", "ties", "flips", "peaked", "flat", "returning")
FEW = settings(max_examples=35, deadline=None, database=None)


def oracle_for(name: str, threshold: float, **knobs: float) -> Oracle:
    return Oracle(
        threshold, adaptive=name == "credit_adaptive", every=name == "credit_full", **knobs
    )


def history(
    kind: str,
    seed: int,
    steps: int,
    rows: int,
    length: int,
    vocab: int,
    dtype: torch.dtype,
    banned: bool,
) -> Tensor:
    """Raw logits [steps, rows, length, vocab] of one kind; if `banned`, id 0 is forbidden as the
    loop forbids the mask.
    """
    noise = torch.Generator().manual_seed(seed)
    shape = (steps, rows, length, vocab)
    x = torch.randn(shape, generator=noise)
    if kind == "ties":
        x = torch.randint(-1, 2, shape, generator=noise).float()
    elif kind == "flips":  # a new favourite at every step, over the whole vocabulary
        x = 0.3 * x + 2.0 * torch.nn.functional.one_hot(
            torch.randint(vocab, shape[:3], generator=noise), vocab
        )
    elif kind == "returning":  # favourites leave and come back
        cycle = torch.randperm(vocab, generator=noise)[: max(2, vocab // 2)]
        turn = torch.arange(steps)[:, None, None] + torch.randint(
            len(cycle), (1, rows, length), generator=noise
        )
        x = 0.1 * x + 3.0 * torch.nn.functional.one_hot(cycle[turn % len(cycle)], vocab)
    elif kind == "peaked":  # probabilities next to 1 beside undecided ones
        x = (
            x
            + 18.0
            * torch.nn.functional.one_hot(torch.randint(vocab, shape[:3], generator=noise), vocab)
            * torch.rand(shape[:3], generator=noise)[..., None]
        )
    elif kind == "flat":
        x = x * 1e-3
    x = x.to(dtype)
    if banned:
        x[..., 0] = -torch.inf
    return x


def block_of(masked: Tensor, size: Tensor, step: int) -> Block:
    return Block(
        torch.zeros(masked.shape, dtype=torch.long),
        masked,
        masked,
        size,
        torch.full((len(masked),), step),
    )


def agree(decision: Decision, verdict: Verdict, masked: Tensor, threshold: float) -> None:
    """Same confidences to 1e-5, same tokens and commits wherever the oracle's own numbers are not a
    tie.
    """
    tokens, commit = decision.tokens[masked], decision.commit
    assert torch.allclose(
        decision.confidence[masked].double(), verdict.confidence[masked], rtol=0.0, atol=1e-5
    )
    written, best = (
        verdict.fused[masked].gather(1, t[:, None])[:, 0] for t in (tokens, verdict.tokens[masked])
    )
    assert bool(((tokens == verdict.tokens[masked]) | (best - written < 1e-5)).all())
    assert not bool((commit & ~masked).any())
    for row in range(len(masked)):
        where = masked[row].nonzero()[:, 0].tolist()
        if not where:
            assert not bool(commit[row].any())
            continue
        scores = {i: float(verdict.confidence[row, i]) for i in where}
        ranked = sorted(scores.values(), reverse=True)
        clear_best = len(ranked) == 1 or ranked[0] - ranked[1] > 1e-6
        for i in where:
            if abs(scores[i] - threshold) > 1e-5 and (
                scores[i] > threshold or clear_best or ranked[0] - scores[i] > 1e-6
            ):
                assert bool(commit[row, i]) == bool(verdict.commit[row, i]), (
                    row,
                    i,
                    scores,
                    threshold,
                )
        if ranked[0] < threshold - 1e-5:
            assert int(commit[row].sum()) == 1  # one forced commit, ties or not


def play(decoder: Decoder, judge: Oracle, logits: Tensor, masked: Tensor, hold: int = 0) -> State:
    """Feed a history to both; masks shrink by the decoder's commits, after `hold` steps in which
    nothing is written.
    """
    masked, size = masked.clone(), masked.sum(-1).clamp(min=1)
    state = decoder.init(masked.shape[0], masked.shape[1], logits.shape[-1], CPU)
    for step, now in enumerate(logits):
        decision, state = decoder.step(
            from_logits(now.clone(), masked), block_of(masked, size, step), state
        )
        agree(decision, judge.step(now, masked, size), masked, judge.threshold)
        if step >= hold:
            masked = masked & ~decision.commit
    return state


@pytest.mark.parametrize("name", CREDITS)
@FEW
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(3, 9)),
    threshold=st.sampled_from(TAUS),
    half=st.booleans(),
    banned=st.booleans(),
    hold=st.sampled_from((0, 0, 6)),
)
def test_agrees_with_the_dense_oracle(
    name: str,
    kind: str,
    seed: int,
    shape: tuple[int, int, int],
    threshold: float,
    half: bool,
    banned: bool,
    hold: int,
) -> None:
    logits = history(
        kind, seed, shape[1] + hold, *shape, torch.bfloat16 if half else torch.float32, banned
    )
    masked = torch.rand(shape[:2], generator=torch.Generator().manual_seed(seed + 1)) < 0.8
    play(create(name, threshold=threshold), oracle_for(name, threshold), logits, masked, hold)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("credit", "credit_full"))
@FEW
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    alpha=st.floats(0.0, 3.0),
    beta=st.floats(0.0, 1.0),
    gamma=st.floats(0.05, 3.0),
    threshold=st.sampled_from(TAUS),
)
def test_agrees_with_the_dense_oracle_whatever_the_constants(
    name: str, seed: int, kind: str, alpha: float, beta: float, gamma: float, threshold: float
) -> None:
    knobs = {"alpha": alpha, "beta": beta, "gamma": gamma}
    logits = history(kind, seed, 8, 2, 5, 6, torch.float32, False)
    play(
        create(name, threshold=threshold, **knobs),
        oracle_for(name, threshold, **knobs),
        logits,
        torch.ones(2, 5, dtype=torch.bool),
        hold=3,
    )


@pytest.mark.parametrize("name", CREDITS)
def test_many_ids_take_turns_and_come_back(name: str) -> None:
    """24 ids in turn, twice, then the first again: nothing is evicted, slots grow to what is
    needed.
    """
    vocab, rows, length = 24, 2, 3
    turn = torch.tensor([*range(vocab), *range(vocab), 0, 0])
    offset = torch.arange(rows * length).view(rows, length) * 5
    favourite = (turn[:, None, None] + offset) % vocab
    logits = 2.0 * torch.nn.functional.one_hot(favourite, vocab).float() + 0.01 * torch.randn(
        *favourite.shape, vocab, generator=torch.Generator().manual_seed(0)
    )
    masked = torch.ones(rows, length, dtype=torch.bool)
    masked[1, 2] = False
    state = play(
        create(name, threshold=1.0), oracle_for(name, 1.0), logits, masked, hold=len(logits)
    )
    if "slot_ids" in state:
        held = state["slot_ids"]
        assert held.shape[-1] == vocab
        assert all(
            sorted(held[r, i].tolist()) == list(range(1, vocab + 1))
            for r in range(rows)
            for i in range(length)
            if masked[r, i]
        )
        assert int(held[1, 2].sum()) == 0


@pytest.mark.parametrize("name", CREDITS)
def test_a_large_vocabulary_of_equals(name: str) -> None:
    """p near 0: 4,000 equal logits, the lowest id is credited alone (or all are, by Eq. 13)."""
    logits = torch.zeros(5, 1, 2, 4000)
    logits[:, 0, 1, 3999] = 4.0
    play(create(name), oracle_for(name, 0.9), logits, torch.ones(1, 2, dtype=torch.bool), hold=5)


@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize("gap", (20.0, 60.0, 90.0))
def test_p_next_to_one_and_to_zero(name: str, gap: float) -> None:
    logits = torch.zeros(4, 1, 3, 5)
    logits[..., 0, 2], logits[..., 1, :2] = gap, torch.tensor([gap, gap])
    logits[1::2, :, 2, 3] = -gap
    play(
        create(name, threshold=0.999),
        oracle_for(name, 0.999),
        logits,
        torch.ones(1, 3, dtype=torch.bool),
        hold=4,
    )


def test_equal_enhanced_logits_take_the_lowest_id() -> None:
    """Ids 3 and 1 gain the same credit (beta = 1), then tie above the raw top-1: the lower of the
    two is written.
    """
    decoder, judge = (
        create("credit", beta=1.0, gamma=1.0, threshold=0.0),
        Oracle(0.0, beta=1.0, gamma=1.0),
    )
    steps = torch.full((3, 1, 1, 5), -2.0)
    steps[0, ..., 3] = steps[1, ..., 1] = 3.0
    steps[2, ..., [1, 3]], steps[2, ..., 4] = 1.0, 1.05
    masked, state = torch.ones(1, 1, dtype=torch.bool), decoder.init(1, 1, 5, CPU)
    for step, now in enumerate(steps):
        decision, state = decoder.step(
            from_logits(now, masked), block_of(masked, torch.tensor([1]), step), state
        )
        verdict = judge.step(now, masked, torch.tensor([1]))
    assert (
        float(verdict.fused[0, 0, 1])
        == float(verdict.fused[0, 0, 3])
        > float(verdict.fused[0, 0, 4])
    )
    assert int(verdict.tokens) == int(decision.tokens) == 1


def test_no_weight_no_effect() -> None:
    """alpha = 0 is the plain threshold, ties and all."""
    masked, size = torch.ones(2, 6, dtype=torch.bool), torch.tensor([6, 6])
    plain, credit = create("threshold", threshold=0.4), create("credit", threshold=0.4, alpha=0.0)
    state = credit.init(2, 6, 7, CPU)
    for step, now in enumerate(history("ties", 3, 6, 2, 6, 7, torch.float32, False)):
        seen, block = from_logits(now, masked), block_of(masked, size, step)
        decision, state = credit.step(seen, block, state)
        expected, _ = plain.step(seen, block, {})
        assert torch.equal(decision.tokens, expected.tokens) and torch.equal(
            decision.commit, expected.commit
        )
        assert torch.allclose(decision.confidence, expected.confidence, atol=1e-6)


# Hand-computed numbers
# -----------------------------------------------------------------------------------------------------


def constant(p: float, vocab: int = 50) -> Tensor:
    """Logits [vocab] whose id 7 has probability p, the rest equal."""
    logits = torch.full((vocab,), math.log((1.0 - p) / (vocab - 1)))
    logits[7] = math.log(p)
    return logits


def confidence_after(
    decoder: Decoder, p: float, steps: int, masked: int = 1, size: int = 0
) -> tuple[list[float], list[bool]]:
    """Confidence, and whether committed, of `masked` positions whose top-1 keeps probability p, in
    a block that began with `size` masks.

    Without a `size`, a surer position stands beside them and takes the forced commit.
    """
    logits = torch.stack((constant(0.9999), *[constant(p)] * masked))[None]
    mask = torch.ones(1, masked + 1, dtype=torch.bool)
    mask[0, 0] = size == 0
    state = decoder.init(1, masked + 1, logits.shape[-1], CPU)
    confidences = []
    for step in range(steps):
        decision, state = decoder.step(
            from_logits(logits, mask),
            block_of(mask, torch.tensor([size or masked + 1]), step),
            state,
        )
        confidences.append((float(decision.confidence[0, 1]), bool(decision.commit[0, 1])))
    return [c for c, _ in confidences], [done for _, done in confidences]


TABLE = [
    (0.95, {1: 0.924, 2: 0.909, 3: 0.900, 5: 0.890, 10: 0.883, 80: 0.881}),
    (0.90, {1: 0.853, 2: 0.827, 3: 0.812, 5: 0.795, 10: 0.783, 80: 0.781}),
]


@pytest.mark.parametrize(
    ("tau", "steps", "least"), [(tau, n, p) for tau, row in TABLE for n, p in row.items()]
)
def test_smallest_constant_probability_that_passes(tau: float, steps: int, least: float) -> None:
    """The table of papers.md, section 1: just above it commits at step n and not before, just below
    it does not.
    """
    decoder = create("credit", threshold=tau)
    above, below = (confidence_after(decoder, p, steps) for p in (least + 6e-4, least - 6e-4))
    assert above[1][-1] and above[0][-1] >= tau
    assert not below[1][-1] and below[0][-1] < tau
    if 1 < steps < 80:
        assert not confidence_after(decoder, least - 6e-4, steps - 1)[1][-1]


@pytest.mark.parametrize(("ratio", "least"), [(9, 0.947), (5, 0.919), (1, 0.737)])
def test_adaptive_steady_limit(ratio: int, least: float) -> None:
    """Mask ratio .9, .5, .1 held for long at tau .95."""
    decoder = create("credit_adaptive", threshold=0.95)
    assert confidence_after(decoder, least + 6e-4, 120, ratio, 10)[0][-1] >= 0.95
    assert confidence_after(decoder, least - 6e-4, 120, ratio, 10)[0][-1] < 0.95


def test_adaptive_has_no_effect_on_the_first_step() -> None:
    """Everything is masked: alpha = beta = 0."""
    logits = constant(0.6).expand(1, 4, -1)
    mask = torch.ones(1, 4, dtype=torch.bool)
    decoder = create("credit_adaptive", threshold=0.9)
    decision, state = decoder.step(
        from_logits(logits, mask), block_of(mask, torch.tensor([4]), 0), decoder.init(1, 4, 50, CPU)
    )
    assert decision.confidence[0].tolist() == pytest.approx([0.6] * 4, abs=1e-6)
    assert state["credit"][..., 0].tolist() == [pytest.approx([0.6] * 4, abs=1e-6)]


def test_the_first_step_is_already_boosted_and_the_second_counts_once() -> None:
    """p = .5: C = .5^.2, then .7 C + .5^.2; each fused once as p (1 + C)^.65, never as a sum of
    logarithms.
    """
    first = 0.5**0.2
    second = 0.7 * first + first
    expected = [(1 + c) ** 0.65 / ((1 + c) ** 0.65 + 1) for c in (first, second)]
    assert confidence_after(create("credit"), 0.5, 2)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@FEW
@given(
    p=st.floats(0.03, 0.9),
    steps=st.integers(1, 25),
    alpha=st.floats(0.0, 1.0),
    beta=st.floats(0.0, 0.9),
    gamma=st.floats(0.05, 2.0),
)
def test_odds_gain_is_bounded(
    p: float, steps: int, alpha: float, beta: float, gamma: float
) -> None:
    """Odds rise with every step as top-1, by less than (1 + 1/(1 - beta))^alpha."""
    confidences = confidence_after(create("credit", alpha=alpha, beta=beta, gamma=gamma), p, steps)[
        0
    ]
    gain = [(q / (1 - q)) / (p / (1 - p)) for q in confidences]
    assert all(g <= (1 + 1 / (1 - beta)) ** alpha * (1 + 1e-3) for g in gain)
    assert all(b >= a * (1 - 1e-3) for a, b in itertools.pairwise(gain))


def test_odds_gain_reaches_its_bound() -> None:
    q = confidence_after(create("credit"), 0.9, 80)[0][-1]
    assert (q / (1 - q)) / 9.0 == pytest.approx((1 + 0.9**0.2 / 0.3) ** 0.65, rel=1e-4)
    assert round((1 + 1 / 0.3) ** 0.65, 2) == 2.59


# Traps
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_credit_is_float32_whatever_the_logits(name: str, dtype: torch.dtype) -> None:
    masked, decoder = torch.ones(1, 3, dtype=torch.bool), create(name)
    state = decoder.init(1, 3, 8, CPU)
    logits = history("gauss", 5, 4, 1, 3, 8, dtype, False)
    for step, now in enumerate(logits):
        decision, state = decoder.step(
            from_logits(now, masked), block_of(masked, torch.tensor([5]), step), state
        )
    assert state["credit"].dtype == decision.confidence.dtype == torch.float32


@pytest.mark.parametrize("name", CREDITS)
def test_written_positions_gain_nothing(name: str) -> None:
    """A position that is no longer masked only decays, whatever the model says there."""
    masked, decoder = torch.ones(1, 4, dtype=torch.bool), create(name)
    logits, size = history("peaked", 2, 6, 1, 4, 6, torch.float32, False), torch.tensor([5])
    _, state = decoder.step(
        from_logits(logits[0], masked), block_of(masked, size, 0), decoder.init(1, 4, 6, CPU)
    )
    masked[0, 1:3] = False
    for step, now in enumerate(logits[1:], 1):
        before = state["credit"][0, 1:3].sum(-1)
        _, state = decoder.step(from_logits(now, masked), block_of(masked, size, step), state)
        assert bool((state["credit"][0, 1:3].sum(-1) < before).all())
    fresh = create(name)
    _, never = fresh.step(
        from_logits(logits[0], masked), block_of(masked, size, 0), fresh.init(1, 4, 6, CPU)
    )
    assert float(never["credit"][0, 1:3].abs().sum()) == 0.0


@pytest.mark.parametrize("name", CREDITS)
def test_one_forced_commit_in_every_row(name: str) -> None:
    """Nothing passes in row 0, something in row 1, row 2 is done: 1, some, 0."""
    logits = torch.stack([constant(p).expand(5, -1) for p in (0.2, 0.99, 0.2)])
    masked = torch.ones(3, 5, dtype=torch.bool)
    masked[2] = False
    decoder = create(name, threshold=0.9)
    decision, _ = decoder.step(
        from_logits(logits, masked),
        block_of(masked, torch.tensor([5, 5, 5]), 0),
        decoder.init(3, 5, 50, CPU),
    )
    assert decision.commit.sum(-1).tolist() == [1, 5, 0]


@pytest.mark.parametrize("name", CREDITS)
def test_near_ties_with_the_best_are_not_accepted(name: str) -> None:
    """Below the threshold only the best goes, even if another lies within 1e-5 of it, or is equal
    to it (then the first).
    """
    decoder = create(name, threshold=0.99)
    masked = torch.ones(1, 3, dtype=torch.bool)
    for chances, winner in (
        ((0.5, 0.500003, 0.4), 1),
        ((0.5, 0.5, 0.4), 0),
        ((0.4, 0.500003, 0.5), 1),
    ):
        logits = torch.stack([constant(p) for p in chances])[None]
        decision, _ = decoder.step(
            from_logits(logits, masked),
            block_of(masked, torch.tensor([3]), 0),
            decoder.init(1, 3, 50, CPU),
        )
        assert decision.commit[0].nonzero()[:, 0].tolist() == [winner]


def test_identity_matters() -> None:
    """The same probabilities on an id that changes at every step are boosted less: credit belongs
    to the id.
    """
    decoder, masked = create("credit"), torch.ones(1, 1, dtype=torch.bool)
    decisions = []
    for shift in (0, 1):
        state = decoder.init(1, 1, 50, CPU)
        for step in range(6):
            logits = constant(0.6).roll(shift * step)[None, None]
            decision, state = decoder.step(
                from_logits(logits, masked), block_of(masked, torch.tensor([1]), step), state
            )
        decisions.append(float(decision.confidence))
    assert decisions[0] > decisions[1] + 0.05


def test_credit_can_change_the_written_token() -> None:
    """Four steps for id 2, then id 5 leads by a hair: id 2 is written."""
    decoder, masked = create("credit"), torch.ones(1, 1, dtype=torch.bool)
    state = decoder.init(1, 1, 6, CPU)
    for lead in (1.0, 1.0, 1.0, 1.0, -0.05):
        logits = torch.tensor([[[0.0, 0.0, 2.0 + lead, 0.0, 0.0, 2.0]]])
        decision, state = decoder.step(
            from_logits(logits, masked), block_of(masked, torch.tensor([1]), 0), state
        )
    assert int(from_logits(logits, masked).ids) == 5 and int(decision.tokens) == 2
    assert float(decision.credit[0, 0]) == pytest.approx(float(state["credit"][0, 0, 0]))  # type: ignore[index]
