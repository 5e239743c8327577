"""The tokenizer of a tokenizer.json reads and writes as transformers' own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from creditdecoding.checkpoint import BUNDLED
from creditdecoding.fingerprint import tokenizer_digest
from creditdecoding.text.file_tokenizer import FileTokenizer
from creditdecoding.text.tokenizer import from_backend, read_backend, read_tokenizer
from tools.checkpoints import tiny_tokenizers
from tools.make_checkpoint import make

TEXTS = (*tiny_tokenizers.TEXTS, "", "a  b\n\n c", "<|endoftext|>x", "e\u0301 日本𐍈")


def rules(backend: Any) -> dict[str, Any]:
    """What tokenizes, without what is put around a text."""
    parts: dict[str, Any] = json.loads(backend.backend_tokenizer.to_str())
    return {name: part for name, part in parts.items() if name != "post_processor"}


@pytest.fixture(scope="module", params=["pocket", "llada", "sdar", "llada2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "pocket":
        return BUNDLED["pocket"]
    return make(request.param, tmp_path_factory.mktemp("checkpoint"))


def test_it_is_what_transformers_reads(folder: Path) -> None:
    ours = read_backend(folder)
    assert isinstance(ours, FileTokenizer)
    of_transformers = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    of_transformers.add_special_tokens(ours.special_tokens_map)
    assert ours.get_vocab() == of_transformers.get_vocab()
    assert len(ours) == len(of_transformers)
    for role in ("bos_token", "eos_token", "bos_token_id", "eos_token_id", "mask_token_id"):
        assert getattr(ours, role) == getattr(of_transformers, role)
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False)
        assert ids == of_transformers.encode(text, add_special_tokens=False)
        for skip in (False, True):
            assert ours.decode(ids, skip) == of_transformers.decode(ids, skip_special_tokens=skip)


def test_it_becomes_a_transformers_tokenizer(folder: Path) -> None:
    ours = read_backend(folder)
    of_transformers = ours.to_transformers()
    assert rules(of_transformers) == rules(ours)
    assert of_transformers.get_added_vocab() == ours.get_added_vocab()
    assert of_transformers.special_tokens_map == ours.special_tokens_map
    assert sorted(of_transformers.all_special_ids) == sorted(ours.all_special_ids)
    assert of_transformers.chat_template == ours.chat_template
    messages = [{"role": "user", "content": "Hi <|endoftext|>"}]
    tokenizer = read_tokenizer(folder)
    other = from_backend(of_transformers, tokenizer.mask_id)
    assert other.encode_chat(messages) == tokenizer.encode_chat(messages)
    assert tokenizer_digest(other) == tokenizer_digest(tokenizer)


def test_a_copy_is_independent() -> None:
    backend = read_backend(BUNDLED["pocket"])
    other = copy.deepcopy(backend)
    other.add_special_tokens({"pad_token": "<new>"})
    assert "<new>" in other.get_vocab()
    assert "<new>" not in backend.get_vocab()
    assert backend.special_tokens_map["pad_token"] != "<new>"
