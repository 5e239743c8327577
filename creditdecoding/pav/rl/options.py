"""Options of `credit pav rl`."""

from __future__ import annotations

from dataclasses import dataclass

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option

ARMS = ("outcome", "q", "effective")

STEP_ARMS = ("q", "effective")
"""Arms whose reward of a step depends only on the states before and after it."""

BASELINES = ("value", "others", "none")

TOKENS = ("committed", "all_draws")


@dataclass(frozen=True)
class RLConfig:
    """Options of a run."""

    arm: str = option("effective", "Reward of a step.", choices=ARMS)
    alpha: float = option(
        3.0, "Weight of the prover's advantage in the effective reward.", ge=0.0, le=1000.0
    )
    k: float = option(4.0, "The prover is best-of-K of the verifier's Q.", ge=1.0, le=1000.0)
    baseline: str = option(
        "value",
        "What is subtracted: the verifier's Q of the state before, the other samples' mean, or "
        "nothing.",
        choices=BASELINES,
    )
    candidates: int = option(
        1,
        "Draws of each step that the verifier compares, the one taken included: less noise, for "
        "the arms q and effective.",
        ge=1,
    )
    normalise: bool = option(
        True, "Whiten an iteration's weights to mean 0 and variance 1.", rare=True
    )
    tokens: str = option(
        "all_draws",
        "Tokens in a step's log-probability: its committed tokens, or all draws at its positions.",
        choices=TOKENS,
        rare=True,
    )
    delimiter: str | None = option(
        None,
        "What ends a step, instead of the task's own delimiter: a text, or a size such as "
        "'8 tokens', that of a block.",
        rare=True,
    )
    iterations: int = option(100, "Steps of the optimiser.", ge=1)
    problems: int = option(16, "Problems an iteration.", ge=1)
    samples: int = option(2, "Answers drawn of each problem.", ge=1)
    lr: float = option(3e-5, "Learning rate of Adam.", gt=0.0, le=1.0)
    kl: float = option(0.001, "Weight of the divergence from the first policy.", ge=0.0)
    clip: float = option(1.0, "Largest norm of a gradient.", gt=0.0, rare=True)
    eval_every: int = option(
        10, "Iterations between measurements on held-out problems.", ge=1, rare=True
    )
    eval_limit: int = option(100, "Held-out problems a task, one answer each.", ge=1, rare=True)
    save_every: int = option(5, "Iterations between saved states.", ge=1, rare=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.baseline == "others" and self.samples < 2:
            raise OptionError(
                "a problem's other samples need two samples or more",
                given=self.samples,
                hint="Raise --samples.",
            )
        if self.candidates > 1 and self.arm not in STEP_ARMS:
            raise OptionError(
                "an outcome is known only for the step that was taken",
                given=self.arm,
                allowed=", ".join(STEP_ARMS),
                hint="Leave --candidates out, or give it to an arm: "
                "--arms 'outcome effective:candidates=4'.",
            )
