"""Options of `credit train`."""

from __future__ import annotations

import dataclasses

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Options of a training run."""

    steps: int = option(6000, "Optimiser steps.", ge=1)
    batch_size: int = option(64, "Rows a step and process.", ge=2)
    parts: int = option(
        2, "Equal parts a step is split into, by row length; a divisor of the batch size.", ge=1
    )
    hidden_size: int = option(192, "Width.", ge=32)
    num_layers: int = option(4, "Layers.", ge=1)
    num_heads: int = option(6, "Attention heads.", ge=1)
    intermediate_size: int = option(512, "Width of the feed-forward layer.", ge=32)
    vocabulary: int = option(1152, "Ids of the tokenizer at most.", ge=300)
    lr: float = option(5e-3, "Peak learning rate; cosine to 2% of it.", gt=0.0)
    induction: bool = option(
        True, "Begin with look-up circuits in the first two layers (see docs/research/log.md)."
    )
    drill_steps: int = option(
        300, "Steps at the beginning that drill look-up on random tokens.", ge=0
    )
    next_token_until: float = option(
        0.15, "Fraction of the run that trains next tokens through mask tokens.", ge=0.0, le=1.0
    )
    blocks_until: float = option(
        0.32,
        "Fraction of the run until which half of it is block diffusion's two-stream pass.",
        ge=0.0,
        le=1.0,
    )
    shares: str = option(
        "",
        "How often tasks are drawn relative to each other: NAME=NUMBER, comma-separated; a task "
        "that is not named keeps its own number.",
    )
    seed: int = option(0, "Seed of weights, items and masks.", ge=0)
    device: str = option("cpu", "cpu, cuda or mps.")
    threads: int = option(1, "CPU threads a process.", ge=1)
    processes: int = option(1, "Processes that share each step; on a CPU one a core.", ge=1)
    compile: bool = option(
        True, "torch.compile the network (about twice as fast after some minutes of warm-up)."
    )
    save_every: int = option(100, "Steps between checkpoints.", ge=1)
    eval_every: int = option(2000, "Steps between evaluations.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise OptionError(
                "num_heads must divide hidden_size into an even head size",
                given=self.num_heads,
                hint="Change one of the two.",
            )
        if self.batch_size % self.parts:
            raise OptionError(
                "parts must divide batch_size",
                given=self.parts,
                allowed=f"a divisor of {self.batch_size}",
                hint="Change one of the two.",
            )
