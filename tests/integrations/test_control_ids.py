"""Control tokens of a checkpoint, such as LLaDA2.2's DELETE and SPLIT, are never written by callers
that have a network and no tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn

from creditdecoding.integrations import llada_generate
from creditdecoding.integrations.dinfer import ParallelDecoder
from creditdecoding.integrations.external_model import wrap
from creditdecoding.integrations.transformers import generate

MASK, DELETE, SPLIT, SIZE = 3, 9, 11, 20
PROMPT = torch.tensor([[4, 5]])
OPTIONS: dict[str, Any] = {"mask_id": MASK, "gen_length": 4, "steps": 4}


def wants_control_tokens(ids: Tensor) -> Tensor:
    """A network that prefers DELETE, then SPLIT, then 7."""
    logits = torch.zeros(*ids.shape, SIZE)
    logits[..., DELETE], logits[..., SPLIT], logits[..., 7] = 9.0, 8.0, 7.0
    return logits


class Network(nn.Module):
    """The same with a config."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK, **config)

    def forward(self, ids: Tensor) -> Tensor:
        return wants_control_tokens(ids)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder whose tokenizer has a control token."""
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    words = {f"w{i}": i for i in range(SIZE) if i not in (MASK, DELETE)}
    words |= {"<|mask|>": MASK, "<|delete|>": DELETE}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<|mask|>"}))
    return str(folder)


def llada_answer(model: Any, **options: Any) -> set[int]:
    ids = llada_generate.generate(model, PROMPT, **OPTIONS, **options)
    return set(ids[0, 2:].tolist())


def test_llada_generate_takes_control_ids() -> None:
    assert llada_answer(wants_control_tokens) == {DELETE}
    assert llada_answer(wants_control_tokens, control_ids=(DELETE,)) == {SPLIT}
    assert llada_answer(wants_control_tokens, control_ids=(DELETE, SPLIT)) == {7}


def test_a_config_and_a_checkpoints_files_name_control_tokens(checkpoint: str) -> None:
    assert llada_answer(Network(delete_token_id=DELETE)) == {SPLIT}
    assert llada_answer(Network(delete_token_id=DELETE, split_token_id=SPLIT)) == {7}
    assert llada_answer(Network(_name_or_path=checkpoint)) == {SPLIT}
    assert llada_answer(Network(_name_or_path="no/such-checkpoint")) == {DELETE}


def test_wrap_and_transformers_generate_leave_them_out(checkpoint: str) -> None:
    network = Network(_name_or_path=checkpoint, split_token_id=SPLIT)
    assert wrap(network).vocab.control_ids == (DELETE, SPLIT)
    function = wrap(wants_control_tokens, mask_token_id=MASK, control_token_ids=[SPLIT])
    assert function.vocab.control_ids == (SPLIT,)
    answer = generate(PROMPT, model=network, max_new_tokens=4)[0, 2:]
    assert set(answer.tolist()) == {7}


def test_dinfers_decoder_takes_control_ids() -> None:
    for control_ids, written in (((), DELETE), ((DELETE,), SPLIT), ((DELETE, SPLIT), 7)):
        x = torch.tensor([[4, 5, MASK, MASK]])
        decoder = ParallelDecoder("fixed:k=2", mask_id=MASK, control_ids=control_ids)
        decoder.decode(wants_control_tokens(x)[:, 2:], 2, 4, x)
        assert x[0, 2:].tolist() == [written] * 2
