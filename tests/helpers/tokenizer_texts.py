"""Texts for tests of tokenizers, and tokenizers with other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from creditdecoding.text.tokenizer import Tokenizer
from tools.make_checkpoint import SPECIAL, write_json


def plain(text: str) -> bool:
    """Whether no special token is written out in a text (those are ids of their own, and left out
    of an answer's text).
    """
    return not any(special in text for special in SPECIAL)


# Everything that can be encoded as UTF-8, and text full of fragments of special tokens.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(plain)
FRAGMENTS = ("<|", "|>", "eot_id", "mask", "[MASK]", " ", "\n", "7", "é", "𐍈", "the ", "\t", "000")
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join).filter(plain)
FAST = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def altered(folder: Path, to: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """A copy of the tokenizer with another tokenizer_config.json, and of config.json."""
    for file in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
    ):
        (to / file).write_bytes((folder / file).read_bytes())
    raw = {**json.loads((to / "tokenizer_config.json").read_text()), **changes}
    write_json(
        to / "tokenizer_config.json",
        {name: value for name, value in raw.items() if name not in drop},
    )
    return to


def set_config(folder: Path, **changes: Any) -> None:
    """Change config.json; None removes."""
    raw = {**json.loads((folder / "config.json").read_text()), **changes}
    write_json(
        folder / "config.json", {name: value for name, value in raw.items() if value is not None}
    )


def specials(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The special tokens among ids, by name."""
    known = tokenizer.backend.added_tokens_decoder
    return [known[i].content for i in ids if i in known and known[i].special]


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text of ids with the special tokens."""
    return "".join(tokenizer.token_text(i) for i in ids)


def user(content: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": content}


ONE = (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
SEVERAL = (
    "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA1\n\n  A2<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '\n' + m['content'] "
    "+ '<|end_header_id|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant\n' }}{% endif %}"
)
