"""Logits whose ids are spread over two processes, against the same logits in one tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from creditdecoding.decoders import create
from creditdecoding.integrations.blocks import (
    BlockRound,
    ReservedIds,
    SamplingParams,
    new_blocks,
)
from creditdecoding.ops.head_logits import gather_logits, mass_of
from creditdecoding.ops.logit_walks import top_of, weighted_gaps
from creditdecoding.ops.sharded_logits import ShardedLogits
from creditdecoding.train.parallel import join_group, peer_processes

ROWS, LENGTH, VOCAB, MASK = 3, 6, 41, 2
WIDTH = 24
"""Ids of a process: the second one has padding."""
RESERVED = ReservedIds(MASK, (5, 30))
RULES = ("threshold", "credit", "thrift", "entropy", "klass", "edit")


def logits_of(step: int) -> Tensor:
    logits = 3 * torch.randn(ROWS * LENGTH, VOCAB, generator=torch.Generator().manual_seed(step))
    logits[0, 7] = logits[0, 33] = 20.0  # equal maxima, one in each process
    return logits


def shard_of(logits: Tensor, rank: int) -> ShardedLogits:
    padded = torch.nn.functional.pad(logits, (0, 2 * WIDTH - VOCAB), value=99.0)
    own = padded[:, rank * WIDTH : (rank + 1) * WIDTH].clone()
    return ShardedLogits.of_shard(own, VOCAB)


def decode(rule: str, sampling: SamplingParams, rank: int | None) -> list[list[int]]:
    """The tokens after each step; of whole logits, or of a process's shard."""
    tokens = torch.full((ROWS, LENGTH), MASK)
    in_prompt = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    blocks = new_blocks(~in_prompt, in_prompt, ["a", "b", "c"], [sampling] * ROWS, [1, 2, 3])
    positions = torch.arange(LENGTH).expand(ROWS, -1)
    several = BlockRound(create(rule), RESERVED, blocks)
    seen = []
    for step in range(LENGTH + 1):
        logits = logits_of(step)
        several.step(logits if rank is None else shard_of(logits, rank), tokens, positions)
        seen.append(tokens.flatten().tolist())
    return seen


def ask_everything(rank: int) -> None:
    """Every question, in the same order in both processes; each compares with the whole."""
    whole = logits_of(0)
    sharded = shard_of(whole, rank)
    for ours, plain in zip(mass_of(sharded), mass_of(whole)):
        torch.testing.assert_close(ours, plain)
    assert int(mass_of(sharded)[0][0]) == 7
    lines = torch.tensor([0, 4])
    ids = torch.tensor([[33, 7, 40], [0, 23, 24]])
    assert torch.equal(gather_logits(sharded, lines, ids), gather_logits(whole, lines, ids))
    assert torch.equal(sharded[lines], whole[lines])
    assert torch.equal(top_of(sharded, 1)[0], top_of(whole, 1)[0])
    peaks = whole.amax(-1)
    torch.testing.assert_close(weighted_gaps(sharded, peaks), weighted_gaps(whole, peaks))
    drawn = SamplingParams(temperature=0.8)
    restricted = SamplingParams(temperature=0.8, top_k=9)
    for rule in RULES:
        for sampling in (SamplingParams(), drawn, restricted):
            assert decode(rule, sampling, rank) == decode(rule, sampling, None), (rule, sampling)


def run_peer(rank: int, world: int, store_file: Path, failed: Path) -> None:
    join_group(rank, world, store_file)
    try:
        ask_everything(rank)
    except BaseException as error:
        failed.write_text(repr(error))
        raise


@pytest.mark.slow
def test_two_processes_decide_as_one_with_all_logits(tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    with peer_processes(2, tmp_path / "store", run_peer, failed):
        ask_everything(0)
    assert not failed.exists(), failed.read_text()
