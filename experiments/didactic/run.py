"""Many runs: every arm, prover and seed, kept in one file so that a run that was killed goes on
where it stopped.

The file is replaced whole after every run that ends; runs found in it are not done again. Other
settings than its own are refused; arms, provers
and seeds may be added. A run's numbers do not depend on which others there are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from creditdecoding.errors import OptionError
from creditdecoding.run_dir import check_settings, write_atomically
from experiments.didactic.learn import Evaluation, learn
from experiments.didactic.options import Cell, DidacticConfig

FREE = ("arms", "strengths", "seeds", "seed", "pass_at", "check_rollouts", "threads")
"""Options that runs of one file may differ in: they choose runs or how to show them."""

Key = tuple[str, float | None, int]
Tick = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended: its chance of success at each look, and the sequences drawn."""

    arm: str
    strength: float | None
    seed: int
    iterations: tuple[int, ...]
    success: tuple[float, ...]
    sequences: int

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.arm, self.strength, self.seed

    def reached(self, level: float) -> int | None:
        """The first look at which success was `level` or more, None where it never was."""
        return next(
            (
                iteration
                for iteration, chance in zip(self.iterations, self.success)
                if chance >= level
            ),
            None,
        )

    def at(self, iteration: int) -> float:
        """Success at the last look that is not later."""
        return next(
            chance
            for step, chance in zip(reversed(self.iterations), reversed(self.success))
            if step <= iteration
        )


def settings(config: DidacticConfig) -> dict[str, Any]:
    """What all runs of a file share."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE}


def run_all(
    config: DidacticConfig,
    path: Path | None = None,
    start: Callable[[int, int], Tick] | None = None,
) -> list[Run]:
    """All runs asked for, in order; `start` is told how many looks are done and how many there are
    at most, and gives what counts one.
    """
    torch.set_num_threads(config.threads)
    kept = {} if path is None or not path.exists() else {run.key: run for run in read(path, config)}
    planned = [(cell, seed) for cell in config.cells() for seed in config.all_seeds()]
    missing = {
        cell: [
            seed
            for planned_cell, seed in planned
            if planned_cell == cell and (*cell, seed) not in kept
        ]
        for cell in config.cells()
    }
    looks, open_ = config.looks(), sum(map(len, missing.values()))
    tick = (
        (lambda: None)
        if start is None
        else start(looks * (len(planned) - open_), looks * len(planned))
    )
    for cell, seeds in missing.items():
        if seeds:
            for run in _ended(cell, seeds, config, tick):
                kept[run.key] = run
                if path is not None:
                    save(path, config, list(kept.values()))
    return [kept[(*cell, seed)] for cell, seed in planned]


def _ended(cell: Cell, seeds: Sequence[int], config: DidacticConfig, tick: Tick) -> Iterator[Run]:
    """The runs of a cell as they end."""
    looks: dict[int, list[Evaluation]] = {seed: [] for seed in seeds}
    for look in learn(cell, seeds, config):
        past = looks[look.seed]
        past.append(look)
        for _ in range(config.looks() - len(past) + 1 if look.done else 1):
            tick()
        if look.done:
            chances = tuple(float(f"{look.success:.4g}") for look in past)
            yield Run(
                *cell, look.seed, tuple(look.iteration for look in past), chances, look.sequences
            )


def save(
    path: Path, config: DidacticConfig, runs: Sequence[Run], report: Mapping[str, Any] | None = None
) -> None:
    """Write runs and their report; a kill leaves the old or the new file. Raises `OptionError`."""
    lines = ",\n  ".join(json.dumps(dataclasses.asdict(run)) for run in runs)
    report_line = f' "report": {json.dumps(report)},\n' if report else ""
    try:
        head = f'{{\n "settings": {json.dumps(settings(config))},\n'
        write_atomically(path, f'{head}{report_line} "runs": [\n  {lines}\n ]\n}}\n')
    except OSError as error:
        raise OptionError(
            f"cannot write ({error.strerror})", given=str(path), hint="Check the folder."
        ) from error


def read(path: Path, config: DidacticConfig) -> list[Run]:
    """The runs of a file. Raises `OptionError` where it is none or of other settings."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        runs = [
            Run(**{**run, "iterations": tuple(run["iterations"]), "success": tuple(run["success"])})
            for run in record["runs"]
        ]
        saved_settings = dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(
            "this file holds no runs of the didactic task",
            given=str(path),
            hint="Choose another --out.",
        ) from error
    check_settings(path, saved_settings, settings(config))
    return runs
