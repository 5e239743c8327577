"""Options of `credit pav collect`."""

from __future__ import annotations

import dataclasses

from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Options of collecting labels for a verifier."""

    n_cov: int = option(
        4,
        "Answers of a problem whose prefixes are labelled: drawn from the prompt, or wrong ones "
        "with --strategy first_pit.",
        ge=1,
    )
    n_mc: int = option(
        8,
        "Completions drawn from every prefix; its label is the share of correct ones.",
        ge=1,
    )
    strategy: str = option(
        "random",
        "random labels all prefixes of answers drawn from the prompt; first_pit those of wrong "
        "answers to promising prefixes, up to the first without a correct completion.",
        choices=("random", "first_pit"),
    )
    promising: float = option(
        0.0,
        "first_pit: a prefix is promising if more than this share of its completions is correct.",
        ge=0.0,
        le=1.0,
    )
    limit: int = option(200, "Problems a task; 0 for all of a benchmark or a file.", ge=0)
    split: str = option("train", "Split of the embedded tasks.", choices=("train", "dev", "test"))
    item_seed: int = option(0, "Seed of the draw of problems.", ge=0)
    delimiter: str | None = option(
        None,
        "What ends a step, instead of the task's own delimiter: a text, \\n for a line's end, or "
        "a size such as '8 tokens'.",
    )
    raw: bool = option(False, "Ask without the chat template.")

    def __post_init__(self) -> None:
        check_fields(self)
