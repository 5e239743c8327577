"""Look-up circuits in the initial weights, and the drill that sharpens them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from creditdecoding.models.transformer import Transformer, rope_table, rotate
from creditdecoding.train.initial import OFFSETS, lookup_drill
from tests.train.conftest import MakeRun


def test_a_drill_can_be_looked_up() -> None:
    """Each answer token but the first of a piece follows, somewhere in the prompt, the token before
    it.
    """
    batch = lookup_drill(50, range(6, 400), random.Random(0))
    hits = pairs_in_answers = 0
    lengths = zip(batch.prompt_lengths.tolist(), batch.answer_lengths.tolist())
    for row, (prompt_length, answer_length) in zip(batch.tokens.tolist(), lengths):
        prompt = row[:prompt_length]
        answer = row[prompt_length : prompt_length + answer_length]
        padding = row[prompt_length + answer_length :]
        assert set(answer) <= set(prompt) and set(padding) <= {6}
        pairs = set(itertools.pairwise(prompt))
        hits += sum(pair in pairs for pair in itertools.pairwise(answer))
        pairs_in_answers += answer_length - 1
    assert 0.65 < hits / pairs_in_answers < 0.85


@pytest.mark.parametrize("induction", [True, False])
def test_heads_of_the_first_layer_look_back(
    induction: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    """At the start of a run, two heads of layer 0 look one position back and one looks two."""
    sizes = {"hidden_size": 192, "num_heads": 6, "num_layers": 2}
    model = make_run(tmp_path / "run", induction=induction, **sizes).model
    weights = first_attention(model, heads=6)
    for head, offset in enumerate(OFFSETS):
        share = weights[:, head].diagonal(-offset, 1, 2)[:, 3:].mean()
        assert (share > 0.4) == induction, (head, share)


def first_attention(model: Transformer, heads: int) -> torch.Tensor:
    """Attention weights of layer 0 on random tokens [rows, heads, queries, keys]."""
    tokens = torch.randint(6, 300, (4, 60), generator=torch.Generator().manual_seed(0))
    layer = model.layers[0]
    hidden = layer.attn_norm(model.embed(tokens))
    cos, sin = rope_table(torch.arange(60), 32, model.config.rope_theta)
    queries, keys = (
        rotate(projection(hidden).view(4, 60, heads, 32).transpose(1, 2), cos, sin)
        for projection in (layer.q, layer.k)
    )
    return (queries @ keys.transpose(-1, -2) / 32**0.5).softmax(-1)
