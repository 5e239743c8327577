"""What the samples of a run say: curves, areas, operating points chosen on dev and reported on
test, and one paragraph of words.

The order of the samples does not matter.
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
    Interval,
    area_under_curve,
    areas_under_curves,
    percentile_interval,
    resampled_means,
    stratified_mean,
)
from creditdecoding.errors import OptionError
from creditdecoding.eval.sweep import REFERENCE, DecoderCurve, all_specs
from creditdecoding.eval.words import paragraph, setting

BOUND = 1.0
PASSES_DIGITS = 2
"""Digits of passes that tables show: settings that look alike there are ties."""
BASELINE = "threshold"
"""The curve that areas are compared with, where it is in the run."""

_FIELDS = ("right", "nfe", "sequence_forwards", "tokens")
_SCORE, _NFE, _FORWARDS, _TOKENS = range(4)


@dataclass(frozen=True)
class Table:
    """The numbers of one split: `values` [templates, items, decoders, fields], the family of each
    item; score in percent.
    """

    families: tuple[str, ...]
    strata: tuple[int, ...]
    specs: tuple[str, ...]
    values: FloatArray

    @property
    def pooled(self) -> FloatArray:
        """[items, decoders, fields]: an item counts once, as the mean over its templates."""
        return np.asarray(self.values.mean(axis=0))


@dataclass(frozen=True)
class Measured:
    """Means of every decoder [decoders, fields] and their resamples [resamples, decoders] of score,
    passes and tokens.
    """

    specs: tuple[str, ...]
    means: FloatArray
    scores: FloatArray
    passes: FloatArray
    tokens: FloatArray

    def at(self, spec: str) -> int:
        """Column of a decoder."""
        return self.specs.index(spec)

    def gain(self, spec: str, other: str = REFERENCE) -> Interval:
        """Score of `spec` minus that of `other`, in points."""
        a, b = self.at(spec), self.at(other)
        return percentile_interval(
            self.means[a, _SCORE] - self.means[b, _SCORE], self.scores[:, a] - self.scores[:, b]
        )

    def speedup(self, spec: str, other: str = REFERENCE) -> Interval:
        """Passes of `other` divided by those of `spec`."""
        a, b = self.at(spec), self.at(other)
        return percentile_interval(
            self.means[b, _NFE] / self.means[a, _NFE], self.passes[:, b] / self.passes[:, a]
        )

    def score(self, spec: str) -> Interval:
        """Score in percent."""
        at = self.at(spec)
        return percentile_interval(self.means[at, _SCORE], self.scores[:, at])

    def per_token(self, spec: str) -> Interval:
        """Passes divided by answer tokens."""
        at = self.at(spec)
        return percentile_interval(
            self.means[at, _NFE] / max(1e-9, self.means[at, _TOKENS]),
            self.passes[:, at] / np.maximum(1e-9, self.tokens[:, at]),
        )

    def numbers(self, spec: str) -> dict[str, Any]:
        """A JSON-ready record of one decoder."""
        return {
            **self.plain(spec),
            "difference": self.gain(spec).rounded(2),
            "speedup": self.speedup(spec).rounded(3),
        }

    def plain(self, spec: str) -> dict[str, Any]:
        """The numbers of one decoder that need no other."""
        _, nfe, forwards, tokens = self.means[self.at(spec)]
        plain = {
            "nfe": round(nfe, 3),
            "sequence_forwards": round(forwards, 3),
            "tpf": round(tokens / nfe, 3),
        }
        return {"score": self.score(spec).rounded(2), **plain}


def tabulate(
    records: Sequence[Mapping[str, Any]], split: str, found: Sequence[DecoderCurve]
) -> tuple[Table, tuple[str, ...]]:
    """The samples of a split as a table, and the names of its templates. Raises `OptionError` where
    one is missing.
    """
    mine = [record for record in records if record["split"] == split]
    templates = tuple(sorted({record["template"] for record in mine}))
    names = tuple(dict.fromkeys(sorted(record["family"] for record in mine)))
    places = sorted({(names.index(record["family"]), record["item"]) for record in mine})
    wanted = tuple(all_specs(found))
    row, column = (
        {place: i for i, place in enumerate(places)},
        {spec: i for i, spec in enumerate(wanted)},
    )
    values = np.full((len(templates), len(places), len(wanted), len(_FIELDS)), np.nan)
    for record in mine:
        place = (
            templates.index(record["template"]),
            row[names.index(record["family"]), record["item"]],
            column[record["decoder"]],
        )
        values[place] = [100.0 * record["right"], *(record[name] for name in _FIELDS[1:])]
    if not values.size or np.isnan(values).any():
        raise OptionError(
            f"samples of the {split} split are missing",
            given=int(np.isnan(values[..., 0]).sum()),
            hint="Run credit compare again.",
        )
    return Table(names, tuple(family for family, _ in places), wanted, values), templates


def measure(
    values: FloatArray, strata: Sequence[int], wanted: Sequence[str], resamples: int, seed: int
) -> Measured:
    """Means and resamples of [items, decoders, fields]."""
    items, count = values.shape[:2]
    means = stratified_mean(values.reshape(items, -1), strata).reshape(count, -1)
    drawn = values[:, :, [_SCORE, _NFE, _TOKENS]].reshape(items, -1)
    draws = resampled_means(drawn, strata, resamples, seed).reshape(resamples, count, -1)
    return Measured(tuple(wanted), means, draws[..., 0], draws[..., 1], draws[..., 2])


def choose(curve: DecoderCurve, dev: Measured, bound: float) -> str | None:
    """The setting with the fewest passes that loses nothing measurable on the dev split, None where
    every one does.

    Against standard decoding the difference of scores must be -`bound` points or more, and its
    interval must reach 0. Equal
    passes: the higher score, then the earlier one.
    """
    fine = []
    for number, point in enumerate(curve.points):
        gain = dev.gain(point.spec)
        if gain.value >= -bound and gain.high >= 0:
            score, nfe = dev.means[dev.at(point.spec), [_SCORE, _NFE]]
            fine.append((nfe, -score, number, point.spec))
    return min(fine)[3] if fine else None


def compare_report(
    records: Sequence[Mapping[str, Any]],
    found: Sequence[DecoderCurve],
    bound: float = BOUND,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The report as JSON-ready data. Raises `OptionError` where samples are missing."""
    table_dev, _ = tabulate(records, "dev", found)
    table, templates = tabulate(records, "test", found)
    dev = measure(table_dev.pooled, table_dev.strata, table_dev.specs, resamples, seed)
    test = measure(table.pooled, table.strata, table.specs, resamples, seed + 1)
    chosen = {curve.name: choose(curve, dev, bound) for curve in found}
    kept = [test.at(spec) for spec in dict.fromkeys([REFERENCE, *filter(None, chosen.values())])]
    by_template = {
        name: measure(
            table.values[i][:, kept],
            table.strata,
            [table.specs[column] for column in kept],
            resamples,
            seed + 1,
        )
        for i, name in enumerate(templates)
    }
    wide = _areas(found, test)
    shown = []
    for curve in found:
        spec = chosen[curve.name]
        shown.append(
            {
                "name": curve.name,
                "knob": curve.knob,
                "points": [_point(point.value, point.spec, dev, test) for point in curve.points],
                "chosen": None
                if spec is None
                else _chosen(curve, spec, dev, test, table, by_template),
                **wide["curves"][curve.name],
            }
        )
    report: dict[str, Any] = {
        "reference": _chosen(None, REFERENCE, dev, test, table, by_template),
        "curves": shown,
        "families": list(table.families),
        "templates": list(templates),
        "items": {"dev": len(table_dev.strata), "test": len(table.strata)},
        "bound": bound,
        "resamples": resamples,
        "area_range": wide["range"],
        "baseline": BASELINE if any(curve.name == BASELINE for curve in found) else None,
    }
    report["chosen_on"], report["reported_on"] = "dev", "test"
    report["best"], report["against_best"] = _against_best(shown, dev, test)
    report["fewest_on_test"] = _fewest(shown, "test")
    report["words"] = paragraph(report)
    return report


def _point(value: str, spec: str, dev: Measured, test: Measured) -> dict[str, Any]:
    return {"value": value, "decoder": spec, "dev": dev.numbers(spec), "test": test.numbers(spec)}


def _chosen(
    curve: DecoderCurve | None,
    spec: str,
    dev: Measured,
    test: Measured,
    table: Table,
    by_template: Mapping[str, Measured],
) -> dict[str, Any]:
    """A setting with its numbers on both splits, by family and by template; the latter two on test."""
    column, strata = table.specs.index(spec), np.asarray(table.strata)
    families = {}
    for number, name in enumerate(table.families):
        score, nfe = table.pooled[strata == number, column][:, [_SCORE, _NFE]].mean(axis=0)
        families[name] = {
            "score": round(float(score), 2),
            "nfe": round(float(nfe), 3),
            "items": int((strata == number).sum()),
        }
    value = next((point.value for point in curve.points if point.spec == spec), "") if curve else ""
    return {
        **_point(value, spec, dev, test),
        "label": setting(curve.name, curve.knob, value) if curve else "standard decoding",
        "families": families,
        "templates": {name: measured.numbers(spec) for name, measured in by_template.items()},
    }


def _areas(found: Sequence[DecoderCurve], test: Measured) -> dict[str, Any]:
    """Area under each swept curve over the range that all share, and its difference to the
    baseline's over the range of the two.

    Every curve ends in standard decoding, which is what each rule becomes as it grows strict.
    """
    last = float(test.means[test.at(REFERENCE), _NFE])
    columns = {
        c.name: [test.at(s) for s in dict.fromkeys([*(p.spec for p in c.points), REFERENCE])]
        for c in found
        if len(c.points) > 1
    }
    first = {name: float(test.means[at, _NFE].min()) for name, at in columns.items()}
    shared = max(first.values(), default=last)
    few = slice(0, AREA_RESAMPLES)

    def of(name: str, low: float) -> tuple[float, FloatArray]:
        at = columns[name]
        value = area_under_curve(test.means[at, _NFE], test.means[at, _SCORE], low, last)
        return value, areas_under_curves(test.passes[few, at], test.scores[few, at], low, last)

    shown: dict[str, dict[str, Any]] = {
        curve.name: {"area": None, "area_difference": None} for curve in found
    }
    for name in columns:
        if shared < last:
            shown[name]["area"] = percentile_interval(*of(name, shared)).rounded(2)
        low = max(first[name], first.get(BASELINE, last))
        if name != BASELINE and BASELINE in columns and low < last:
            (mine, draws), (other, theirs) = of(name, low), of(BASELINE, low)
            shown[name]["area_difference"] = {
                **percentile_interval(mine - other, draws - theirs).rounded(2),
                "from": round(low, 3),
                "to": round(last, 3),
            }
    return {
        "curves": shown,
        "range": [round(shared, 3), round(last, 3)] if columns and shared < last else None,
    }


def _against_best(
    shown: Sequence[Mapping[str, Any]], dev: Measured, test: Measured
) -> tuple[str | None, list[dict[str, Any]]]:
    """The curve whose operating point took the fewest passes on dev, and on test every other one
    beside it.

    Equal passes on dev: the higher score there, then the earlier curve.
    """
    chosen = {
        each["name"]: each["chosen"]["decoder"] for each in shown if each["chosen"] is not None
    }
    if not chosen:
        return None, []

    def order(name: str) -> tuple[float, float]:
        score, nfe = dev.means[dev.at(chosen[name]), [_SCORE, _NFE]]
        return float(nfe), -float(score)

    best = min(chosen, key=order)
    rows = []
    for name, spec in chosen.items():
        if name != best:
            slower, gain = test.speedup(chosen[best], spec), test.gain(spec, chosen[best])
            rows.append(
                {
                    "name": name,
                    "passes_ratio": slower.rounded(3),
                    "difference": gain.rounded(2),
                    "passes_significant": slower.low > 1 or slower.high < 1,
                    "score_significant": gain.excludes_zero,
                }
            )
    return best, rows


def _fewest(shown: Sequence[Mapping[str, Any]], split: str) -> list[str]:
    """The curves whose operating points take the fewest passes of a split, to the digits that
    tables show.
    """
    passes = {
        each["name"]: round(each["chosen"][split]["nfe"], PASSES_DIGITS)
        for each in shown
        if each["chosen"] is not None
    }
    return [name for name, count in passes.items() if count == min(passes.values())]
