"""A pass in parts leaves the states of a whole one, and a part is no more than a chunk's work."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from creditdecoding.config import MoEConfig
from creditdecoding.models.pass_parts import count_parts, states_in_parts
from creditdecoding.models.quantize import int8_transform
from creditdecoding.models.transformer import Transformer, init_weights
from tests.helpers.tiny_networks import network

torch.set_num_threads(1)
LENGTH = 150
READS = (torch.tensor([0, 0, 1, 1, 1]), torch.tensor([3, 149, 0, 20, 80]))


def with_experts() -> Transformer:
    """A network of which all layers but the first have experts."""
    experts = MoEConfig(8, 2, 16, dense_layers=1)
    model = Transformer(replace(network("full").config, moe=experts)).eval()
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def finish(parts: Generator[None, None, Tensor]) -> tuple[Tensor, int]:
    """What the last part leaves, and how many parts there were."""
    count = 0
    while True:
        try:
            next(parts)
            count += 1
        except StopIteration as end:
            return end.value, count


def same_states(model: Transformer, *arguments: Any, chunk: int = 96, **more: Any) -> int:
    """Compare both ways; how many parts there were."""
    with torch.inference_mode():
        whole = model(*arguments, **more)
        hidden, count = finish(states_in_parts(model, chunk, *arguments, **more))
        torch.testing.assert_close(model.read(hidden), whole, rtol=1e-5, atol=1e-4)
    return count


@pytest.mark.parametrize("kind", ["full", "shifted", "blocks"])
@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_parts_leave_the_states_of_a_whole_pass(kind: str, backend: str) -> None:
    model = network(kind)
    model.attention_backend = backend
    tokens = torch.randint(0, 38, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    seen = torch.arange(LENGTH) < torch.tensor([[[150]], [[120]]])
    each_query = seen & (torch.rand(1, LENGTH, LENGTH) < 0.5) | torch.eye(LENGTH, dtype=torch.bool)
    for mask in (None, seen, each_query):
        assert same_states(model, tokens, READS, mask) == 4 + 2 * 4 + 1
    positions = torch.arange(LENGTH).expand(2, -1) + 3
    same_states(model, tokens, READS, None, positions)
    everywhere = torch.arange(LENGTH)
    one_row = (torch.zeros_like(everywhere), everywhere)
    assert same_states(model, tokens[:1], one_row) == 2 + 3 * 2, "all logits are read"
    assert same_states(model, tokens[:1], one_row, chunk=1000) == 1 + 3


def test_experts_have_the_rows_of_a_part() -> None:
    tokens = torch.randint(0, 38, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    same_states(with_experts(), tokens, (torch.tensor([0, 0]), torch.tensor([2, 140])))


def test_int8_weights_are_as_good_in_parts() -> None:
    pytest.importorskip("torchao")
    model = network("full")
    convert = int8_transform()
    for name, part in model.layers.named_modules():
        if isinstance(part, nn.Linear):
            part.weight = convert(f"layers.{name}.weight", part.weight)  # type: ignore[assignment]
    tokens = torch.randint(0, 38, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    same_states(model, tokens, (torch.tensor([0, 0]), torch.tensor([2, 140])))


def test_the_last_digits_of_products_do_not_change() -> None:
    """With rows of which no part has fewer than a stable product needs."""
    model = network("full")
    tokens = torch.randint(0, 38, (1, 160), generator=torch.Generator().manual_seed(1))
    reads = (torch.tensor([0, 0]), torch.tensor([2, 140]))
    with torch.inference_mode():
        hidden, _ = finish(states_in_parts(model, 96, tokens, reads))
        assert torch.equal(model.read(hidden), model(tokens, reads))


def test_keys_and_values_are_stored_and_read_where_the_caches_are_by_then() -> None:
    """Between parts the buffers are exchanged for copies, as when a cache grows."""
    model = network("full")
    tokens = torch.randint(0, 38, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    reads = (torch.tensor([0]), torch.tensor([100]))
    whole, cut = model.new_cache(), model.new_cache()
    whole.reserve(3, 256)
    cut.reserve(3, 256)
    for buffers in (*whole.buffers, *cut.buffers):
        torch.manual_seed(0)
        for buffer in buffers:
            buffer.normal_()
    columns = torch.arange(20, 20 + LENGTH)[None]
    with torch.inference_mode():
        caches = whole.layer_caches([1], columns, 200)
        expected = model(tokens, reads, None, columns, caches)
        own = cut.layer_caches([1], columns, 200)
        parts = states_in_parts(model, 48, tokens, reads, None, columns, own)
        slot = 1
        for size in (257, 260, 300, 310, 320, 330):
            next(parts)
            cut.copy_slots([slot], [1 - slot])
            cut.clear_slot(slot)
            slot = 1 - slot
            cut.resize(3, size)
            own[:] = cut.layer_caches([slot], columns, 200)
        hidden, _ = finish(parts)
    torch.testing.assert_close(model.read(hidden), expected, rtol=1e-5, atol=1e-4)
    for (keys, values), (own_keys, own_values) in zip(whole.buffers, cut.buffers):
        torch.testing.assert_close(own_keys[slot, :, :200], keys[1, :, :200])
        torch.testing.assert_close(own_values[slot, :, :200], values[1, :, :200])


@pytest.mark.parametrize(
    ("positions", "chunk"), [(2064, 512), (513, 512), (2 * 700, 512), (240, 100)]
)
def test_no_part_has_more_positions_than_a_chunk(positions: int, chunk: int) -> None:
    model = network("full")
    rows: list[int] = []
    model.layers[1].o.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    tokens = torch.zeros(1, positions, dtype=torch.long)
    with torch.inference_mode():
        finish(states_in_parts(model, chunk, tokens, (torch.tensor([0]), torch.tensor([5]))))
    assert sum(rows) == positions and max(rows) <= chunk
    assert len(rows) == count_parts(positions, chunk)
    assert isinstance(model.layers[1].o, nn.Linear)
