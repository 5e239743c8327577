"""Tiny random networks of transformers' own classes, with decided predictions, and a tokenizer of
whole words for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
MASK, END = WORDS.index("[MASK]"), WORDS.index("[SEP]")
SHAPE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 1.0,
    "pad_token_id": 0,
    "eos_token_id": END,
}


def tokenizer() -> Any:
    """One id a word, a mask, an end, no chat template."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[SEP]",
        cls_token="[CLS]",
    )


def network(name: str, seed: int = 0, **changes: Any) -> Any:
    """A random network: `Bert`, `Roberta`, `ModernBert` with a head for masks, `Llama`, `Qwen3`
    causal ones.
    """
    torch.manual_seed(seed)
    causal = {"num_key_value_heads": 1} if name in ("Llama", "Qwen3") else {}
    own = {
        "Qwen3": {"head_dim": 8},
        "ModernBert": {"cls_token_id": 2, "sep_token_id": END, "initializer_cutoff_factor": 3.0},
    }.get(name, {})
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **causal, **own, **changes})
    return getattr(transformers, f"{name}For{'CausalLM' if causal else 'MaskedLM'}")(config).eval()


def two_way(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A causal class asked without padding by its own switch: what a row gets alone."""
    return torch.no_grad()(lambda ids: model(ids, is_causal=False).logits)
