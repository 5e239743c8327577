"""benchmarks/device.py, which is made for a GPU, runs on a CPU with a small network."""

from __future__ import annotations

import pytest
import torch

from benchmarks.device import (
    EXPERTS,
    SIZES,
    PlacedModel,
    expert_times,
    head_time,
    loop_share,
    random_network,
)

CPU = torch.device("cpu")
TINY = SIZES["tiny"]


@pytest.mark.parametrize("decoder", ["fixed", "threshold", "credit"])
def test_the_share_outside_of_the_model_is_a_share(decoder: str) -> None:
    placed = PlacedModel(random_network(TINY, CPU), CPU)
    share, seconds = loop_share(placed, 2, decoder)
    assert 0 < share < 1
    assert seconds > 0


def test_networks_have_random_weights_of_their_shape() -> None:
    model = random_network(TINY, CPU)
    assert model.norm.weight.dtype == torch.bfloat16
    assert model.embed.weight.shape == (TINY.ids, TINY.hidden)
    assert 0.015 < model.embed.weight.float().std() < 0.025


def test_both_times_of_the_head_are_measured() -> None:
    time = head_time(TINY, 16, CPU, pairs=1)
    assert time.statistics_ms > 0
    assert time.speed == time.product_ms / time.statistics_ms


def test_each_way_of_experts_that_the_device_has_is_measured() -> None:
    rows = list(expert_times(EXPERTS["tiny"], 4, CPU, repeats=1))
    assert [row.way for row in rows] == ["looped", "in_blocks"]
    assert all(row.ms > 0 for row in rows)
