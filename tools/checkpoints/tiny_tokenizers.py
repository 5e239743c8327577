"""Tiny tokenizers in the released file formats: byte-level BPE of a few sentences, then special
tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tools.checkpoints.files import write_json

TEXTS = (
    "The capital of Peru is Lima. The language of Japan is Japanese.",
    "Tom has 12 apples and gives 5 to Ann. How many apples does Tom have now?",
    "Diffusion language models write many tokens in one forward pass; what they trust they write first.",
    "def f(xs):\n    total = 0\n    for x in xs:\n        if x > 3:\n            total += x\n    return total",
)

FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

# Qwen2's pre-tokenisation.
QWEN_CUT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def byte_level_bpe(special: Sequence[str], size: int = 300, plain: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE of `size` ids, then the `special` tokens.

    Those in `plain` are added tokens, but not special ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, size)
    _add(tokenizer, special, plain)
    return tokenizer


def qwen_bpe(special: Sequence[str], size: int = 300, plain: Sequence[str] = ()) -> Tokenizer:
    """`byte_level_bpe` with Qwen2's normalisation and pre-tokenisation."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(QWEN_CUT), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, size)
    _add(tokenizer, special, plain)
    return tokenizer


def _train(tokenizer: Tokenizer, size: int) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )


def _add(tokenizer: Tokenizer, special: Sequence[str], plain: Sequence[str]) -> None:
    for text in special:
        is_special = text not in plain
        token = AddedToken(text, special=is_special, normalized=False)
        add = tokenizer.add_special_tokens if is_special else tokenizer.add_tokens
        add([token])


def added_ids(tokenizer: Tokenizer, special: Sequence[str]) -> dict[str, int]:
    """Ids of added tokens."""
    return {text: tokenizer.token_to_id(text) for text in special}


def tokenizer_config(
    added: Mapping[str, int], roles: Mapping[str, str], plain: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """A tokenizer_config.json with the fields that all released ones have."""
    return {
        "added_tokens_decoder": {
            str(i): {"content": text, **FLAGS, "special": text not in plain}
            for text, i in added.items()
        },
        **roles,
        "clean_up_tokenization_spaces": False,
        **more,
    }


def write_special_tokens_map(folder: Path, roles: Mapping[str, str]) -> None:
    """Write special_tokens_map.json."""
    write_json(
        folder / "special_tokens_map.json",
        {role: {"content": text, **FLAGS} for role, text in roles.items()},
    )


def write_vocab_and_merges(folder: Path, tokenizer: Tokenizer, added: Mapping[str, int]) -> None:
    """Write vocab.json, merges.txt and added_tokens.json, the format before tokenizer.json."""
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(
        json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8"
    )
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8"
    )
    write_json(folder / "added_tokens.json", dict(added))
