"""Tiny random networks of every geometry, whose predictions are decided, and requests for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.trace import Trace

CPU = torch.device("cpu")
MASK, STOPS, WIDTH = 40, (38, 39), 48
WORDS = SpecialTokens(MASK, STOPS, 41, lambda ids: " ".join(map(str, ids)))
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 0, 1, 3, 3], [2, 2], [9, 8, 7, 6, 11, 12, 13, 14]]
FULL = {
    "family": "llada",
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
}
FULL |= {
    "embedding_rows": WIDTH,
    "max_length": 256,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "tie_embeddings": False,
}
FULL |= {
    "rope_full_precision": True,
    "mask_token_id": MASK,
    "stop_token_ids": STOPS,
    "pad_token_id": 41,
}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "shifted": {"logit_shift": True, "qkv_bias": True},
    "blocks": {"causal_block": 8, "qk_norm": True},
    "shifted blocks": {"causal_block": 8, "logit_shift": True},
}


def network(kind: str, seed: int = 0) -> Transformer:
    """A random network with decided predictions, which depend on the whole of what it sees."""
    model = Transformer(ModelConfig(**{**FULL, **KINDS[kind]})).eval()
    init_weights(model, torch.Generator().manual_seed(seed))
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(12.0)
        model.embed.weight.mul_(50.0)
    return model


def traces(model: Transformer, rows: Sequence[Request], batch_size: int = 16) -> list[Trace]:
    traces_by_row = {
        row.index: Trace(tuple(row.canvas[: row.answer_start].tolist())) for row in rows
    }
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        traces_by_row[event.row].add(event)
    return list(traces_by_row.values())


def rows_of(
    model: Transformer, prompts: Sequence[Sequence[int]] = PROMPTS, **options: Any
) -> list[Request]:
    config = GenerationConfig(**{"gen_length": 22, "early_stop": False, **options})
    return [
        new_request(i, prompt, config, WORDS, 4096, model.geometry)
        for i, prompt in enumerate(prompts)
    ]


def same(ours: Trace, expected: Trace, tolerance: float = 1e-4) -> None:
    """The same passes and tokens; confidences to `tolerance`."""
    assert [(s.block, s.step, s.positions, s.tokens, s.committed) for s in ours.steps] == [
        (s.block, s.step, s.positions, s.tokens, s.committed) for s in expected.steps
    ]
    assert ours.tokens == expected.tokens
    for a, b in zip(ours.steps, expected.steps):
        assert a.confidence == pytest.approx(b.confidence, abs=tolerance)
