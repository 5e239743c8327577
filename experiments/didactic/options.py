"""Options of the didactic task, and the names of its arms."""

from __future__ import annotations

from dataclasses import dataclass

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.options import check_fields, option

PLAIN = ("outcome", "q")
"""Arms that know no prover."""
PROVED = ("effective", "effective-q", "telescoped")
"""Arms that add a prover's advantage."""
ARMS = (*PLAIN, *PROVED)

Cell = tuple[str, float | None]
"""An arm and the strength of its prover, None where it has none."""


@dataclass(frozen=True)
class DidacticConfig:
    """Options of `python -m experiments.didactic`."""

    arms: str = option(
        "outcome effective telescoped",
        f"Rewards of a step, separated by blanks: {', '.join(ARMS)}; ARM:g for one prover alone.",
    )
    strengths: str = option(
        "1 10 100",
        "Weights that provers give the next planted token, each other token having 1, separated "
        "by blanks.",
    )
    seeds: int = option(
        3, "Runs of each arm and strength, with seeds seed, seed + 1, ...", ge=1, le=1000
    )
    seed: int = option(0, "The first seed.", ge=0, le=2**31)
    iterations: int = option(
        5000, "Updates at most; a run ends before where it is solved.", ge=1, le=10**6
    )
    alpha: float = option(1.0, "Weight of the prover's advantage.", ge=0.0, le=1e4)
    batch: int = option(64, "Sequences an update.", ge=1, le=2**16)
    optimizer: str = option(
        "adam",
        "Optimiser: adam as in the paper, or sgd, which does not rescale the gradient.",
        choices=("adam", "sgd"),
    )
    lr: float | None = option(
        None, "Learning rate; by default 1e-3 for adam, 1 for sgd.", gt=0.0, le=1e3
    )
    q_rollouts: int = option(
        4,
        "Rollouts of the policy from every prefix that estimate Q of arms q and effective-q.",
        ge=1,
        le=1024,
    )
    prover_rollouts: int = option(
        0,
        "Rollouts of the prover from every prefix that estimate its advantage; 0: exactly, by "
        "dynamic programming.",
        ge=0,
        le=10**6,
    )
    sft_strength: float = option(
        5.0, "Strength of the policy that fine-tuning imitates.", gt=0.0, le=1e6
    )
    sft_iterations: int = option(
        50, "Updates of fine-tuning, each with a batch of its own.", ge=0, le=10**6
    )
    solved: float = option(
        0.995, "Chance of success at which a run counts as solved (100 %) and ends.", gt=0.0, le=1.0
    )
    every: int = option(25, "Updates between looks at the chance of success.", ge=1)
    pass_at: int = option(100, "Updates after which Pass@N is reported.", ge=0)
    check_rollouts: int = option(
        200,
        "Rollouts of every prover after each token in each state, to compare with its exact "
        "values in the report.",
        ge=1,
        le=10**5,
    )
    threads: int = option(1, "CPU threads.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        self.cells()

    def cells(self) -> tuple[Cell, ...]:
        """Each arm with each strength it needs, in the order given. Raises `OptionError`."""
        strengths = [_strength(word) for word in _words("strengths", self.strengths)]
        cells: list[Cell] = []
        for word in _words("arms", self.arms):
            arm, colon, own = word.partition(":")
            if arm not in ARMS:
                raise unknown_name("arm", arm, ARMS)
            if colon and arm in PLAIN:
                raise OptionError(f"{arm} has no prover", given=word, hint=f"Write it as {arm}.")
            if arm in PLAIN:
                cells.append((arm, None))
            elif colon:
                cells.append((arm, _strength(own)))
            else:
                cells += [(arm, strength) for strength in strengths]
        return tuple(dict.fromkeys(cells))

    def all_seeds(self) -> range:
        """The seeds of every arm and strength."""
        return range(self.seed, self.seed + self.seeds)

    def looks(self) -> int:
        """Looks at a run that is never solved: before the first update, every `every` ones, and at
        the end.
        """
        return 1 + -(-self.iterations // self.every)


def _words(name: str, text: str) -> list[str]:
    words = text.replace(",", " ").split()
    if not words:
        raise OptionError(
            f"{name} names nothing", given=text, hint="Give one or more, separated by blanks."
        )
    return words


def _strength(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise OptionError(
            "a prover's strength is out of range",
            given=word,
            allowed="0 < strength <= 1e6",
            hint='Write them as "1 10 100".',
        )
    return value
