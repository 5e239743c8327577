"""Several runs side by side, an arm and a seed each, and what they say: accuracy against samples,
and how many samples an arm saves.

Curves are means over seeds with Student's 95% interval. An arm has reached a level where its curve,
each point averaged with its neighbours,
first passes it; the level is where the outcome arm ends. A ratio of samples is that of the mean
curves; its interval is Student's of the
logarithms of the seeds' own ratios, each at the level where the outcome's run of that seed ends,
where all runs of the arm reach theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from creditdecoding.bootstrap import Interval
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.options import parse_values, split_spec
from creditdecoding.pav.rl.options import ARMS, RLConfig
from creditdecoding.pav.rl.train import records

Numbers = NDArray[np.float64]
_STUDENT = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
"""97.5% quantiles for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class RunSpec:
    """One run: its arm as it was asked for, what that means, its seed, its folder."""

    arm: str
    config: RLConfig
    seed: int
    folder: Path


def run_specs(folder: Path, arms: str, config: RLConfig, first: int, seeds: int) -> list[RunSpec]:
    """A run for each arm and seed, in subfolders where there are several. Raises `OptionError`.

    Arms are separated by commas, or by blanks where one has options of its own: `outcome
    effective:candidates=8,lr=1e-4`.
    """
    specs = list(dict.fromkeys(arms.split() if ":" in arms else arms.replace(",", " ").split()))
    if not specs:
        raise OptionError(
            "no arm is named",
            given=arms,
            allowed=", ".join(ARMS),
            hint="Name some, comma-separated.",
        )
    chosen = [(spec, configured(spec, config)) for spec in specs]
    several = len(specs) * seeds > 1
    places = {spec: re.sub(r"[^\w=.+-]", ",", spec) for spec in specs}
    return [
        RunSpec(spec, own, seed, folder / f"{places[spec]}-{seed}" if several else folder)
        for seed in range(first, first + seeds)
        for spec, own in chosen
    ]


def configured(spec: str, config: RLConfig) -> RLConfig:
    """The options of an arm, `NAME` or `NAME:option=value,...`, the others as in `config`. Raises
    `OptionError`.
    """
    name, knobs = split_spec(spec, "arm")
    known = [field.name for field in fields(RLConfig) if field.name != "arm"]
    if name not in ARMS:
        raise unknown_name("arm", name, ARMS)
    for knob in knobs:
        if knob not in known:
            raise unknown_name(f"option of {name}", knob, known)
    return replace(config, arm=name, **parse_values(RLConfig, knobs))


@dataclass(frozen=True)
class LearningCurve:
    """The measurements of an arm's runs: `samples` and `sequences` (of the policy and of the
    verifier) [points], the others [seeds, points].
    """

    arm: str
    samples: Numbers
    sequences: Numbers
    accuracy: Numbers
    passes: Numbers


def curve(arm: str, runs: Sequence[RunSpec]) -> LearningCurve:
    """What the logs of an arm's runs hold, as far as all of them are. Raises `OptionError` if one
    has measured nothing.
    """
    held = [[record for record in records(run.folder) if "held" in record] for run in runs]
    points = min(map(len, held))
    if not points:
        raise OptionError("a run has measured nothing yet", given=arm, hint="Let it go on.")
    numbers = [
        np.array([[record["held"][name] for record in run[:points]] for run in held])
        for name in ("accuracy", "passes")
    ]
    spent = np.array(
        [[float(record["sequences"] + record["judged"]) for record in run[:points]] for run in held]
    )
    return LearningCurve(
        arm,
        np.array([float(record["samples"]) for record in held[0][:points]]),
        spent.mean(axis=0),
        *numbers,
    )


def student(values: Sequence[float] | Numbers) -> Interval:
    """A mean with Student's 95% interval; of one value alone the interval is the value."""
    given = np.asarray(values, dtype=np.float64)
    mean, count = float(given.mean()), len(given)
    if count < 2:
        return Interval(mean, mean, mean)
    wide = (
        (_STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96 + 2.5 / (count - 1))
        * float(given.std(ddof=1))
        / math.sqrt(count)
    )
    return Interval(mean, mean - wide, mean + wide)


def smooth(values: Numbers) -> Numbers:
    """Each point averaged with its neighbours."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    inner = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    if len(values) > 1:
        inner[0], inner[-1] = values[:2].mean(), values[-2:].mean()
    return np.asarray(inner)


def reached(samples: Numbers, values: Numbers, level: float) -> float | None:
    """The samples after which the smoothed curve first is at `level`, between points in proportion;
    None where it never is.
    """
    line = smooth(values)
    above = np.flatnonzero(line >= level)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0:
        return float(samples[0])
    share = (level - line[i - 1]) / (line[i] - line[i - 1])
    return float(samples[i - 1] + share * (samples[i] - samples[i - 1]))


def saving(arm: LearningCurve, base: LearningCurve, level: float) -> dict[str, Any]:
    """Samples at which `arm` reaches `level`, and how many times fewer than those of `base` that
    is; the same in sequences.

    `runs`: how many of its runs reach where the run of `base` with their seed ends.
    """
    mine, theirs = (
        reached(each.samples, each.accuracy.mean(axis=0), level) for each in (arm, base)
    )
    spent, theirs_spent = (
        reached(each.sequences, each.accuracy.mean(axis=0), level) for each in (arm, base)
    )
    levels = [float(smooth(run)[-1]) for run in base.accuracy]
    own = [reached(arm.samples, run, ends) for run, ends in zip(arm.accuracy, levels)]
    other = [reached(base.samples, run, ends) for run, ends in zip(base.accuracy, levels)]
    logs = [math.log(b / a) for a, b in zip(own, other) if a and b]
    found: dict[str, Any] = {
        "samples": mine,
        "runs": sum(x is not None for x in own),
        "ratio": None,
        "low": None,
        "high": None,
    }
    found |= {
        "sequences": spent,
        "sequences_ratio": round(theirs_spent / spent, 3) if spent and theirs_spent else None,
    }
    if mine and theirs:
        found["ratio"] = round(theirs / mine, 3)
        if len(logs) == len(own) == len(other) > 1:
            range_ = student(logs)
            found |= {
                "low": round(math.exp(range_.low), 3),
                "high": round(math.exp(range_.high), 3),
            }
    return found


def summary(runs: Sequence[RunSpec], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-ready record of all arms; savings are against the first arm `outcome`, if there is
    one.
    """
    names = list(dict.fromkeys(run.arm for run in runs))
    curves = {name: curve(name, [run for run in runs if run.arm == name]) for name in names}
    base = next(
        (found for name, found in curves.items() if name.partition(":")[0] == "outcome"), None
    )
    level = None if base is None else float(smooth(base.accuracy.mean(axis=0))[-1])
    arms = []
    for name, found in curves.items():
        points = [student(found.accuracy[:, i]).rounded(4) for i in range(len(found.samples))]
        last = student([smooth(run)[-1] for run in found.accuracy]).rounded(4)
        more = {} if base is None or level is None else {"reaches": saving(found, base, level)}
        shown = {
            "arm": name,
            "seeds": len(found.accuracy),
            "samples": found.samples.tolist(),
            "sequences": found.sequences.tolist(),
        }
        shown |= {"accuracy": points, "final": last, **more}
        arms.append(
            {
                **shown,
                "passes": [round(float(x), 3) for x in found.passes.mean(axis=0)],
                "runs": found.accuracy.tolist(),
            }
        )
    return {
        "settings": dict(settings),
        "level": None if level is None else round(level, 4),
        "arms": arms,
    }
