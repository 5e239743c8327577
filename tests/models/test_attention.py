"""The attention adapter: one result whatever the path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from creditdecoding.models import attention as adapter
from creditdecoding.models.attention import attention, block_causal_mask

torch.set_num_threads(1)


def inputs(rows: int, length: int, keys: int, kv_heads: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 4, length, 8), (rows, kv_heads, keys, 8), (rows, kv_heads, keys, 8))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths, calls", [([3, 9, 30], 3), ([30, 29, 28], 1), ([1, 1, 30], 3)])
def test_rows_of_different_lengths(
    lengths: list[int], calls: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one where that saves work, padded where it does not; both are the plain formula."""
    q, k, v = inputs(3, 5, 30, kv_heads)
    allowed = (torch.arange(30) < torch.tensor(lengths)[:, None])[:, None]
    plain = attention(q, k, v, allowed, "math")
    seen = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        adapter.F, "scaled_dot_product_attention", lambda *a, **b: seen.append(1) or fused(*a, **b)
    )
    assert torch.allclose(attention(q, k, v, allowed), plain, atol=1e-6) and len(seen) == calls


def test_masks_that_are_no_lengths_stay_masks() -> None:
    q, k, v = inputs(3, 5, 30, 4)
    holes = torch.rand(3, 1, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    holes[..., 0] = True
    assert torch.allclose(attention(q, k, v, holes), attention(q, k, v, holes, "math"), atol=1e-6)
    left = (torch.arange(30) >= torch.tensor([25, 10, 0])[:, None])[:, None]
    assert torch.allclose(attention(q, k, v, left), attention(q, k, v, left, "math"), atol=1e-6)


def test_block_causal_by_its_definition() -> None:
    mask = block_causal_mask(torch.arange(7), torch.arange(9), 3)
    assert mask.shape == (1, 7, 9)
    assert all(bool(mask[0, i, j]) == (i // 3 >= j // 3) for i in range(7) for j in range(9))
    rows = block_causal_mask(torch.tensor([[4, 5], [0, 1]]), torch.arange(9).expand(2, -1), 3)
    assert rows.shape == (2, 2, 9) and rows[0].sum() == 12 and rows[1].sum() == 6
