"""Options of searches, of comparisons of them and of policy gradients; light, so that the command line can be read without a model's code.

Leaves to others: what the methods do (search.py), what arms pay and what counts as drawn (rewards.py, policy.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from creditdecoding.config import check_fields, option
from creditdecoding.errors import OptionError

KNOBS: Mapping[str, tuple[str, ...]] = {
    "beam": ("n", "c", "alpha", "k", "steps"),
    "beam_q": ("n", "c", "steps"),
    "redraft": ("n", "c", "alpha", "k"),
    "best_of_n": ("n",),
    "majority": ("n",),
    "weighted": ("n",),
    "certainty": ("n",),
    "certainty_mean": ("n",),
    "single": (),
}
"""Every method and its knobs."""


@dataclass(frozen=True)
class SearchConfig:
    """Options of a search."""

    method: str = option(
        "beam",
        "beam (steps, by Q + alpha * A), beam_q (by Q alone), redraft (whole drafts, cut and drawn again); of whole answers best_of_n (verifier), "
        "majority, weighted (majority by the verifier's Q), certainty, certainty_mean (log-probability a token), single.",
        choices=tuple(KNOBS),
    )
    n: int = option(4, "States that a beam keeps; answers or drafts of the other methods.", ge=1)
    c: int = option(3, "Next steps drawn from each state of a beam; drafts of a round.", ge=1)
    alpha: float = option(0.5, "Weight of the prover's advantage A beside Q.", ge=0.0)
    k: int = option(4, "The prover is the best of k answers of the policy.", ge=1, le=2**20)
    steps: int = option(1, "Steps that a beam goes at a time.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        for field in fields(self)[1:]:
            if field.name not in KNOBS[self.method] and getattr(self, field.name) != field.default:
                known = ", ".join(KNOBS[self.method]) or "none"
                raise OptionError(f"{self.method} has no {field.name}", given=getattr(self, field.name), allowed=known, hint="Leave it out.")


@dataclass(frozen=True)
class Comparison:
    """Options of a comparison of searches, beside tasks and limit."""

    verifier: str = option("", "With --search: folder of the verifier that leads searches, or pocket, the embedded one.")
    outcome: str = option("", "With --search: folder of a verifier of complete answers for best_of_n and weighted; by default --verifier.")
    methods: str = option(
        "beam beam_q redraft best_of_n majority weighted certainty certainty_mean",
        "With --search: methods separated by blanks, as NAME or NAME:c=3,alpha=0.5,k=4 (see credit search --method).",
    )
    n: str = option("1,2,4,8,16,32,64,128", "With --search: budgets; states that beams keep, answers or drafts of the others.")
    step_n: str = option(
        "",
        "With --search: budgets of beam, beam_q and redraft, which cost more at the same n; by default those of --n.",
    )
    seeds: int = option(2, "With --search: times that everything is drawn anew.", ge=1)
    split: str = option("test", "With --search: whose problems.", choices=("test", "dev", "train"))

    def __post_init__(self) -> None:
        check_fields(self)


ARMS = ("outcome", "q", "effective", "telescoped")
IMMEDIATE = ("q", "effective")
"""Arms that reward a step for the states before and behind it alone, as a verifier sees them."""
BASELINES = ("value", "others", "none")
TOKENS = ("written", "drawn", "event")
WEIGHTS = ("all", "norms")


@dataclass(frozen=True)
class RLConfig:
    """Options of a run."""

    arm: str = option("effective", "What a step is rewarded with.", choices=ARMS)
    alpha: float = option(3.0, "Weight of the prover's advantage in the effective reward.", ge=0.0, le=1000.0)
    k: float = option(4.0, "The prover is best-of-K of the verifier's Q.", ge=1.0, le=1000.0)
    baseline: str = option("value", "What is taken off: the verifier's Q of the state before, the other samples' mean, nothing.", choices=BASELINES)
    candidates: int = option(
        1, "Draws of a step that the verifier weighs against each other, the one taken among them: less noise, for arms q and effective.", ge=1
    )
    normalise: bool = option(True, "Give an iteration's weights the mean 0 and the spread 1.")
    tokens: str = option(
        "drawn", "What a step's log-probability is of: its written tokens, all draws at its positions, or what was seen of them.", choices=TOKENS
    )
    delimiter: str | None = option(None, "What ends a step, in place of the task's own: a text, or a size such as '8 tokens', that of a block.")
    iterations: int = option(100, "Steps of the optimiser.", ge=1)
    problems: int = option(16, "Problems an iteration.", ge=1)
    samples: int = option(2, "Answers drawn of each problem.", ge=1)
    learn: str = option("all", "Which weights: all, or the scales of the norms alone, with a larger --lr, for few samples.", choices=WEIGHTS)
    lr: float = option(3e-5, "Learning rate of Adam.", gt=0.0, le=1.0)
    kl: float = option(0.001, "Weight of the divergence from the first policy.", ge=0.0)
    clip: float = option(1.0, "Largest norm of a gradient.", gt=0.0)
    eval_every: int = option(10, "Iterations between measurements on held-out problems.", ge=1)
    eval_limit: int = option(100, "Held-out problems a family, one answer each.", ge=1)
    save_every: int = option(5, "Iterations between saved states.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.baseline == "others" and self.samples < 2:
            raise OptionError("a problem's other samples need two samples or more", given=self.samples, hint="Raise --samples.")
        if self.candidates > 1 and self.arm not in IMMEDIATE:
            hint = "Leave --candidates out, or give it to an arm: --arms 'outcome effective:candidates=4'."
            raise OptionError("an outcome is known of the step alone that was taken", given=self.arm, allowed=", ".join(IMMEDIATE), hint=hint)
