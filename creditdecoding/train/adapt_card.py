"""The model card of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.bases import Base
from creditdecoding.wording import count

LAST = 100
"""Steps whose losses the card averages."""

RATIO_NAMES = ("under 25%", "25 to 50%", "50 to 75%", "75% and more")

CARD = """---
base_model: {base}
library_name: {library}
pipeline_tag: text-generation
tags: [diffusion-language-model, block-diffusion, creditdecoding]
---

# A diffusion language model adapted from {base}

Blocks of {block} tokens are decoded in parallel. {kind} It was made by `credit adapt`.

    credit chat --model FOLDER

| | |
|---|---|
| answer tokens predicted | {tokens:,} |
| steps | {steps:,} |
| seconds of training | {seconds:,.0f} ({processes} of {threads}, {device}) |
| trained parameters | {parameters:,} |
| masked tokens whose likeliest id is right (last {last}) | {right:.1f}% |
| data | {data} |

## Loss (cross-entropy a token, mean of the last {last})

| by the share of masks in the block | |
|---|---|
{by_ratio}

| by the distance from the last clean token | |
|---|---|
{by_distance}

## Held-out answers (threshold 0.9)

{held_out}

It is as limited as its base, whose licence applies, and was measured only as above.
"""


def model_card(
    base: Base,
    config: AdaptConfig,
    data: Mapping[str, float],
    parameters: int,
    records: Sequence[Mapping[str, Any]],
) -> str:
    """The card after the steps of `records`; at least one."""
    end = records[-1]
    last = records[-LAST:]
    kind = f"The adapter has rank {config.rank} and needs its base."
    return CARD.format(
        base=base.name,
        library="peft" if config.rank else "creditdecoding",
        block=config.block_length,
        kind=kind if config.rank else "All weights were trained.",
        tokens=end["tokens"],
        steps=end["step"] + 1,
        seconds=end["seconds"],
        processes=count(config.processes, "process", "processes"),
        threads=count(config.threads, "thread"),
        device=config.device,
        parameters=parameters,
        data=", ".join(f"{name} (weight {weight:g})" for name, weight in data.items()),
        last=count(len(last), "step"),
        right=sum(record["right"] for record in last) / len(last),
        by_ratio=_table(RATIO_NAMES, mean_losses(records, "by_ratio")),
        by_distance=_table(range(1, 99), mean_losses(records, "by_distance")),
        held_out=_held_out(records),
    )


def mean_losses(records: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """The mean loss of each bin over the last records; None for an empty one."""
    columns = zip(*(record[name] for record in records[-LAST:]))
    sums = [[sum(numbers) for numbers in zip(*column)] for column in columns]
    return [total / losses if losses else None for total, losses in sums]


def _table(names: Sequence[object], means: Sequence[float | None]) -> str:
    rows = [(name, mean) for name, mean in zip(names, means) if mean is not None]
    return "\n".join(f"| {name} | {mean:.2f} |" for name, mean in rows)


def _held_out(records: Sequence[Mapping[str, Any]]) -> str:
    scores = [record["eval"] for record in records if "eval" in record]
    if not scores:
        return "None were decoded."
    best = max(scores, key=lambda score: score["score"])
    rows = "\n".join(f"| {name} | {score:.1f} |" for name, score in best["sources"].items())
    return (
        "Tasks: right answers, in %. Conversations: likeness of the words to the reference, in %. "
        f"{best['nfe']:.1f} passes an answer.\n\n| source | |\n|---|---|\n{rows}"
    )
