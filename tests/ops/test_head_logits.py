"""Logits that are not written against the same logits written."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.fused_head import head_case
from creditdecoding.ops import head_logits
from creditdecoding.ops.head_logits import HeadLogits, gather_logits, mass_of, tiles_of
from creditdecoding.ops.vocab_stats import vocab_mass

FEW = settings(max_examples=15, deadline=None, database=None)
BANNED, STOPS = (3, 7), (0, 5)


def exact(seed: int, lines: int, ids: int, dtype: torch.dtype) -> HeadLogits:
    """Small whole numbers, whose products are exact in any order and often equal."""
    source = torch.Generator().manual_seed(seed)
    hidden = torch.randint(-2, 3, (lines, 4), generator=source).to(dtype)
    weight = torch.randint(-2, 3, (ids, 4), generator=source).to(dtype)
    no_stop, suppressed = torch.rand(2, lines, generator=source) < 0.5
    return HeadLogits(hidden, weight, BANNED, STOPS, no_stop, suppressed)


def written(logits: HeadLogits) -> Tensor:
    """The same logits, from their definition."""
    dense = logits.hidden @ logits.weight.T
    dense[:, list(BANNED)] = -torch.inf
    stops_at = logits.stops_at
    assert stops_at is not None
    dense[
        stops_at[:, None] & torch.isin(torch.arange(dense.shape[1]), torch.tensor(STOPS))
    ] = -torch.inf
    return dense


@FEW
@given(
    seed=st.integers(0, 2**31),
    lines=st.integers(1, 20),
    ids=st.integers(9, 80),
    tile=st.integers(1, 300),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_everything_that_is_read_equals_the_written_logits(
    seed: int, lines: int, ids: int, tile: int, dtype: torch.dtype
) -> None:
    logits = exact(seed, lines, ids, dtype)
    dense = written(logits)
    some = torch.randint(ids, (lines, 3), generator=torch.Generator().manual_seed(seed))
    line = torch.arange(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_logits, "_CPU_TILE", tile)
        patch.setattr(head_logits, "_CPU_LINES", 6)
        mass, expected = mass_of(logits), vocab_mass(dense)
        parts = [tile for _, tile in tiles_of(logits, slice(None))]
        gathered = gather_logits(logits, line, some)
    assert torch.equal(mass[0], expected[0])
    assert torch.equal(mass[1], expected[1])
    torch.testing.assert_close(mass[2], expected[2], rtol=1e-5, atol=0.0)
    assert torch.equal(torch.cat(parts, 1), dense.float())
    assert torch.equal(gathered, dense.gather(1, some).float())
    assert torch.equal(logits[:], dense)
    assert torch.equal(logits.of(line.flip(0))[:], dense.flip(0))


def test_the_rest_keeps_its_digits_however_small_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_logits, "_CPU_TILE", 2)
    weight = torch.tensor([[0.0], [60.0], [20.0], [0.0], [25.0], [60.0]])
    ids, top, rest = HeadLogits(torch.ones(1, 1), weight[:5]).mass()
    assert (ids.item(), top.item()) == (1, 60.0)
    expected = torch.tensor([-35.0, -40.0], dtype=torch.float64).exp().sum() + 2 * torch.exp(
        torch.tensor(-60.0, dtype=torch.float64)
    )
    assert rest.item() == pytest.approx(expected.item(), rel=1e-6)
    ids, _, rest = HeadLogits(torch.ones(1, 1), weight).mass()
    assert ids.item() == 1  # the lowest of equals
    assert rest.item() == pytest.approx(1.0)  # the other one


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [0, 4])
def test_what_is_no_number_shows_in_the_sum(
    bad: float, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_logits, "_CPU_TILE", 2)
    weight = torch.tensor([[1.0], [2.0], [9.0], [3.0], [4.0]])
    weight[where] = bad
    _, top, rest = HeadLogits(torch.ones(1, 1), weight).mass()
    assert not torch.isfinite(top + rest).any()


def test_a_line_without_any_id_has_no_mass() -> None:
    logits = HeadLogits(torch.ones(2, 1), torch.ones(2, 1), banned=(0, 1))
    assert logits.mass()[2].isnan().all()
    assert logits.of(slice(0, 0)).mass()[0].shape == (0,)


@pytest.mark.slow
def test_a_step_allocates_a_twentieth_of_the_logits_at_most() -> None:
    """At 2,048 positions and 126,464 ids."""
    peak = head_case(torch.float32, "credit", hidden=32).peak("on")
    assert peak.share <= 5.0
