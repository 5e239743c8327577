"""The noise is a function of its keys, with the distribution it should have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.ops import noise
from creditdecoding.ops.noise import gumbel_noise, uniform_noise

FEW = settings(max_examples=40, deadline=None, database=None)


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
        unshifted = x
        for _ in range(64 // by + 1):
            unshifted = x ^ (unshifted >> by)
        return unshifted

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
