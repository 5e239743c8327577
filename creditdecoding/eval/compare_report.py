"""The report of a comparison: curves, areas, and settings chosen on dev and reported on test.

The score of an answer to open text, which no scorer judges, is its agreement with that of standard
decoding (`quality.agreement`), in percent. The order of the records does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import (
    AREA_RESAMPLES,
    RESAMPLES,
    FloatArray,
    area_under_curve,
    areas_under_curves,
    percentile_interval,
)
from creditdecoding.config import GenerationConfig
from creditdecoding.eval.leaderboard import aup_table
from creditdecoding.eval.measures import (
    NFE,
    SCORE,
    Estimates,
    Row,
    answer_values,
    missing_answers,
)
from creditdecoding.eval.quality import agreement
from creditdecoding.eval.sweep import REFERENCE, CurvePoint, DecoderCurve, all_specs
from creditdecoding.eval.yardsticks import parallelism, yardsticks

BOUND = 1.0
PASSES_DIGITS = 2
"""Digits of passes that tables show: settings that look alike there are ties."""
BASELINE = "threshold"
"""The curve that areas are compared with, if it is in the run."""

VERDICTS = {
    "no_loss": "No measurable loss: the setting with the fewest passes on dev is within the bound "
    "on test, and its interval reaches 0.",
    "measured_loss": "Measured loss: the setting with the fewest passes on dev scores below "
    "standard decoding on test, and its interval does not reach 0.",
    "above_bound": "Unclear: the setting with the fewest passes on dev loses more than the bound "
    "on test, but its interval reaches 0.",
    "none": "No setting of any decoder is without a measurable loss on dev.",
    "agrees": "The setting with the fewest passes on dev agrees with standard decoding on test, to "
    "within the bound.",
    "differs": "The setting with the fewest passes on dev differs from standard decoding by more "
    "than the bound on test.",
}
"""One fixed line for each verdict of a report."""
INTERVALS = "Intervals are 95 %, each by itself: none is corrected for their number."
OPEN_TEXT = (
    "The score of open text is its agreement with standard decoding: the share of common words in "
    "order. Other text need not be worse; its quality is measured where a base is known."
)
FEW = "Fewer than 100 items: the ends of intervals are rough."

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SplitTable:
    """The records of one split: values [templates, rows, decoders, fields], task of each row."""

    templates: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    values: FloatArray
    specs: tuple[str, ...]

    @property
    def strata(self) -> list[int]:
        """The number of each row's task."""
        return [self.tasks.index(task) for task, _ in self.rows]

    @property
    def pooled(self) -> FloatArray:
        """[rows, decoders, fields]: an item counts once, as the mean over its templates."""
        return np.asarray(self.values.mean(axis=0))

    def estimates(self, resamples: int, seed: int) -> Estimates:
        """Means and resamples of every decoder."""
        return Estimates.of(self.pooled, self.strata, self.specs, resamples, seed)


def split_table(records: Records, split: str, curves: Sequence[DecoderCurve]) -> SplitTable:
    """The records of a split. Raises `OptionError` if one is missing."""
    specs = tuple(all_specs(curves))
    members = [record for record in records if record["split"] == split]
    templates = tuple(sorted({record["template"] for record in members}))
    rows = tuple(sorted({(record["family"], record["item"]) for record in members}))
    values = [
        answer_values(
            [record for record in members if record["template"] == template],
            rows,
            specs,
            "decoder",
        )
        for template in templates or ("",)
    ]
    tasks = tuple(dict.fromkeys(task for task, _ in rows))
    return SplitTable(templates, tasks, rows, np.array(values), specs)


def with_agreement(records: Records) -> tuple[Records, bool]:
    """The records, those of open text with their agreement (0 to 1) in place of a verdict; whether
    there are such.

    Raises `OptionError` if an answer of standard decoding is missing.
    """
    if all(record["right"] is not None for record in records):
        return records, False
    standard = {
        _answer_key(record): record["text"] for record in records if record["decoder"] == REFERENCE
    }
    return [_scored(record, standard) for record in records], True


def _scored(
    record: Mapping[str, Any], standard: Mapping[tuple[Any, ...], str]
) -> Mapping[str, Any]:
    """A record, of open text with its agreement with the `standard` answers by their keys."""
    if record["right"] is not None:
        return record
    key = _answer_key(record)
    if key not in standard:
        raise missing_answers(1)
    return {**record, "right": agreement(record["text"], standard[key])}


def _answer_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("split", "template", "family", "item"))


def choose_setting(
    curve: DecoderCurve,
    dev: Estimates,
    bound: float,
    is_open: bool = False,
) -> str | None:
    """The setting with the fewest passes that loses nothing measurable on dev, None if all do.

    The difference to standard decoding must be -`bound` points or more, and its interval must reach
    0, unless the text `is_open`: nothing agrees more than standard decoding does with itself. With
    equal passes the higher score is chosen, then the earlier setting.
    """
    candidates = []
    for number, point in enumerate(curve.points):
        difference = dev.difference(point.spec, REFERENCE)
        reaches_zero = is_open or difference.high >= 0
        if difference.value >= -bound and reaches_zero:
            order = (dev.mean(point.spec, NFE), -dev.mean(point.spec, SCORE), number)
            candidates.append((order, point.spec))
    return min(candidates)[1] if candidates else None


def _with_reference(curves: Sequence[DecoderCurve]) -> Sequence[DecoderCurve]:
    """The curves, and standard decoding if none of them has it: the best score of a leaderboard is
    that of any method.
    """
    if any(point.spec == REFERENCE for curve in curves for point in curve.points):
        return curves
    return [*curves, DecoderCurve("standard decoding", "", (CurvePoint("", REFERENCE),))]


def compare_report(
    records: Records,
    curves: Sequence[DecoderCurve],
    bound: float = BOUND,
    resamples: int = RESAMPLES,
    seed: int = 0,
    gen_length: int = GenerationConfig().gen_length,
) -> dict[str, Any]:
    """The report as JSON-ready data. Raises `OptionError` if records are missing.

    `gen_length` is that of the run; it only counts for tokens a pass over the full span.
    """
    records, is_open = with_agreement(records)
    dev_table = split_table(records, "dev", curves)
    table = split_table(records, "test", curves)
    dev = dev_table.estimates(resamples, seed)
    test = table.estimates(resamples, seed + 1)
    settings_by_curve = {curve.name: choose_setting(curve, dev, bound, is_open) for curve in curves}
    specs = dict.fromkeys([REFERENCE, *filter(None, settings_by_curve.values())])
    test_records = [record for record in records if record["split"] == "test"]
    extras = yardsticks(test_records, gen_length)
    details = _details(table, list(specs), resamples, seed + 1)
    details = {spec: {**numbers, **extras[spec]} for spec, numbers in details.items()}
    board = parallelism(test_records, _with_reference(curves))
    areas = _areas(curves, test)
    curve_records = []
    for curve in curves:
        points = [_point(point.value, point.spec, dev, test) for point in curve.points]
        operating = _operating_point(curve, points, settings_by_curve[curve.name], details)
        curve_records.append(_curve_record(curve, points, operating, areas))
    reference = _point("", REFERENCE, dev, test)
    best = _best(curve_records, dev)
    return {
        "reference": {**reference, "label": "standard decoding", **details[REFERENCE]},
        "curves": curve_records,
        "families": list(table.tasks),
        "templates": list(table.templates),
        "items": {"dev": len(dev_table.rows), "test": len(table.rows)},
        "bound": bound,
        "resamples": resamples,
        "area_range": areas.range,
        "parallelism": board,
        "aup": aup_table(board),
        "baseline": BASELINE if any(curve.name == BASELINE for curve in curves) else None,
        "chosen_on": "dev",
        "reported_on": "test",
        "best": best,
        "against_best": _against_best(best, curve_records, test),
        "fewest_on_test": _fewest(curve_records),
        "open_text": is_open,
        "verdict": _verdict(best, curve_records, bound, is_open),
    }


def _curve_record(
    curve: DecoderCurve,
    points: Sequence[Mapping[str, Any]],
    operating: Mapping[str, Any] | None,
    areas: Areas,
) -> dict[str, Any]:
    """A curve with its points, its chosen setting and its area."""
    names = {"name": curve.name, "knob": curve.knob}
    return {**names, "points": points, "chosen": operating, **areas.records[curve.name]}


def _point(value: str, spec: str, dev: Estimates, test: Estimates) -> dict[str, Any]:
    """One setting on both splits."""
    splits = {
        name: {**estimates.summary(spec), **estimates.compared(spec, REFERENCE)}
        for name, estimates in (("dev", dev), ("test", test))
    }
    return {"value": value, "decoder": spec, **splits}


def _operating_point(
    curve: DecoderCurve,
    points: Sequence[Mapping[str, Any]],
    spec: str | None,
    details: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The chosen setting of a curve with its details."""
    for point in points:
        if point["decoder"] == spec:
            label = setting_label(curve.name, curve.knob, point["value"])
            return {**point, "label": label, **details[point["decoder"]]}
    return None


def setting_label(name: str, knob: str, value: str) -> str:
    """A setting in tables: `credit (threshold 0.95)`, `factor (0.1)`, `klass:threshold=0.7`."""
    if not value:
        return name
    return f"{name} ({value})" if knob == name else f"{name} ({knob} {value})"


def _details(
    table: SplitTable, specs: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Numbers of some decoders by task and by template."""
    columns = [table.specs.index(spec) for spec in specs]
    by_template = {
        name: Estimates.of(table.values[number][:, columns], table.strata, specs, resamples, seed)
        for number, name in enumerate(table.templates)
    }
    details = {}
    for spec, column in zip(specs, columns):
        templates = {
            name: {**estimates.summary(spec), **estimates.compared(spec, REFERENCE)}
            for name, estimates in by_template.items()
        }
        details[spec] = {"families": _by_task(table, column), "templates": templates}
    return details


def _by_task(table: SplitTable, column: int) -> dict[str, dict[str, Any]]:
    strata = np.asarray(table.strata)
    numbers = {}
    for number, task in enumerate(table.tasks):
        rows = table.pooled[strata == number, column]
        numbers[task] = {
            "score": round(float(rows[:, SCORE].mean()), 2),
            "nfe": round(float(rows[:, NFE].mean()), 3),
            "items": len(rows),
        }
    return numbers


@dataclass(frozen=True)
class CurveArea:
    """One curve on the test split, ready for its area: passes and scores, and their resamples."""

    means: FloatArray
    draws: FloatArray

    @property
    def first(self) -> float:
        """The fewest passes."""
        return float(self.means[:, NFE].min())

    def between(self, low: float, high: float) -> tuple[float, FloatArray]:
        """The area over a range of passes, and its resamples."""
        value = area_under_curve(self.means[:, NFE], self.means[:, SCORE], low, high)
        return value, areas_under_curves(self.draws[..., NFE], self.draws[..., SCORE], low, high)


@dataclass(frozen=True)
class Areas:
    """For each curve its area and the difference to the baseline's; the range of the areas."""

    records: dict[str, dict[str, Any]]
    range: list[float] | None


def _areas(curves: Sequence[DecoderCurve], test: Estimates) -> Areas:
    """Areas under the swept curves over the range that all share; differences over that of the two.

    Every curve ends in standard decoding, which is what each rule becomes as it grows strict.
    """
    last = test.mean(REFERENCE, NFE)
    records: dict[str, dict[str, Any]] = {
        curve.name: {"area": None, "area_difference": None} for curve in curves
    }
    swept = {curve.name: _curve_area(curve, test) for curve in curves if len(curve.points) > 1}
    shared = max((curve.first for curve in swept.values()), default=last)
    if shared >= last:
        return Areas(_differences(swept, records, last), None)
    for name, curve in swept.items():
        records[name]["area"] = percentile_interval(*curve.between(shared, last)).rounded(2)
    return Areas(_differences(swept, records, last), [round(shared, 3), round(last, 3)])


def _curve_area(curve: DecoderCurve, test: Estimates) -> CurveArea:
    specs = dict.fromkeys([*(point.spec for point in curve.points), REFERENCE])
    columns = [test.index(spec) for spec in specs]
    return CurveArea(test.means[columns], test.draws[:AREA_RESAMPLES, columns])


def _differences(
    swept: Mapping[str, CurveArea], records: dict[str, dict[str, Any]], last: float
) -> dict[str, dict[str, Any]]:
    """Fill in the differences to the baseline's area."""
    baseline = swept.get(BASELINE)
    for name, curve in swept.items():
        if baseline is None or name == BASELINE:
            continue
        low = max(curve.first, baseline.first)
        if low < last:
            value, draws = curve.between(low, last)
            base_value, base_draws = baseline.between(low, last)
            difference = percentile_interval(value - base_value, draws - base_draws).rounded(2)
            ends = {"from": round(low, 3), "to": round(last, 3)}
            records[name]["area_difference"] = {**difference, **ends}
    return records


def _best(curves: Sequence[Mapping[str, Any]], dev: Estimates) -> str | None:
    """The curve whose chosen setting takes the fewest passes on dev.

    With equal passes the one with the higher score, then the earlier one.
    """
    specs = {curve["name"]: curve["chosen"]["decoder"] for curve in curves if curve["chosen"]}

    def order(name: str) -> tuple[float, float]:
        return dev.mean(specs[name], NFE), -dev.mean(specs[name], SCORE)

    return min(specs, key=order) if specs else None


def _against_best(
    best: str | None, curves: Sequence[Mapping[str, Any]], test: Estimates
) -> list[dict[str, Any]]:
    """Every other chosen setting compared with the best one, on test."""
    specs = {curve["name"]: curve["chosen"]["decoder"] for curve in curves if curve["chosen"]}
    records = []
    for name, spec in specs.items():
        if best is not None and name != best:
            ratio = test.speedup(specs[best], spec)
            difference = test.difference(spec, specs[best])
            records.append(
                {
                    "name": name,
                    "passes_ratio": ratio.rounded(3),
                    "difference": difference.rounded(2),
                    "passes_significant": ratio.low > 1 or ratio.high < 1,
                    "score_significant": difference.excludes_zero,
                }
            )
    return records


def _fewest(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """The curves whose chosen settings take the fewest passes on test, as tables round them."""
    passes = {
        curve["name"]: round(curve["chosen"]["test"]["nfe"], PASSES_DIGITS)
        for curve in curves
        if curve["chosen"]
    }
    return [name for name, count in passes.items() if count == min(passes.values())]


def _verdict(
    best: str | None,
    curves: Sequence[Mapping[str, Any]],
    bound: float,
    is_open: bool,
) -> str:
    """The verdict on the best setting: a key of `VERDICTS`."""
    if best is None:
        return "none"
    setting = next(curve["chosen"] for curve in curves if curve["name"] == best)
    difference = setting["test"]["difference"]
    if is_open:
        return "agrees" if difference["value"] >= -bound else "differs"
    if difference["high"] < 0:
        return "measured_loss"
    return "no_loss" if difference["value"] >= -bound else "above_bound"


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The lines below a report's table: its verdict, who is fewest on test, and the cautions."""
    lines = [VERDICTS[report["verdict"]]]
    if report["fewest_on_test"]:
        lines.append(f"Fewest passes on test: {', '.join(report['fewest_on_test'])}.")
    if report["open_text"]:
        lines.append(OPEN_TEXT)
    lines.append(INTERVALS)
    return [*lines, FEW] if min(report["items"].values()) < 100 else lines
