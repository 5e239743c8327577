"""Masking: what is masked, what each position sees, and what the loss weighs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from creditdecoding.train.objective import TrainingBatch, mask_block, mask_uniform, two_stream
from tests.train.conftest import MakeRun

MASK = 2
LENGTH = 96


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["uniform", "blockwise", "ordered"])
def test_prompts_stay_and_targets_are_what_was_masked(name: str, batch: TrainingBatch) -> None:
    if name == "uniform":
        masked = mask_uniform(batch, MASK, seeded(1))
    else:
        masked = mask_block(batch, MASK, seeded(1), ordered=name == "ordered")
    is_prompt = torch.arange(LENGTH)[None] < batch.prompt_lengths[:, None]
    assert torch.equal(masked.tokens[is_prompt], batch.tokens[is_prompt])
    assert (masked.tokens[masked.loss_positions] == MASK).all()
    assert torch.equal(masked.target, batch.tokens[masked.loss_positions])
    changed = masked.tokens != batch.tokens
    assert (masked.tokens[changed] == MASK).all()


def test_uniform_weights_are_the_inverse_ratio(batch: TrainingBatch) -> None:
    """The weights of a row add up to its answer length on average, whatever the ratio."""
    sums = [float(mask_uniform(batch, MASK, seeded(seed)).weight.sum()) for seed in range(200)]
    lengths = float((LENGTH - batch.prompt_lengths).sum())
    assert sum(sums) / len(sums) == pytest.approx(lengths, rel=0.02)


def test_block_masking_leaves_what_is_before_and_hides_what_is_after(batch: TrainingBatch) -> None:
    masked = mask_block(batch, MASK, seeded(3), ordered=False)
    rows, columns = masked.loss_positions
    for row in range(len(batch.tokens)):
        in_loss = columns[rows == row].tolist()
        if in_loss:
            masks = (masked.tokens[row] == MASK).nonzero()[:, 0]
            assert int(masks.min()) >= int(batch.prompt_lengths[row])
            assert max(in_loss) - min(in_loss) < 64
            assert (masked.tokens[row, min(in_loss) + 64 :] == MASK).all()


@pytest.mark.parametrize("block", [1, 4])
def test_two_stream_sees_no_future(block: int, batch: TrainingBatch) -> None:
    """A noisy query sees the prompt, clean blocks before its own, and its own noisy block; never
    its own clean copy.
    """
    width = 40
    masked = two_stream(batch, MASK, block, width, seeded(4))
    assert masked.attention_mask is not None and masked.positions is not None
    rows, columns = (index.tolist() for index in masked.loss_positions)
    for row, column in list(zip(rows, columns))[:200]:
        start = int(batch.prompt_lengths[row])
        own_block = (int(masked.positions[row, column]) - start) // block
        keys = masked.attention_mask[row, column].nonzero()[:, 0].tolist()
        clean = [key for key in keys if key < LENGTH]
        noisy = [int(masked.positions[row, key]) for key in keys if key >= LENGTH]
        assert clean == list(range(start + own_block * block))
        assert {(position - start) // block for position in noisy} == {own_block}
        assert len(noisy) == min(block, width - own_block * block)


def test_two_stream_next_token_equals_a_prefix_followed_by_one_mask(
    batch: TrainingBatch, make_run: MakeRun, tmp_path: Path
) -> None:
    """At block length 1 the loss position sees what a row [prefix, mask] sees, if the clean prefix
    is causal.
    """
    model = make_run(tmp_path / "run").model
    masked = two_stream(batch, MASK, 1, 40, seeded(5))
    assert masked.positions is not None
    rows, columns = masked.loss_positions
    with torch.no_grad():
        hidden = model.hidden_states(masked.tokens, masked.attention_mask, masked.positions)
        logits = model.logits(hidden[rows, columns])
        for n in (0, 100, 700):
            row = int(rows[n])
            position = int(masked.positions[row, columns[n]])
            prompt_length = int(batch.prompt_lengths[row])
            tokens = torch.cat((batch.tokens[row, :position], torch.tensor([MASK])))[None]
            order = torch.arange(position + 1)
            is_prompt = order < prompt_length
            causal = order[None] <= order[:, None]
            mask = (causal | (is_prompt[None] & is_prompt[:, None]))[None]
            last = (torch.tensor([0]), torch.tensor([position]))
            assert torch.allclose(logits[n], model(tokens, last, mask)[0], atol=1e-4)
