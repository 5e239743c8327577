"""Bases and the id of their mask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from creditdecoding.errors import CheckpointError
from creditdecoding.train.bases import read_base
from tests.helpers.tiny_bases import SPECIAL, write_base
from tools.make_checkpoint import make

SPARE = 303  # the last special token, which nothing uses
ROWS = len(SPECIAL) + 300


def test_a_row_without_a_token_gets_one(tmp_path: Path) -> None:
    base = read_base(str(write_base(tmp_path)), 8)
    assert base.added_mask
    assert base.tokenizer.mask_id == ROWS
    assert base.tokenizer.token_text(ROWS) == "<|mask|>"
    assert base.config.causal_block == 8


def test_a_full_table_gives_an_unused_special_token(tmp_path: Path) -> None:
    base = read_base(str(write_base(tmp_path, vocab_size=ROWS)), 8)
    assert not base.added_mask
    assert base.tokenizer.mask_id == SPARE
    assert base.end_of_turn == 302


def test_no_free_id_is_one_line(tmp_path: Path) -> None:
    write_base(tmp_path, vocab_size=ROWS)
    file = tmp_path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["id"] != SPARE
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="no free id for the mask"):
        read_base(str(tmp_path), 8)


def test_a_diffusion_model_is_no_base(tmp_path: Path) -> None:
    make("llada", tmp_path)
    with pytest.raises(CheckpointError, match="diffusion model, not an autoregressive one"):
        read_base(str(tmp_path), 8)
