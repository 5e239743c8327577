"""Two noisy copies beside a clean row compute what decoding computes block by block."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.config import ModelConfig
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.train.complementary import (
    AdaptBatch,
    complementary_masks,
    complementary_streams,
)
from creditdecoding.train.objective import TrainingBatch

BLOCK = 4
MASK = 60
WIDTH = 20
LENGTH = 32


@pytest.fixture
def model() -> Transformer:
    config = ModelConfig(
        family="fast_dllm",
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        embedding_rows=64,
        max_length=64,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        rope_full_precision=False,
        mask_token_id=MASK,
        stop_token_ids=(1,),
        pad_token_id=1,
        logit_shift=True,
        causal_block=BLOCK,
    )
    model = Transformer(config, "math")
    init_weights(model, torch.Generator().manual_seed(0))
    for weight in model.parameters():
        weight.data *= 3  # sharp attention, so that a wrong key shows
    return model


@pytest.fixture
def rows() -> TrainingBatch:
    """Prompts that end inside a block, at its end and at its start."""
    tokens = torch.randint(2, 50, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    prompts = torch.tensor([5, 8, 11, 2])
    answers = torch.tensor([13, 12, 9, 3])
    tokens[torch.arange(LENGTH) >= (prompts + answers)[:, None]] = 1
    return TrainingBatch(tokens, prompts, answers)


@pytest.fixture
def streams(rows: TrainingBatch) -> AdaptBatch:
    return complementary_streams(rows, MASK, BLOCK, WIDTH, torch.Generator().manual_seed(2))


def two_stream_logits(model: Transformer, batch: AdaptBatch) -> Tensor:
    masked = batch.masked
    hidden = model.hidden_states(masked.tokens, masked.attention_mask, masked.positions)
    return model.logits(hidden[masked.loss_positions])


def decoded_blocks(
    model: Transformer, rows: TrainingBatch, batch: AdaptBatch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits by the forward pass of decoding, one block of one copy at a time, and which losses
    they belong to.
    """
    masked = batch.masked
    for row in range(len(rows.tokens)):
        for copy in range(2):
            first = LENGTH + copy * WIDTH
            for start in range(first, first + WIDTH, BLOCK):
                position = masked.positions[row, start : start + BLOCK]
                noisy = masked.tokens[row, start : start + BLOCK]
                (offset,) = (noisy == MASK).nonzero(as_tuple=True)
                if not len(offset):
                    continue
                canvas = torch.cat((rows.tokens[row, : position[0]], noisy))
                logits = model(canvas[None], (torch.zeros_like(offset), position[0] + offset))
                yield logits, loss_index(batch, row, start, offset)


def loss_index(batch: AdaptBatch, row: int, start: int, offset: Tensor) -> Tensor:
    """Numbers of the losses of the masks `offset` of the noisy block at column `start`.

    Losses are in the order of rows and columns of the masks.
    """
    is_mask = batch.masked.tokens[:, LENGTH:] == MASK
    number = is_mask.flatten().cumsum(0).view_as(is_mask) - 1
    return number[row, start - LENGTH + offset]


def test_two_streams_give_the_logits_of_decoding(
    model: Transformer, rows: TrainingBatch, streams: AdaptBatch
) -> None:
    logits = two_stream_logits(model, streams)
    compared = 0
    for expected, index in decoded_blocks(model, rows, streams):
        torch.testing.assert_close(logits[index], expected, rtol=1e-4, atol=1e-4)
        compared += len(index)
    assert compared == len(logits) > 30


def test_gradients_equal_those_of_one_block_at_a_time(
    model: Transformer, rows: TrainingBatch, streams: AdaptBatch
) -> None:
    target = streams.masked.target
    F.cross_entropy(two_stream_logits(model, streams), target, reduction="sum").backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    for logits, index in decoded_blocks(model, rows, streams):
        F.cross_entropy(logits, target[index], reduction="sum").backward()
    expected = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for ours, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_every_answer_token_is_predicted_once(rows: TrainingBatch, streams: AdaptBatch) -> None:
    is_token = streams.masked.weight == 1
    assert int(is_token.sum()) == int(rows.answer_lengths.sum())
    padding = -(rows.prompt_lengths + rows.answer_lengths) % BLOCK
    assert int((~is_token).sum()) == int(padding.sum())
    assert (streams.masked.target[~is_token] == 1).all()


def test_masks_are_complementary() -> None:
    may_mask = torch.rand(50, 24, generator=torch.Generator().manual_seed(0)) < 0.8
    first, second = complementary_masks(may_mask, 8, torch.Generator().manual_seed(1))
    assert not (first & second).any()
    assert torch.equal(first | second, may_mask)
    whole = (first == may_mask).view(50, 3, 8).all(-1).float().mean()
    assert 0.2 < whole < 0.4


def test_ratio_and_distance_describe_the_block(streams: AdaptBatch) -> None:
    """A hand-made block: distances restart after each clean token."""
    tokens = streams.masked.tokens[:, LENGTH:].view(4, 2, -1, BLOCK) == MASK
    numbers = iter(zip(streams.ratio.tolist(), streams.distance.tolist(), strict=True))
    for block in tokens.flatten(0, 2):
        distance = 0
        for is_mask in block:
            distance = distance + 1 if is_mask else 0
            if is_mask:
                assert next(numbers) == (float(block.float().mean()), distance)
    assert next(numbers, None) is None
