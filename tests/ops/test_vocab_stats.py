"""Holds the vocabulary statistics, the noise and what a Prediction derives from them to plain
formulas, drawing to its distribution.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.decoders.base import Prediction, Sampling, from_logits
from creditdecoding.ops import noise
from creditdecoding.ops import vocab_stats as vocab
from creditdecoding.ops.noise import gumbel_noise, uniform_noise
from creditdecoding.ops.vocab_stats import row_chunks, vocab_stats, vocab_stats_reference

torch.set_num_threads(1)
FEW = settings(max_examples=60, deadline=None, database=None)


def matrix(seed: int, n: int, size: int, kind: str, dtype: torch.dtype) -> Tensor:
    """Logits [n, size] of one kind; at least one entry of a row is finite."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, generator=source)
    if kind == "ties":
        x = x.round()
    elif kind == "huge":
        x = x * 1e4
    elif kind == "shifted":
        x = x + 3e4
    elif kind == "banned":
        x = x.masked_fill(torch.rand(n, size, generator=source) < 0.7, -torch.inf)
        x[:, seed % size] = 0.25
    return x.to(dtype)


@FEW
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    size=st.one_of(st.integers(1, 70), st.sampled_from((1023, 1024, 1025, 2047, 2048, 2049, 3100))),
    kind=st.sampled_from(("plain", "ties", "huge", "shifted", "banned")),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
)
def test_statistics_match_their_reference(
    seed: int, n: int, size: int, kind: str, dtype: torch.dtype
) -> None:
    x = matrix(seed, n, size, kind, dtype)
    if dtype == torch.float16:
        x = x.clamp(min=-6e4, max=6e4) if kind != "banned" else x
    before = x.clone()
    ids, top, lse = vocab_stats(x)
    expected_ids, expected_top, expected_lse = vocab_stats_reference(x)
    assert torch.equal(x, before)
    assert top.dtype == lse.dtype == torch.float32 and ids.dtype == torch.long
    assert torch.equal(top, expected_top)
    assert torch.allclose(lse, expected_lse, rtol=1e-6, atol=1e-6)
    lowest = [row.index(max(row)) for row in x.tolist()]
    assert ids.tolist() == lowest == expected_ids.tolist()
    assert bool((lse >= top).all())


@pytest.mark.parametrize("chunk", (1, 7, 64, 1 << 18))
def test_statistics_do_not_depend_on_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = matrix(3, 33, 13, "plain", torch.float32)
    expected = vocab_stats_reference(x)
    monkeypatch.setattr(vocab, "_CPU_CHUNK", chunk)
    covered = [i for part in row_chunks(x) for i in range(part.start, part.stop)]
    assert covered == list(range(33))
    ids, top, lse = vocab_stats(x)
    assert (
        torch.equal(ids, expected[0])
        and torch.equal(top, expected[1])
        and torch.allclose(lse, expected[2])
    )


@pytest.mark.parametrize("size", (1000, 1024, 1025, 2048, 3000, 4097))
def test_equals_far_apart_give_the_lowest_id(size: int) -> None:
    """Ties between any two ids of a large vocabulary, its ends and the borders of the kernel's
    pieces among them.
    """
    places = sorted(
        {0, 1, size // 2, 1022, 1023, 1024, 1025, 2047, 2048, size - 2, size - 1} & set(range(size))
    )
    pairs = list(itertools.combinations(places, 2))
    for fill in (-1.0, -torch.inf):
        x = torch.full((len(pairs), size), fill)
        for line, pair in zip(x, pairs):
            line[list(pair)] = 2.0
        ids, top, lse = vocab_stats(x)
        assert ids.tolist() == [low for low, _ in pairs] and set(top.tolist()) == {2.0}
        assert torch.allclose(lse, torch.logsumexp(x, -1))
    assert vocab_stats(torch.full((2, size), -3.0))[0].tolist() == [0, 0]


def test_statistics_of_a_real_vocabulary_and_of_no_rows() -> None:
    x = torch.randn(5, 126_464, generator=torch.Generator().manual_seed(0)) * 5
    assert all(
        torch.allclose(a.double(), b.double(), rtol=1e-6)
        for a, b in zip(vocab_stats(x), vocab_stats_reference(x))
    )
    assert [len(part) for part in vocab_stats(x[:0])] == [0, 0, 0]


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_values_that_are_not_numbers_show_in_the_normaliser(bad: float) -> None:
    """The loop refuses a model by this: a NaN or an infinity leaves no finite log-sum-exp; other
    rows are not touched.
    """
    x = matrix(1, 3, 9, "plain", torch.float32)
    x[1, 4] = bad
    assert torch.isfinite(vocab_stats(x)[2]).tolist() == [True, False, True]
    assert not bool(torch.isfinite(vocab_stats(torch.full((1, 4), -torch.inf))[2]))


# Noise
# ---------------------------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_its_keys() -> None:
    keys = (torch.arange(50)[:, None], torch.tensor(3), torch.tensor(0), torch.arange(20))
    one, two = uniform_noise(*keys), uniform_noise(*keys)
    assert torch.equal(one, two) and one.shape == (50, 20) and one.dtype == torch.float64
    assert torch.equal(one[17, 5], uniform_noise(*(torch.tensor(i) for i in (17, 3, 0, 5))))
    torch.manual_seed(5)
    assert torch.equal(one, uniform_noise(*keys))
    assert torch.equal(gumbel_noise(*keys), -(-one.log()).log())


@FEW
@given(
    keys=st.tuples(*[st.integers(-1, 2**62)] * 4),
    which=st.integers(0, 3),
    other=st.integers(-1, 2**62),
)
def test_noise_depends_on_every_key_and_on_their_order(
    keys: tuple[int, ...], which: int, other: int
) -> None:
    changed = tuple(other if i == which else key for i, key in enumerate(keys))
    draw = lambda values: float(uniform_noise(*(torch.tensor(v) for v in values)))  # noqa: E731
    assert (draw(keys) == draw(changed)) == (keys == changed)
    if keys[0] != keys[1]:
        assert draw(keys) != draw((keys[1], keys[0], *keys[2:]))
    assert 0.0 < draw(keys) < 1.0


GRID = (
    torch.arange(40)[:, None, None],
    torch.arange(40)[None, :, None],
    torch.tensor(2),
    torch.arange(125),
)


def test_noise_is_uniform() -> None:
    u = uniform_noise(*GRID).flatten()
    n = len(u)
    counts = torch.histc(u, 50, 0.0, 1.0)
    chi = float(((counts - n / 50) ** 2 / (n / 50)).sum())
    assert chi < 49 + 4 * (2 * 49) ** 0.5
    assert float(u.mean()) == pytest.approx(0.5, abs=4 / (12 * n) ** 0.5)
    assert len(u.unique()) == n


@pytest.mark.parametrize("axis", (0, 1, 2))
def test_noise_of_neighbouring_keys_is_independent(axis: int) -> None:
    """Next seed, next position, next id: no correlation, and no more equal signs than by chance."""
    u = uniform_noise(*GRID) - 0.5
    size = u.shape[axis]
    for step in (1, 2, 7):
        a, b = u.narrow(axis, 0, size - step), u.narrow(axis, step, size - step)
        n = a.numel()
        assert abs(float((a * b).mean()) * 12) < 4.5 / n**0.5
        assert abs(float((a.sign() * b.sign()).mean())) < 4.5 / n**0.5


def test_gumbel_has_its_mean_and_variance() -> None:
    g = gumbel_noise(*GRID).flatten()
    assert float(g.mean()) == pytest.approx(0.57721566, abs=4 * (math.pi**2 / 6 / len(g)) ** 0.5)
    assert float(g.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


def unscramble(value: int) -> int:
    """The key whose splitmix64 finaliser is `value`."""
    full = (1 << 64) - 1

    def unshift(x: int, by: int) -> int:
        found = x
        for _ in range(64 // by + 1):
            found = x ^ (found >> by)
        return found

    x = unshift(value & full, 31) * pow(noise._MIX2 & full, -1, 1 << 64) & full
    x = unshift(x, 27) * pow(noise._MIX1 & full, -1, 1 << 64) & full
    return unshift(x, 30)


@pytest.mark.parametrize("state", (0, (1 << 64) - 1), ids=("lowest", "highest"))
def test_the_extreme_counters_stay_inside_the_open_interval(state: int) -> None:
    """The keys whose hash is all zeros and all ones: noise must not reach 0 or 1, or Gumbel noise
    is infinite.
    """
    full = (1 << 64) - 1
    golden = noise._GOLDEN & full
    key = (unscramble((unscramble(state) - golden) & full) - golden) & full
    signed = torch.tensor(key - (1 << 64) if key >> 63 else key)
    assert 0.0 < float(uniform_noise(signed)) < 1.0
    assert math.isfinite(float(gumbel_noise(signed)))


# Prediction
# ----------------------------------------------------------------------------------------------------------------


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
    at = torch.arange(length).expand(rows, -1)
    sampling = Sampling(torch.arange(rows), at, torch.zeros(rows, dtype=torch.long), **options)  # type: ignore[arg-type]
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
    asked = torch.randint(0, 7, (3, 4, 5), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(seen.logits_of(asked)[masked], logits.gather(-1, asked)[masked])


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
def test_greedy_pick_is_the_argmax_of_the_boosted_logits(
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
    ours, theirs = (
        seen.choose(ids, boost) if boosted else seen.choose() for seen in (drawn, greedy)
    )
    assert all(torch.equal(a[drawn.masked], b[drawn.masked]) for a, b in zip(ours, theirs))


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
def test_hushed_ids_can_be_picked_but_weigh_nothing(temperature: float) -> None:
    """Their real logits decide whether they are picked; the logit that goes into a confidence is
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
    hushed = Prediction(
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
    for seen in (hushed, hushed.with_boost(torch.zeros(1, n, 4))):
        token, confidence = seen.choose()
        assert torch.equal(token, expected) and bool((token == 1).any())
        assert torch.equal(seen.is_suppressed(token), token == 1)
        assert bool((confidence[token == 1] == 0).all())
        probabilities = flat[0].double().softmax(-1)
        assert torch.allclose(confidence[token != 1], probabilities[token[token != 1]])
    assert bool((hushed.probability == 0).all()) and bool(
        hushed.log_probs()[..., 1].isneginf().all()
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
    """Doubts from 1e-1 to 1e-14, in the order that a float64 softmax gives, also of boosted and of
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
    wanted = full.softmax(-1).gather(-1, tokens[..., None])[..., 0]
    others = full.scatter(-1, tokens[..., None], -torch.inf).logsumexp(-1)
    doubt = (others - full.logsumexp(-1)).exp()
    confidence = seen.confidence(tokens, ids, boost)
    assert confidence.dtype == torch.float64
    assert torch.allclose(confidence, wanted, rtol=1e-6, atol=0.0)
    assert torch.allclose(1.0 - confidence, doubt, rtol=1e-5, atol=3e-16)
    assert torch.equal(confidence.argsort(stable=True), wanted.argsort(stable=True))
    if not boosted:
        assert torch.allclose(seen.error_probability(tokens), doubt, rtol=1e-5, atol=0.0)


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
    ours, theirs = (
        seen.choose(ids, boost) if boosted else seen.choose() for seen in (drawn, greedy)
    )
    assert all(torch.equal(a[drawn.masked], b[drawn.masked]) for a, b in zip(ours, theirs))
