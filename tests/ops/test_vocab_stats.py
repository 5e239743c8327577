"""Vocabulary statistics against their definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.ops import vocab_stats as vocab
from creditdecoding.ops.vocab_stats import row_chunks, vocab_stats

FEW = settings(max_examples=40, deadline=None, database=None)


def vocab_stats_reference(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics by their definition, in one expression each."""
    wide = logits.float()
    return wide.argmax(-1), wide.amax(-1), torch.logsumexp(wide, -1)


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


def test_a_small_vocabulary_has_what_a_search_by_pieces_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit, also where several ids are equal."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-4, 5, (300, 1_500), generator=generator).float()
    ours = vocab.vocab_mass(logits)
    monkeypatch.setattr(vocab, "SMALL_VOCABULARY", 0)
    for values, plain in zip(ours, vocab.vocab_mass(logits)):
        assert torch.equal(values, plain)
