"""What a Prediction derives from logits, against plain formulas; drawn tokens against their
distribution.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.decoders.base import Prediction, Sampling, from_logits

FEW = settings(max_examples=40, deadline=None, database=None)


def prediction(
    seed: int = 0,
    rows: int = 3,
    length: int = 4,
    size: int = 7,
    dtype: torch.dtype = torch.float32,
    **options: float,
) -> tuple[Prediction, Tensor]:
    """A prediction with an id forbidden and some positions not masked, and the logits it stands on."""
    source = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, length, size, generator=source) * 3).to(dtype)
    logits[..., 2] = -torch.inf
    masked = torch.rand(rows, length, generator=source) < 0.7
    masked[0, 0], masked[0, 1] = True, False
    positions = torch.arange(length).expand(rows, -1)
    sampling = Sampling(
        torch.arange(rows), positions, torch.zeros(rows, dtype=torch.long), **options
    )  # type: ignore[arg-type]
    return from_logits(logits, masked, sampling), logits.float()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("seed", range(4))
def test_a_prediction_against_plain_formulas(seed: int, dtype: torch.dtype) -> None:
    seen, logits = prediction(seed, dtype=dtype)
    masked, logp = seen.masked, logits.log_softmax(-1)
    p = logp.exp()
    assert torch.equal(seen.ids[masked], logits.argmax(-1)[masked])
    assert torch.equal(seen.logit[masked], logits.amax(-1)[masked])
    assert torch.allclose(seen.lse[masked], logits.logsumexp(-1)[masked])
    assert torch.allclose(seen.probability[masked], p.amax(-1)[masked], atol=1e-6)
    assert torch.allclose(seen.log_probs()[masked], logp[masked], atol=1e-5)
    entropy = -(p * logp).nan_to_num(0.0).sum(-1)
    assert torch.allclose(seen.entropy()[masked], entropy[masked], atol=1e-5)
    ids, values = seen.top2()
    expected = logits.topk(2, dim=-1)
    assert torch.equal(ids[masked], expected.indices[masked]) and torch.equal(
        values[masked], expected.values[masked]
    )
    asked_ids = torch.randint(0, 7, (3, 4, 5), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(seen.logits_of(asked_ids)[masked], logits.gather(-1, asked_ids)[masked])


def test_where_nothing_is_masked_a_prediction_is_empty() -> None:
    seen, _ = prediction()
    outside = ~seen.masked
    assert bool(outside.any())
    assert int(seen.ids[outside].abs().sum()) == 0 and float(seen.probability[outside].sum()) == 0.0
    assert (
        bool(seen.log_probs()[outside].isneginf().all())
        and float(seen.entropy()[outside].sum()) == 0.0
    )
    assert all(float(part[outside].abs().sum()) == 0.0 for part in seen.top2())
    assert float(seen.logits_of(torch.ones(3, 4, 2, dtype=torch.long))[outside].abs().sum()) == 0.0


def test_a_boosted_prediction_is_the_one_of_the_boosted_logits() -> None:
    seen, logits = prediction(3)
    boost = torch.rand(3, 4, 7, generator=torch.Generator().manual_seed(9)) * 2
    made, expected = seen.with_boost(boost), from_logits(logits + boost, seen.masked)
    for name in ("ids", "logit", "lse", "probability"):
        assert torch.equal(getattr(made, name)[seen.masked], getattr(expected, name)[seen.masked])
    assert made.sampling is seen.sampling


@FEW
@given(seed=st.integers(0, 2**31), slots=st.integers(1, 4), rounded=st.booleans())
def test_the_greedy_choice_is_the_argmax_of_the_boosted_logits(
    seed: int, slots: int, rounded: bool
) -> None:
    """Boosts on a few ids (eighths, so that sums are exact and ties are ties): the lowest id of the
    largest.
    """
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, generator=source) * 2
    logits = logits.round() if rounded else (logits * 8).round() / 8
    ids = torch.stack(
        [
            torch.stack([torch.randperm(8, generator=source)[:slots] for _ in range(3)])
            for _ in range(2)
        ]
    )
    boost = torch.randint(0, 16, ids.shape, generator=source) / 8
    full = logits.scatter_add(-1, ids, boost)
    masked = torch.ones(2, 3, dtype=torch.bool)
    token, confidence = from_logits(logits, masked).choose(ids, boost)
    lowest = [[row.tolist().index(max(row.tolist())) for row in rows] for rows in full]
    assert token.tolist() == lowest
    assert torch.allclose(confidence, full.double().softmax(-1).amax(-1), rtol=1e-6)
    plain, unboosted = from_logits(logits, masked).choose()
    assert torch.equal(plain, logits.argmax(-1))
    assert torch.allclose(unboosted, logits.double().softmax(-1).amax(-1), rtol=1e-6)


LOGITS = torch.tensor([1.0, -0.5, 2.0, -torch.inf, 0.5, 1.5, -3.0, 0.0])
BOOSTS = {4: 1.2, 6: 0.7}


def restricted(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities after top_k, then top_p, in plain Python: the likeliest first, until they hold
    top_p.
    """
    p = logits.double().softmax(-1).tolist()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k or len(p)]
    mass = sum(p[i] for i in order)
    kept: list[int] = []
    for i in order:
        if top_p is None or sum(p[j] for j in kept) / mass < top_p:
            kept.append(i)
    total = sum(p[i] for i in kept)
    return torch.tensor([p[i] / total if i in kept else 0.0 for i in range(len(p))])


@pytest.mark.slow
@pytest.mark.parametrize("boosted", (False, True))
@pytest.mark.parametrize("temperature", (0.5, 1.0, 1.7))
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (3, None), (None, 0.75), (4, 0.6)])
def test_drawn_tokens_follow_their_distribution(
    boosted: bool, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """Chi-square over 12,000 positions: boost first, then temperature, then top_k, then top_p."""
    n = 12_000
    flat = LOGITS.expand(n, -1)
    full = LOGITS.clone()
    ids = torch.tensor(list(BOOSTS)).expand(1, n, -1)
    boost = torch.tensor(list(BOOSTS.values())).expand(1, n, -1)
    if boosted:
        full[list(BOOSTS)] += torch.tensor(list(BOOSTS.values()))
    sampling = Sampling(
        torch.tensor([11]), torch.arange(n)[None], torch.tensor([3]), temperature, top_k, top_p
    )
    seen = from_logits(flat[None].clone(), torch.ones(1, n, dtype=torch.bool), sampling)
    token, confidence = seen.choose(ids, boost) if boosted else seen.choose()
    expected = restricted(full / temperature, top_k, top_p) * n
    counts = torch.bincount(token[0], minlength=8).double()
    live = expected > 0
    assert not bool(counts[~live].any())
    chi = float(((counts - expected)[live] ** 2 / expected[live]).sum())
    degrees = int(live.sum()) - 1
    assert chi < degrees + 4.5 * (2 * degrees) ** 0.5 + 4
    assert torch.allclose(confidence[0], full.double().softmax(-1)[token[0]], rtol=1e-6)


def test_draws_of_seeds_positions_and_steps_are_independent() -> None:
    """The share of equal tokens between neighbours is what chance gives, along each key."""
    p = LOGITS.double().softmax(-1)
    chance, side = float((p**2).sum()), 60
    grid = []
    for step in range(2):
        sampling = Sampling(
            torch.arange(side), torch.arange(side).expand(side, -1), torch.full((side,), step), 1.0
        )
        grid.append(
            from_logits(
                LOGITS.expand(side, side, -1), torch.ones(side, side, dtype=torch.bool), sampling
            ).choose()[0]
        )
    pairs = ((grid[0], grid[1]), (grid[0][1:], grid[0][:-1]), (grid[0][:, 1:], grid[0][:, :-1]))
    for a, b in pairs:
        assert float((a == b).double().mean()) == pytest.approx(
            chance, abs=4 * (chance * (1 - chance) / a.numel()) ** 0.5
        )


@FEW
@given(seed=st.integers(0, 2**31), temperature=st.floats(0.05, 5.0), boosted=st.booleans())
def test_top_one_is_greedy(seed: int, temperature: float, boosted: bool) -> None:
    options = {"temperature": temperature, "top_k": 1}
    drawn, logits = prediction(seed, **options)
    greedy, _ = prediction(seed)
    ids, boost = (
        logits.topk(2, dim=-1).indices,
        torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(seed)),
    )
    ours, expected = (
        seen.choose(ids, boost) if boosted else seen.choose() for seen in (drawn, greedy)
    )
    assert all(torch.equal(a[drawn.masked], b[drawn.masked]) for a, b in zip(ours, expected))


def test_a_small_top_p_is_greedy_and_all_of_it_is_no_limit() -> None:
    drawn, _ = prediction(4, rows=20, temperature=1.3, top_p=1e-9)
    greedy, _ = prediction(4, rows=20)
    assert torch.equal(drawn.choose()[0], greedy.choose()[0])
    whole, _ = prediction(4, rows=20, temperature=1.3, top_p=1.0)
    free, _ = prediction(4, rows=20, temperature=1.3)
    assert torch.equal(whole.choose()[0], free.choose()[0])


def test_equal_logits_at_the_edge_of_top_k_keep_the_lower_ids() -> None:
    n = 2000
    sampling = Sampling(torch.tensor([0]), torch.arange(n)[None], torch.tensor([0]), 1.0, 3)
    seen = from_logits(torch.zeros(1, n, 9), torch.ones(1, n, dtype=torch.bool), sampling)
    assert sorted(set(seen.choose()[0][0].tolist())) == [0, 1, 2]


@pytest.mark.parametrize("temperature", (0.0, 0.8))
def test_suppressed_ids_can_be_chosen_but_have_no_confidence(temperature: float) -> None:
    """Their real logits decide whether they are chosen; the logit that goes into a confidence is
    -inf; boosting keeps both.
    """
    n = 400
    real = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(n, -1)
    sampling = Sampling(torch.tensor([0]), torch.arange(n)[None], torch.tensor([0]), temperature)
    masked = torch.ones(1, n, dtype=torch.bool)
    plain = from_logits(real[None].clone(), masked, sampling)
    flat = real.clone()
    flat[:, 1] = -torch.inf
    lse = flat.logsumexp(-1)[None]
    suppressed = Prediction(
        plain.ids,
        flat[:, 1][None],
        lse,
        flat,
        plain.logit_row,
        masked,
        sampling,
        (1,),
        real[:, 1:2],
    )
    expected = plain.choose()[0]
    for seen in (suppressed, suppressed.with_boost(torch.zeros(1, n, 4))):
        token, confidence = seen.choose()
        assert torch.equal(token, expected) and bool((token == 1).any())
        assert torch.equal(seen.is_suppressed(token), token == 1)
        assert bool((confidence[token == 1] == 0).all())
        probabilities = flat[0].double().softmax(-1)
        assert torch.allclose(confidence[token != 1], probabilities[token[token != 1]])
    assert bool((suppressed.probability == 0).all()) and bool(
        suppressed.log_probs()[..., 1].isneginf().all()
    )


def test_uniform_of_a_prediction_depends_on_seed_position_and_step() -> None:
    seen, _ = prediction()
    base = seen.uniform()
    assert base.shape == seen.ids.shape and len(base.unique()) == base.numel()
    assert bool(((base > 0) & (base <= 1)).all())
    s = seen.sampling
    for other in (
        Sampling(s.seed + 9, s.position, s.step),
        Sampling(s.seed, s.position + 9, s.step),
        Sampling(s.seed, s.position, s.step + 9),
    ):
        changed = Prediction(
            seen.ids, seen.logit, seen.lse, seen.logits, seen.logit_row, seen.masked, other
        ).uniform()
        assert not bool((changed == base).any())
    assert all(a != b for a, b in itertools.combinations(base.flatten().tolist(), 2))


def leading(seed: int, gaps: Tensor, size: int = 300) -> Tensor:
    """Logits around 20 whose best one leads the others by about the given gaps."""
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(*gaps.shape, size, generator=source)
    best = torch.randint(0, size, (*gaps.shape, 1), generator=source)
    return logits.scatter(-1, best, gaps[..., None] + 5.0) + 20.0


@pytest.mark.parametrize("boosted", (False, True))
@pytest.mark.parametrize("temperature", (0.0, 1.0))
def test_confidence_near_one_has_the_digits_of_float64(boosted: bool, temperature: float) -> None:
    """Errors from 1e-1 to 1e-14, in the order that a float64 softmax gives, also of boosted and of
    drawn tokens.
    """
    logits = leading(1, torch.linspace(2.0, 30.0, 60)[None])
    masked = torch.ones(1, 60, dtype=torch.bool)
    sampling = Sampling(torch.tensor([0]), torch.arange(60)[None], torch.tensor([0]), temperature)
    seen = from_logits(logits.clone(), masked, sampling)
    ids = torch.stack((logits.argmax(-1), torch.full((1, 60), 7)), dim=-1)
    boost = torch.tensor([0.5, 1.25]).expand(1, 60, 2) if boosted else torch.zeros(1, 60, 2)
    tokens, _ = seen.choose(ids, boost)
    full = logits.double().scatter_add(-1, ids, boost.double())
    expected = full.softmax(-1).gather(-1, tokens[..., None])[..., 0]
    others = full.scatter(-1, tokens[..., None], -torch.inf).logsumexp(-1)
    error = (others - full.logsumexp(-1)).exp()
    confidence = seen.confidence(tokens, ids, boost)
    assert confidence.dtype == torch.float64
    assert torch.allclose(confidence, expected, rtol=1e-6, atol=0.0)
    assert torch.allclose(1.0 - confidence, error, rtol=1e-5, atol=3e-16)
    assert torch.equal(confidence.argsort(stable=True), expected.argsort(stable=True))
    if not boosted:
        assert torch.allclose(seen.error_probability(tokens), error, rtol=1e-5, atol=0.0)


def test_entropy_and_log_probabilities_keep_small_values() -> None:
    logits = leading(2, torch.linspace(2.0, 30.0, 60)[None])
    seen = from_logits(logits.clone(), torch.ones(1, 60, dtype=torch.bool))
    logp = logits.double().log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    assert torch.allclose(seen.entropy().double(), entropy, rtol=1e-4, atol=1e-14)
    best = -torch.log1p(
        (logits.double() - logits.double().amax(-1, keepdim=True)).exp().sum(-1) - 1.0
    )
    assert torch.allclose(seen.log_probs().amax(-1).double(), best, rtol=1e-5, atol=1e-14)


def test_confidence_is_made_of_logit_and_normaliser_where_the_mass_is_not_given() -> None:
    seen, _ = prediction(5)
    bare = Prediction(
        seen.ids, seen.logit, seen.lse, seen.logits, seen.logit_row, seen.masked, seen.sampling
    )
    assert torch.allclose(bare.confidence(seen.ids), seen.confidence(seen.ids), rtol=1e-5)


@pytest.mark.parametrize("temperature", (5e-324, 1e-307, 1e-30))
@pytest.mark.parametrize("options", ({}, {"top_k": 3}, {"top_p": 0.9}))
@pytest.mark.parametrize("boosted", (False, True))
def test_a_tiny_temperature_is_greedy(
    temperature: float, options: dict[str, float], boosted: bool
) -> None:
    """Logits over such a temperature are infinite; only their distances from the best one may be."""
    drawn, logits = prediction(3, rows=20, temperature=temperature, **options)
    greedy, _ = prediction(3, rows=20)
    ids, boost = (
        logits.topk(2, dim=-1).indices,
        torch.rand(20, 4, 2, generator=torch.Generator().manual_seed(1)),
    )
    ours, expected = (
        seen.choose(ids, boost) if boosted else seen.choose() for seen in (drawn, greedy)
    )
    assert all(torch.equal(a[drawn.masked], b[drawn.masked]) for a, b in zip(ours, expected))


def test_the_confidence_of_the_top_ids_needs_no_logits() -> None:
    """`choose` takes it from the mass alone; the plain way reads the logits again."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 5, 40, generator=generator)
    masked = torch.rand(3, 5, generator=generator) < 0.7
    prediction = from_logits(logits, masked)
    tokens, confidence = prediction.choose()
    assert tokens is prediction.ids
    assert torch.equal(confidence, prediction.confidence(prediction.ids.clone()))


@pytest.mark.parametrize("seed", range(4))
def test_a_boosted_choice_is_the_boosted_top_and_its_confidence(seed: int) -> None:
    """Bit for bit, also where ids are equal, slots are empty and positions are not masked."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (2, 9, 12), generator=generator) / 4
    masked = torch.rand(2, 9, generator=generator) < 0.7
    seen = from_logits(logits, masked)
    ids = torch.rand(2, 9, 12, generator=generator).argsort(-1)[..., :4]
    boost = torch.rand(2, 9, 4, generator=generator)
    boost = boost.masked_fill(torch.rand(2, 9, 4, generator=generator) < 0.4, 0.0)
    tokens, confidence = seen.choose(ids, boost)
    assert torch.equal(tokens, seen._boosted_top(ids, boost))
    assert torch.equal(confidence, seen.confidence(tokens, ids, boost))
