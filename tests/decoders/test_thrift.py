"""`thrift` by hand, and what looking ahead means for the loop: blocks that are passed over, caches,
batches, models with blocks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders.base import Block, from_logits
from creditdecoding.decoders.thrift import Thrift
from creditdecoding.lm import LM
from tools.make_checkpoint import make


def seen(
    confidence: list[float],
    masked: list[bool] | None = None,
    behind: int | None = None,
    **knobs: float,
) -> str:
    """What the rule at threshold 0.9 commits (x) at these confidences; the next block begins at
    `behind`.
    """
    c = torch.tensor([confidence], dtype=torch.float64)
    logits = torch.stack((c, (1 - c) / 2, (1 - c) / 2), dim=-1).log().float()
    where = torch.tensor([masked if masked is not None else [True] * len(confidence)])
    later = None if behind is None else torch.arange(len(confidence))[None] >= behind
    block = Block(
        torch.zeros_like(where, dtype=torch.long),
        where,
        where,
        where.sum(-1),
        torch.zeros(1, dtype=torch.long),
        later,
    )
    settings = {"threshold": 0.9, "near": 0.0, "gap": 0.0, "tail": 0.0, **knobs}
    rule = Thrift(
        **{
            "radius": 1,
            **{
                name: value if name == "radius" else float(value)
                for name, value in settings.items()
            },
        }
    )  # type: ignore[arg-type]
    decision, _ = rule.step(from_logits(logits, where), block, {})
    return "".join("x" if commit else "." for commit in decision.commit[0].tolist())


def test_each_part_by_hand() -> None:
    """With unit 0.1: near 2 allows 0.8, gap 3 allows 0.7, tail 3 allows 0.3 in all."""
    c = [0.95, 0.81, 0.81, 0.5, 0.5]
    assert (
        seen(c) == "x...."
        and seen(c, near=2) == "xx..."
        and seen(c, near=2, radius=2) == "xxx.."
        and seen(c, near=1.8) == "x...."
    )
    c = [0.75, 0.71, 0.2, 0.4, 0.72]
    assert seen(c) == "x...." and seen(c, gap=3) == "x...."  # one run
    assert (
        seen(c, [True, True, False, True, True], gap=3) == "x...x"
        and seen(c, [True, True, False, True, True], gap=2.6) == "x...."
    )
    c = [0.95, 0.92, 0.88, 0.85]
    assert seen(c) == "xx.." and seen(c, tail=2.8) == "xxxx" and seen(c, tail=2.6) == "xx.."
    assert seen([0.4, 0.5, 0.3]) == ".x."  # the best, always


def test_the_parts_together() -> None:
    """What leaps and splits is not counted against what ends the block."""
    c = [0.95, 0.81, 0.85, 0.2, 0.72, 0.89]
    masked = [True, True, True, False, True, True]
    assert seen(c, masked, near=2, gap=1) == "xx...." and seen(c, masked, near=2, gap=2) == "xx...x"
    assert (
        seen(c, masked, near=2, gap=2, tail=4.4) == "xxx.xx"
        and seen(c, masked, near=2, gap=2, tail=4.2) == "xx...x"
    )


def test_it_looks_ahead_only_from_a_block_that_ends_and_takes_no_risk_there() -> None:
    assert seen([0.95, 0.92, 0.6, 0.95, 0.5], behind=3, tail=3) == "xx..."
    assert seen([0.95, 0.92, 0.8, 0.95, 0.89], behind=3, tail=3, near=2, gap=3) == "xxxx."
    assert seen([0.3, 0.92, 0.8, 0.95, 0.89], [True, False, False, True, True], behind=1) == "x..x."
    assert (
        seen([0.3, 0.95, 0.82], behind=1, near=3) == "xx."
    )  # a sure token of the next block is no anchor


def test_without_its_budgets_it_is_threshold() -> None:
    lm, prompts = (
        load("pocket", threads=1),
        ["Solve 3x+4=19 for x.", "What is the capital of Peru and the language of Japan?"],
    )
    plain = lm.generate(prompts, decoder="threshold:threshold=0.95")
    ours = lm.generate(prompts, decoder="thrift:threshold=0.95,near=1,gap=0,tail=0,ahead=false")
    assert [[step.committed for step in done.trace.steps] for done in plain] == [
        [step.committed for step in done.trace.steps] for done in ours
    ]


@pytest.fixture(scope="module")
def lm() -> LM:
    """The first embedded model, which is less sure of its answers."""
    return load("pocket-v1", EngineConfig(threads=1))


PROMPTS = [
    "Solve 3x+4=19 for x.",
    "What is the capital of Peru and the language of Japan?",
    "Tom has 6 apples. Tom finds 5 more. How many?",
]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "every:n=3", "vicinity:w=4"])
def test_a_row_gets_in_a_batch_what_it_gets_alone(lm: LM, cache: str) -> None:
    config = GenerationConfig(
        decoder="thrift:threshold=0.9", cache=cache, block_length=8, gen_length=40
    )
    others = dataclasses.replace(config, decoder="threshold", block_length=32)
    rows = [
        *lm.new_requests(PROMPTS, config),
        *(
            dataclasses.replace(row, index=row.index + 3)
            for row in lm.new_requests(PROMPTS, others)
        ),
    ]
    together = lm.collect(rows)
    alone = [lm.collect([dataclasses.replace(row, index=0)])[0] for row in rows]
    assert [done.trace.tokens for done in together] == [done.trace.tokens for done in alone]
    assert [done.nfe for done in together] == [done.nfe for done in alone]


@pytest.mark.parametrize(
    "cache", ["none", "prefix", "dual", "every:n=2", "vicinity:w=4", "vicinity:w=8"]
)
def test_the_next_block_is_seen_where_the_pass_computes_it(lm: LM, cache: str) -> None:
    config = GenerationConfig(
        decoder="thrift:threshold=0.99", cache=cache, block_length=8, gen_length=40
    )
    rows = lm.new_requests(PROMPTS, config)
    steps = [
        (step.step, max(step.positions) >= row.blocks[step.block][1])
        for row, done in zip(rows, lm.collect(rows))
        for step in done.trace.steps
        if step.block + 1 < len(row.blocks)
    ]
    later = {
        "none": True,
        "prefix": True,
        "vicinity:w=8": True,
        "dual": False,
        "vicinity:w=4": False,
    }
    for number, looked in steps:
        assert looked == (number % 2 == 0 if cache == "every:n=2" else number == 0 or later[cache])
    assert len({number for number, _ in steps}) > 2


def test_blocks_that_are_written_already_are_passed_over(lm: LM) -> None:
    config = GenerationConfig(
        decoder="thrift:threshold=0", block_length=4, gen_length=40, early_stop=False
    )
    done = lm.generate(PROMPTS[0], config)
    assert [step.block for step in done.trace.steps] == [0, 2, 4, 6, 8] and len(
        done.trace.written
    ) == 40
    assert done.trace.steps[2].step == 0


def test_a_block_causal_model_is_looked_ahead_in_inside_its_blocks_only(tmp_path: Path) -> None:
    lm = load(str(make("sdar", tmp_path)), EngineConfig(threads=1))
    grid = lm.geometry.causal_block
    assert grid is not None and grid % 2 == 0

    def run(block: int) -> list[Tensor]:
        rows = lm.new_requests(
            ["a b c", "b"],
            GenerationConfig(
                decoder="thrift:threshold=0",
                block_length=block,
                gen_length=3 * grid,
                early_stop=False,
            ),
        )
        traces = [done.trace for done in lm.collect(rows)]
        assert all(len(trace.written) == 3 * grid for trace in traces)
        for trace in traces:
            for step in trace.steps:
                assert len({p // grid for p in step.positions}) == 1
        return [torch.tensor(trace.nfe) for trace in traces]

    assert max(run(grid)) <= 4 and max(run(grid // 2)) <= 4
