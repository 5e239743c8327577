"""Options of `credit adapt`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option

ADAPTER_RATE = 2e-3
ALL_WEIGHTS_RATE = 5e-5


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """Options of an adaptation."""

    block_length: int = option(
        8,
        "Positions that attend to each other and are decoded together.",
        ge=2,
        le=1024,
    )
    rank: int = option(16, "Rank of the adapter; 0 trains all weights.", ge=0, le=1024)
    tokens: int | None = option(
        None,
        "Answer tokens to predict in all; a run may continue with more or fewer.",
        ge=1,
    )
    minutes: float | None = option(None, "Minutes to train, in place of tokens.", gt=0.0)
    lr: float | None = option(
        None,
        "Learning rate; by default 2e-3 for an adapter, 5e-5 for all weights.",
        gt=0.0,
    )
    decay: float = option(
        0.3,
        "Share of the run, at its end, in which the rate falls to 5%.",
        ge=0.0,
        le=1.0,
    )
    batch_positions: int = option(4096, "Positions a step and process.", ge=16)
    buckets: str = option(
        "96:32,160:96,256:128",
        "Shapes of batches, POSITIONS:ANSWER; a row takes the first that it fits into, and is left "
        "out if there is none. Each is compiled once.",
    )
    seed: int = option(0, "Seed of the adapter, rows and masks.", ge=0, rare=True)
    device: str = option("cpu", "cpu, cuda or mps; with cuda each process takes a GPU of its own.")
    threads: int = option(1, "CPU threads a process.", ge=1)
    processes: int = option(1, "Processes that share each step; on a CPU one a core.", ge=1)
    compile: bool = option(
        True,
        "torch.compile the layers: four times as fast on a CPU after a minute for each bucket.",
    )
    save_every: int = option(25, "Steps between checkpoints.", ge=1)
    eval_every: int = option(200, "Steps between held-out decodings.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.tokens is None) == (self.minutes is None):
            raise OptionError(
                "an adaptation needs one budget",
                given="both" if self.tokens else "none",
                allowed="tokens or minutes",
                hint="Give --tokens or --minutes.",
            )
        list(self.shapes())

    @property
    def peak_rate(self) -> float:
        """The learning rate before it falls."""
        default = ADAPTER_RATE if self.rank else ALL_WEIGHTS_RATE
        return default if self.lr is None else self.lr

    def shapes(self) -> Iterator[tuple[int, int]]:
        """The buckets: positions of the clean row and of a noisy copy. Raises `OptionError`."""
        for text in self.buckets.split(","):
            length, _, width = text.partition(":")
            is_pair = length.strip().isdecimal() and width.strip().isdecimal()
            if not is_pair or not 0 < int(width) <= int(length) or int(width) % self.block_length:
                raise OptionError(
                    "no bucket",
                    given=text,
                    allowed="POSITIONS:ANSWER with ANSWER at most POSITIONS and a multiple of the "
                    f"block length, {self.block_length}",
                    hint="Write them like 96:32,160:96.",
                )
            yield int(length), int(width)

    def progress(self, tokens: int, seconds: float) -> float:
        """Which share of the run is over, 0 to 1."""
        if self.tokens is not None:
            return min(1.0, tokens / self.tokens)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))
