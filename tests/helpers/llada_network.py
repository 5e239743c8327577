"""A tiny random network of LLaDA's shape, with decided predictions, as the package's own model, as a
function of ids, and as an `LM`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import ModelConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import Trace

CPU = torch.device("cpu")
MASK, EOS, EOT, WIDTH = 19, 17, 18, 20
WORDS = SpecialTokens(MASK, (EOS, EOT), WIDTH, str)


def network(seed: int = 0, **changes: Any) -> Transformer:
    """A random network with decided predictions; end tokens are likely."""
    shape: dict[str, Any] = {
        "family": "llada",
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
    }
    shape |= {
        "intermediate_size": 24,
        "embedding_rows": WIDTH,
        "max_length": 128,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-5,
    }
    shape |= {
        "tie_embeddings": False,
        "rope_full_precision": True,
        "mask_token_id": MASK,
        "stop_token_ids": (EOS, EOT),
        "pad_token_id": 0,
    }
    model = Transformer(ModelConfig(**{**shape, **changes})).eval()
    init_weights(model, torch.Generator().manual_seed(seed))
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(20.0)
        model.embed.weight.mul_(50.0)
        model.head.weight[EOS] = model.head.weight[1] * 1.2
    return model


def dense(model: Transformer) -> Callable[[Tensor], Tensor]:
    """The same network as a callable from ids to all logits."""
    return torch.no_grad()(
        lambda ids: model.logits(model.hidden_states(ids).flatten(0, 1)).unflatten(0, ids.shape)
    )


def lm_of(model: Transformer) -> LM:
    backend = types.SimpleNamespace(eos_token_id=EOS)
    return LM(model, Tokenizer(backend, MASK, (EOS, EOT), WIDTH), max_length=128, device=CPU)


def traces(
    model: Any, rows: list[Request], batch_size: int = 16, words: SpecialTokens = WORDS
) -> list[Trace]:
    """The traces of requests that the loop decodes."""
    traces_by_row = {
        row.index: Trace(tuple(row.canvas[: row.answer_start].tolist())) for row in rows
    }
    for event in denoise(model, rows, words, CPU, batch_size):
        traces_by_row[event.row].add(event)
    return list(traces_by_row.values())
