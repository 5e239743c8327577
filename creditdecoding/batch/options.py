"""Options of `credit batch`."""

from __future__ import annotations

import dataclasses

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Options of a file of requests."""

    name: str | None = option(
        None, "The model's name in lines and answers; by default what --model says."
    )
    max_line: int = option(
        2**20, "Bytes of a line at most; a longer one is answered with an error.", ge=1
    )
    ray: int = option(
        0,
        "Workers on a Ray cluster, each with a model of its own, on a GPU each where there are any; 0: this process alone.",
        ge=0,
    )
    address: str | None = option(
        None,
        "Ray cluster to use; by default the one this machine belongs to, else one is started here.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.address is not None and not self.ray:
            raise OptionError(
                "address is of a Ray cluster",
                given=self.address,
                hint="Say with --ray how many workers it should run.",
            )
