"""Runs of several arms and seeds: accuracy against samples, and how many samples an arm saves.

Curves are means over seeds with Student's 95 % interval. An arm has reached a level where its
curve, each point averaged with its neighbours, first passes it; the level is where the outcome arm
ends. A ratio of samples is that of the mean curves. Its interval is Student's of the logarithms of
the seeds' own ratios, each at the level where the outcome run of that seed ends, if all runs of the
arm reach theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from creditdecoding.bootstrap import FloatArray, Interval
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.options import parse_values, split_spec
from creditdecoding.pav.rl.options import ARMS, RLConfig
from creditdecoding.pav.rl.train import records

# fmt: off
STUDENT_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131,
)
# fmt: on
"""97.5 % quantiles for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class RunSpec:
    """One run: its arm as the user wrote it, what that means, its seed, its folder."""

    arm: str
    config: RLConfig
    seed: int
    folder: Path


def run_specs(
    folder: Path, arms: str, config: RLConfig, first_seed: int, seeds: int
) -> list[RunSpec]:
    """A run for each arm and seed, in subfolders if there are several. Raises `OptionError`.

    Arms are separated by commas, or by blanks if one has options of its own: `outcome
    effective:candidates=8,lr=1e-4`.
    """
    texts = arms.split() if ":" in arms else arms.replace(",", " ").split()
    if not texts:
        raise OptionError(
            "no arm is named",
            given=arms,
            allowed=", ".join(ARMS),
            hint="Name some, comma-separated.",
        )
    configs = {text: parse_arm(text, config) for text in texts}
    is_single = len(configs) * seeds == 1
    runs = []
    for seed in range(first_seed, first_seed + seeds):
        for text, arm_config in configs.items():
            name = re.sub(r"[^\w=.+-]", ",", text)
            run_folder = folder if is_single else folder / f"{name}-{seed}"
            runs.append(RunSpec(text, arm_config, seed, run_folder))
    return runs


def parse_arm(spec: str, config: RLConfig) -> RLConfig:
    """Read `NAME` or `NAME:option=value,...`; other options are those of `config`.

    Raises `OptionError`.
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
    """Measurements of an arm's runs: `samples` and `sequences` (policy and verifier) [points],
    `accuracy` and `passes` [seeds, points].
    """

    arm: str
    samples: FloatArray
    sequences: FloatArray
    accuracy: FloatArray
    passes: FloatArray

    @property
    def mean_accuracy(self) -> FloatArray:
        """Accuracy over seeds [points]."""
        return np.asarray(self.accuracy.mean(axis=0))


def learning_curve(arm: str, runs: Sequence[RunSpec]) -> LearningCurve:
    """The logs of an arm's runs up to the shortest. Raises `OptionError` if one is empty."""
    logs = [[record for record in records(run.folder) if "held" in record] for run in runs]
    points = min(map(len, logs))
    if not points:
        raise OptionError("a run has measured nothing yet", given=arm, hint="Let it go on.")
    logs = [log[:points] for log in logs]
    sequences = [[float(record["sequences"] + record["judged"]) for record in log] for log in logs]
    return LearningCurve(
        arm,
        samples=np.array([float(record["samples"]) for record in logs[0]]),
        sequences=np.array(sequences).mean(axis=0),
        accuracy=np.array([[record["held"]["accuracy"] for record in log] for log in logs]),
        passes=np.array([[record["held"]["passes"] for record in log] for log in logs]),
    )


def student_interval(values: Sequence[float] | FloatArray) -> Interval:
    """A mean with Student's 95 % interval; of one value, that value."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    freedom = len(array) - 1
    if freedom < 1:
        return Interval(mean, mean, mean)
    quantile = 1.96 + 2.5 / freedom
    if freedom <= len(STUDENT_QUANTILES):
        quantile = STUDENT_QUANTILES[freedom - 1]
    width = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Interval(mean, mean - width, mean + width)


def smooth(values: FloatArray) -> FloatArray:
    """Each point averaged with its neighbours."""
    return np.array(
        [values[max(0, i - 1) : i + 2].mean() for i in range(len(values))], dtype=np.float64
    )


def samples_to_reach(samples: FloatArray, values: FloatArray, level: float) -> float | None:
    """The samples after which the smoothed curve first is at `level`, linear between points.

    None if it never is.
    """
    curve = smooth(values)
    above = np.flatnonzero(curve >= level)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0:
        return float(samples[0])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(samples[i - 1] + share * (samples[i] - samples[i - 1]))


def saving(arm: LearningCurve, base: LearningCurve, level: float) -> dict[str, Any]:
    """The samples at which `arm` reaches `level`, and how many times fewer than those of `base`
    that is, also in sequences.

    `runs`: how many of its runs reach the level where the run of `base` with their seed ends.
    """
    samples, base_samples = (
        samples_to_reach(curve.samples, curve.mean_accuracy, level) for curve in (arm, base)
    )
    sequences, base_sequences = (
        samples_to_reach(curve.sequences, curve.mean_accuracy, level) for curve in (arm, base)
    )
    ends = [float(smooth(run)[-1]) for run in base.accuracy]
    reached = [samples_to_reach(arm.samples, run, end) for run, end in zip(arm.accuracy, ends)]
    interval = None
    if samples and base_samples:
        interval = _ratio_interval(reached, base, ends)
    return {
        "samples": samples,
        "runs": sum(count is not None for count in reached),
        "ratio": _ratio(base_samples, samples),
        "low": round(math.exp(interval.low), 3) if interval is not None else None,
        "high": round(math.exp(interval.high), 3) if interval is not None else None,
        "sequences": sequences,
        "sequences_ratio": _ratio(base_sequences, sequences),
    }


def _ratio(base: float | None, own: float | None) -> float | None:
    return round(base / own, 3) if base and own else None


def _ratio_interval(
    reached: Sequence[float | None], base: LearningCurve, ends: Sequence[float]
) -> Interval | None:
    """Student's interval of the logarithms of the seeds' own ratios; None if one is missing."""
    base_reached = [
        samples_to_reach(base.samples, run, end) for run, end in zip(base.accuracy, ends)
    ]
    logs = [math.log(b / a) for a, b in zip(reached, base_reached) if a and b]
    is_complete = len(logs) == len(reached) == len(base_reached)
    return student_interval(logs) if is_complete and len(logs) > 1 else None


def summary(runs: Sequence[RunSpec], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-ready record of all arms; savings are against the first arm `outcome`, if any."""
    arms = dict.fromkeys(run.arm for run in runs)
    curves = [learning_curve(arm, [run for run in runs if run.arm == arm]) for arm in arms]
    base = next((curve for curve in curves if curve.arm.partition(":")[0] == "outcome"), None)
    level = None if base is None else float(smooth(base.mean_accuracy)[-1])
    records = []
    for curve in curves:
        record = _arm_record(curve)
        if base is not None and level is not None:
            record["reaches"] = saving(curve, base, level)
        records.append(record)
    return {
        "settings": dict(settings),
        "level": None if level is None else round(level, 4),
        "arms": records,
    }


def _arm_record(curve: LearningCurve) -> dict[str, Any]:
    points = range(len(curve.samples))
    return {
        "arm": curve.arm,
        "seeds": len(curve.accuracy),
        "samples": curve.samples.tolist(),
        "sequences": curve.sequences.tolist(),
        "accuracy": [student_interval(curve.accuracy[:, i]).rounded(4) for i in points],
        "final": student_interval([smooth(run)[-1] for run in curve.accuracy]).rounded(4),
        "passes": [round(float(passes), 3) for passes in curve.passes.mean(axis=0)],
        "runs": curve.accuracy.tolist(),
    }
