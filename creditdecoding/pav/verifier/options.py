"""Options of `credit pav train`."""

from __future__ import annotations

import dataclasses

from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Options of a verifier's training."""

    epochs: int = option(3, "How often each answer is seen.", ge=1)
    fit_batch: int = option(
        16, "Answers an optimiser step, each with all its labelled prefixes.", ge=1
    )
    parts: int = option(2, "Parts that a step is split into, by length.", ge=1)
    lr: float = option(
        1e-3,
        "Peak learning rate; warm-up over the first 5% of the steps, then cosine to 2%.",
        gt=0.0,
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", ge=0.0)
    masks: int = option(
        0,
        "Masks after an unfinished answer; its value is read at the first, or at its last token.",
        ge=0,
        le=1024,
    )
    outcome: bool = option(
        False,
        "Learn from complete answers alone: the outcome verifier that process verifiers are "
        "compared with.",
    )
    held_out: float = option(0.2, "Share of the problems held out to measure on.", gt=0.0, le=0.9)
    calibration: float = option(
        0.1,
        "Share of the problems used to calibrate the log-odds; 0: no calibration.",
        ge=0.0,
        le=0.5,
    )
    seed: int = option(
        0, "Seed of the split of problems and of the order of states.", ge=0, le=2**62
    )
    compile_fit: bool = option(False, "torch.compile the network while it learns.")
    save_every: int = option(50, "Steps between saved states.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
