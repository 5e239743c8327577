"""Options of `credit batch`."""

from __future__ import annotations

import dataclasses

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option
from creditdecoding.server.options import check_folder, decoder_files_option


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Options of a file of requests."""

    name: str | None = option(
        None, "The model's name in requests and answers; by default the value of --model."
    )
    max_line: int = option(
        2**20, "The most bytes of a line; a longer one is answered with an error.", ge=1
    )
    decoder_files: str | None = decoder_files_option()
    ray: int = option(
        0,
        "Workers on a Ray cluster, each with its own model and, if there are any, its own GPU;"
        " 0: only this process.",
        ge=0,
    )
    address: str | None = option(
        None,
        "Ray cluster to use; by default the one of this machine, else a new one is started here.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_folder(self.decoder_files)
        if self.address is not None and not self.ray:
            raise OptionError(
                "--address is for a Ray cluster",
                given=self.address,
                hint="Give the number of workers with --ray.",
            )
