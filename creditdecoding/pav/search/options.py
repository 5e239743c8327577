"""Options of searches and of comparisons of them. Imports no model code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option

KNOBS: Mapping[str, tuple[str, ...]] = {
    "beam": ("n", "c", "alpha", "k", "steps"),
    "beam_q": ("n", "c", "steps"),
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
        "beam (steps, by Q + alpha * A), beam_q (by Q alone); of whole answers best_of_n "
        "(verifier), majority, weighted (majority by the verifier's Q), certainty, certainty_mean "
        "(log-probability a token), single.",
        choices=tuple(KNOBS),
    )
    n: int = option(4, "States that a beam keeps; answers of the other methods.", ge=1)
    c: int = option(3, "Next steps drawn from each state of a beam.", ge=1)
    alpha: float = option(0.5, "Weight of the prover's advantage A, added to Q.", ge=0.0)
    k: int = option(4, "The prover is the best of k answers of the policy.", ge=1, le=2**20)
    steps: int = option(1, "Steps that a beam goes at a time.", ge=1, rare=True)

    def __post_init__(self) -> None:
        check_fields(self)
        knobs = KNOBS[self.method]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name not in knobs and value != field.default:
                raise OptionError(
                    f"{self.method} has no {field.name}",
                    given=value,
                    allowed=", ".join(knobs) or "none",
                    hint="Leave it out.",
                )


@dataclass(frozen=True)
class CompareConfig:
    """Options of a comparison of searches."""

    verifier: str = option(
        "", "Folder of the verifier that leads searches, or pocket, the embedded one."
    )
    outcome: str = option(
        "",
        "Folder of a verifier of complete answers for best_of_n and weighted; by default "
        "--verifier.",
    )
    methods: str = option(
        "beam beam_q best_of_n majority weighted certainty certainty_mean",
        "Methods separated by blanks, as NAME or NAME:c=3,alpha=0.5,k=4 (see credit search "
        "--method).",
    )
    n: str = option(
        "1,2,4,8,16,32,64,128", "Budgets: states that beams keep, answers of the other methods."
    )
    step_n: str = option(
        "", "Budgets of beams, which cost more at the same n; by default those of --n."
    )
    seeds: int = option(2, "How often everything is drawn, each time with another seed.", ge=1)
    split: str = option("test", "Split of the problems.", choices=("test", "dev", "train"))

    def __post_init__(self) -> None:
        check_fields(self)
