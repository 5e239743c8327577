"""Passes in buckets: the same steps as passes of their own size, and few sizes."""

from __future__ import annotations

from typing import Any

import pytest

from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.models.buckets import bucket, row_bucket
from tests.helpers.tiny_networks import KINDS, network, rows_of, traces
from tests.helpers.toys import assert_same

LEAVE_ONE_OUT = [name for name in names() if capabilities_of(create(name)).leave_one_out]
OPTIONS: list[dict[str, Any]] = [{"decoder": "credit"}, {"decoder": "klass", "cfg_scale": 0.5}]
OPTIONS += [{"decoder": name} for name in LEAVE_ONE_OUT[:1]]


def test_buckets_are_few_and_waste_at_most_a_third() -> None:
    sizes = [bucket(size) for size in range(1, 4097)]
    assert all(size <= own for size, own in enumerate(sizes, start=1))
    assert len(set(sizes)) == 16
    assert max((own - size) / own for size, own in enumerate(sizes, start=1) if size > 64) < 1 / 3
    assert [bucket(size) for size in (1, 16, 17, 64, 65, 96, 97)] == [16, 16, 32, 64, 96, 96, 128]
    assert [row_bucket(rows) for rows in (1, 2, 3, 4, 5, 33)] == [1, 2, 4, 4, 8, 64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_passes_in_buckets_take_the_same_steps(kind: str, options: dict[str, Any]) -> None:
    """Under every cache; three rows are padded to four."""
    plain, padded = network(kind), network(kind)
    padded.pads_passes = True  # the layers are as they were
    for cache in supported_policies(plain.geometry):
        prompts = ([1, 2, 3], [4] * 20, [5, 6, 7, 8, 9, 0, 1, 3, 3])
        config = {"gen_length": 9, "cache": cache, "block_length": 4, **options}
        expected = traces(plain, rows_of(plain, prompts, **config))
        for in_bucket, own_size in zip(
            traces(padded, rows_of(padded, prompts, **config)), expected
        ):
            assert_same(in_bucket, own_size)
