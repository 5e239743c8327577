"""Bases as autoregressive models, held against transformers' own classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM, load_base
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models import BASES, load_model
from creditdecoding.models.autoregressive import (
    NextToken,
    causal_logits,
    choose,
    log_likelihoods,
    sample,
)
from creditdecoding.models.transformer import Transformer
from tests.helpers.tiny_bases import CLASSES, write_base
from tools.make_checkpoint import make

FLOAT32 = EngineConfig(dtype="float32", device="cpu")
ROWS = [[5, 17, 200, 3, 44], [9, 8, 7], [250]]


@pytest.fixture(scope="module", params=CLASSES)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Any]:
    """Our network and transformers' with the same weights."""
    folder = write_base(tmp_path_factory.mktemp("base"), request.param)
    reference = CLASSES[request.param][1].from_pretrained(folder, dtype=torch.float32)
    return load_model(folder, FLOAT32, families=BASES), reference


@torch.no_grad()
def test_logits_are_those_of_transformers(pair: tuple[Transformer, Any]) -> None:
    ours, reference = pair
    tokens = torch.tensor([ROWS[0], ROWS[0][::-1]])
    torch.testing.assert_close(
        causal_logits(ours, tokens), reference(tokens).logits, rtol=1e-4, atol=1e-5
    )


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
"""The scaled rotary embedding of Llama 3.1: of the eight planes of a head some turn as before, some
are slowed and some are between.
"""


@pytest.mark.parametrize("written_by", ["transformers 5", "transformers 4"])
@torch.no_grad()
def test_logits_of_llama_3_are_those_of_transformers(written_by: str, tmp_path: Path) -> None:
    theta = 500.0
    folder = write_base(tmp_path, hidden_size=64, rope_parameters={**LLAMA3, "rope_theta": theta})
    tokens = torch.randint(0, 300, (2, 100), generator=torch.Generator().manual_seed(0))
    reference = CLASSES["llama"][1].from_pretrained(folder, dtype=torch.float32)
    expected = reference(tokens).logits
    if written_by == "transformers 4":
        raw = json.loads((folder / "config.json").read_text())
        raw |= {"rope_parameters": None, "rope_scaling": LLAMA3, "rope_theta": theta}
        (folder / "config.json").write_text(json.dumps(raw))
    ours = load_model(folder, FLOAT32, families=BASES)
    # At a hundred positions float32 angles differ by 4e-6, with and without scaling.
    torch.testing.assert_close(causal_logits(ours, tokens), expected, rtol=1e-4, atol=2e-4)
    ours.config = dataclasses.replace(ours.config, rope_scaling=None)
    unscaled = causal_logits(ours, tokens)
    assert (unscaled - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": None}, "lacks factor"),
        ({"factor": 0}, "factor makes no sense"),
        ({"low_freq_factor": 4.0}, "high_freq_factor makes no sense"),
        ({"rope_type": "yarn"}, "not implemented"),
        ({"attention_factor": 2.0}, "attention_factor is not implemented"),
    ],
)
def test_other_scales_of_the_rotary_embedding_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_base(tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"rope_parameters": None, "rope_scaling": {**LLAMA3, **change}, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder, FLOAT32, families=BASES)
    assert caught.value.hint and len(str(caught.value).splitlines()) == 1


@torch.no_grad()
def test_log_likelihoods_of_uneven_rows(pair: tuple[Transformer, Any]) -> None:
    ours, reference = pair
    starts = [2, 1, 1]
    for row, start, scores in zip(ROWS, starts, log_likelihoods(ours, ROWS, starts)):
        log_probs = reference(torch.tensor([row])).logits[0].log_softmax(-1)
        expected = log_probs[range(start - 1, len(row) - 1), row[start:]]
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_greedy_batch_is_what_transformers_writes(pair: tuple[Transformer, Any]) -> None:
    ours, reference = pair
    expected = []
    for row in ROWS:
        ids = torch.tensor([row])
        options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
        written = reference.generate(ids, attention_mask=torch.ones_like(ids), **options)
        expected.append(written[0, len(row) :].tolist())
    assert sample(ours, ROWS, 12) == expected
    stop = expected[0][4]
    stopped = [row[: row.index(stop) + 1] if stop in row else row for row in expected]
    assert sample(ours, ROWS, 12, {stop}) == stopped


def test_a_row_ends_at_the_longest_text_of_the_model(pair: tuple[Transformer, Any]) -> None:
    ours, _ = pair
    full, nearly = [1] * 128, [1] * 126
    assert [len(row) for row in sample(ours, [full, nearly], 9)] == [0, 2]


def test_samples_follow_temperature_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(4000, 3)
    generator = torch.Generator().manual_seed(0)
    shares = choose(logits, NextToken(1.0), generator).bincount(minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.03)
    nucleus = choose(logits, NextToken(1.0, top_p=0.6), generator).bincount(minlength=3) / 4000
    torch.testing.assert_close(nucleus, torch.tensor([5 / 8, 3 / 8, 0.0]), rtol=0, atol=0.03)
    assert choose(logits[:2], NextToken(), None).tolist() == [0, 0]


def test_a_base_is_no_diffusion_model_and_the_other_way_round(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a diffusion model.*credit adapt"):
        load_model(write_base(tmp_path / "base"), FLOAT32)
    with pytest.raises(CheckpointError, match="not an autoregressive one"):
        load_model(make("fast_dllm", tmp_path / "dllm"), FLOAT32, families=BASES)


@pytest.mark.parametrize("change", [{"attention_bias": True}, {"mlp_bias": True}])
def test_a_llama_that_is_not_implemented_is_refused(tmp_path: Path, change: Any) -> None:
    with pytest.raises(CheckpointError, match="_bias is not implemented"):
        load_model(write_base(tmp_path, **change), FLOAT32, families=BASES)


def test_a_base_is_named_without_the_path_of_this_machine(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "mine")
    model = load_model(folder, FLOAT32, families=BASES)
    tokenizer = load_base(str(folder), FLOAT32).tokenizer
    snapshot = tmp_path / "hub" / "models--some--base" / "snapshots" / "0123abcd"
    assert AutoregressiveLM(folder, model, tokenizer).name == "mine"
    assert AutoregressiveLM(snapshot, model, tokenizer).name == "some/base"
