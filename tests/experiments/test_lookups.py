"""Practice in looking things up, and the layers with look-up heads."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.models.transformer import Layer, Transformer
from creditdecoding.tasks.base import Item
from creditdecoding.tasks.synthetic.words import PEOPLE
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.objective import MaskedBatch
from experiments import lookup_heads, lookups

KINDS = {"retold", "pairs", "row"}


def drawn(count: int) -> list[Item]:
    rng = random.Random(0)
    return [lookups.TASK.make(rng) for _ in range(count)]


def test_reference_answers_are_right_and_others_are_not() -> None:
    items = drawn(300)
    assert {item.key[0] for item in items} == KINDS
    for item in items:
        assert lookups.TASK.score(item.answer, item), item
        assert not lookups.TASK.score("Answer: nothing of the kind", item), item


def test_counts_are_those_of_the_text_in_another_order() -> None:
    retold = [item for item in drawn(200) if item.key[0] == "retold"]
    for item in retold:
        facts = item.answer.partition(" Answer:")[0].removesuffix(".").split(". ")
        places = [item.prompt.index(fact) for fact in facts]
        assert places != sorted(places)


@functools.cache
def _models() -> tuple[Transformer, Transformer, Tokenizer]:
    """The embedded model, the same with two more layers, and their tokenizer."""
    lm = load("pocket", device="cpu", dtype="float32")
    return lm.model, lookup_heads.with_lookup_heads(lm.model, lm.tokenizer), lm.tokenizer


@torch.no_grad()
def _attention(model: Transformer, number: int, batch: MaskedBatch) -> Tensor:
    """What the heads of a layer attend to [rows, heads, length, length]."""
    read: list[tuple[Tensor, ...]] = []
    layer = model.layers[number]
    hook = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs))
    model.hidden_states(batch.tokens, batch.attention_mask, batch.positions)
    hook.remove()
    states, cos, sin, mask = read[0][:4]
    assert isinstance(layer, Layer)
    normal = layer.attn_norm(states)
    keys, _ = layer.keys_and_values(normal, cos, sin)
    queries = layer.queries_of(normal, cos, sin)
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.masked_fill(~mask.reshape(len(mask), 1, *mask.shape[-2:]), -1e9).softmax(-1)


@pytest.mark.slow
def test_the_first_new_layer_looks_three_and_four_tokens_back() -> None:
    _, grown, tokenizer = _models()
    for batch in lookup_heads.sample_rows(tokenizer, rounds=1):
        assert batch.positions is not None
        rows, columns = batch.loss_positions
        attention = _attention(grown, 1, batch)
        for head, offset in enumerate(lookup_heads.OFFSETS):
            before = batch.positions[rows, columns] - offset
            assert attention[rows, head, columns, before].mean() > 0.9


@pytest.mark.slow
def test_the_second_finds_the_number_that_belongs_to_the_name() -> None:
    model, grown, tokenizer = _models()
    people = {i for i in range(tokenizer.size) if tokenizer.decode([i]).strip() in PEOPLE}
    digits = {tokenizer.encode(digit)[-1] for digit in "0123456789"}
    masses = []
    match_at = lookup_heads.match_position(len(model.layers))
    for batch in lookup_heads.sample_rows(tokenizer, rounds=1):
        assert batch.positions is not None
        attention = _attention(grown, match_at, batch)
        for row, column, target in zip(*batch.loss_positions, batch.target):
            position = int(batch.positions[row, column])
            name = int(batch.tokens[row, position - 3])
            if name not in people or int(target) not in digits:
                continue
            spelt = tokenizer.decode([name]).strip()
            places = [
                number_column
                for number_column in range(3, position)
                if tokenizer.decode([int(batch.tokens[row, number_column - 3])]).strip() == spelt
            ]
            masses.append(float(attention[row, 0, column, places].sum()))
    assert len(masses) > 30 and sum(masses) / len(masses) > 0.4


@pytest.mark.slow
@torch.no_grad()
def test_the_model_says_nearly_what_it_said() -> None:
    model, grown, tokenizer = _models()
    assert len(grown.layers) == len(model.layers) + 2
    equal = []
    for batch in lookup_heads.sample_rows(tokenizer, rounds=1):
        rows, columns = batch.loss_positions
        predictions = [
            one.logits(
                one.hidden_states(batch.tokens, batch.attention_mask, batch.positions)[
                    rows, columns
                ]
            ).argmax(-1)
            for one in (model, grown)
        ]
        equal.append((predictions[0] == predictions[1]).float().mean())
    assert sum(equal) / len(equal) > 0.8
