"""The numbers of a comparison in words: what was reached, what is significant, and what the items
cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

CHOICE = "Settings are chosen on dev and reported on test."
_FEW = 100


def paragraph(report: Mapping[str, Any]) -> list[str]:
    """Sentences, the most important first."""
    chosen = [each for each in report["curves"] if each["chosen"] is not None]
    return [
        sentence
        for sentence in (
            _reached(report, chosen),
            *_significance(report, chosen),
            _areas(report),
            _caution(report, chosen),
        )
        if sentence
    ]


def label(curve: Mapping[str, Any]) -> str:
    """A curve's operating point as `credit (threshold 0.95)`."""
    return setting(curve["name"], curve["knob"], curve["chosen"]["value"])


def setting(name: str, knob: str, value: str) -> str:
    """A setting for people to read."""
    return f"{name} ({value if knob == name else f'{knob} {value}'})" if value else name


def signed(found: Mapping[str, float]) -> str:
    """`-0.4 [-1.2, 0.3]`."""
    return f"{found['value']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"


def listing(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _reached(report: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> str:
    standard = report["reference"]["test"]
    opening = f"Standard decoding scores {standard['score']['value']:.1f} % with {standard['nfe']:.1f} passes ({report['items']['test']} test items)."
    if report["best"] is None:
        return f"{opening} {CHOICE} No setting of any decoder is without a measurable loss on the dev split."
    best = next(each for each in chosen if each["name"] == report["best"])
    test = best["chosen"]["test"]
    times = test["speedup"]
    gain = test["difference"]
    if gain["high"] < 0:
        verdict = "a loss that the test split does measure"
    elif gain["value"] >= -report["bound"]:
        verdict = "no measurable loss on the test split either"
    else:
        verdict = f"more than {report['bound']:g} lost, though not significantly"
    return (
        f"{opening} {CHOICE} Fewest passes on dev without measurable loss: {label(best)}; "
        f"on test it takes {test['nfe']:.2f}, "
        f"{times['value']:.2f} times fewer [{times['low']:.2f}, {times['high']:.2f}], "
        f"score {signed(gain)} points, {verdict}. {_fewest(report, chosen)}"
    )


def _fewest(report: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> str:
    """Whose chosen settings take the fewest passes on test, beside the one that did on dev."""
    first = [each for each in chosen if each["name"] in report["fewest_on_test"]]
    passes = f"{first[0]['chosen']['test']['nfe']:.2f}"
    others = [label(each) for each in first if each["name"] != report["best"]]
    if not others:
        return "No other chosen setting takes as few on test."
    if len(others) < len(first):
        return f"As few on test: {listing(others)}."
    return f"Fewest passes on test: {listing(others)}, {passes}."


def _significance(report: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs from standard decoding, and from the best operating point."""
    lost = [label(each) for each in chosen if each["chosen"]["test"]["difference"]["high"] < 0]
    won = [label(each) for each in chosen if each["chosen"]["test"]["difference"]["low"] > 0]
    rest = [label(each) for each in chosen if label(each) not in (*lost, *won)]
    said = []
    if rest:
        said.append(
            f"Not significant on test: the difference in score between standard decoding and {listing(rest)}."
        )
    for names, way in ((lost, "below"), (won, "above")):
        if names:
            said.append(f"Significantly {way} standard decoding on test: {listing(names)}.")
    rows = report["against_best"]
    groups = (
        (
            "not significantly different in passes",
            [row["name"] for row in rows if not row["passes_significant"]],
        ),
        (
            "significantly more passes",
            [row["name"] for row in rows if row["passes_ratio"]["low"] > 1],
        ),
        (
            "significantly fewer passes on test",
            [row["name"] for row in rows if row["passes_ratio"]["high"] < 1],
        ),
        (
            "not significantly different in score",
            [row["name"] for row in rows if not row["score_significant"]],
        ),
        (
            "significantly different in score",
            [row["name"] for row in rows if row["score_significant"]],
        ),
    )
    if rows:
        said.append(
            f"Beside {report['best']}: "
            + "; ".join(f"{text}: {listing(names)}" for text, names in groups if names)
            + "."
        )
    none = [each["name"] for each in report["curves"] if each["chosen"] is None]
    if none and chosen:
        said.append(f"No setting without measurable loss on dev: {listing(none)}.")
    return said


def _areas(report: Mapping[str, Any]) -> str:
    compared = [
        (each["name"], each["area_difference"])
        for each in report["curves"]
        if each["area_difference"] is not None
    ]
    if not compared:
        return ""
    clear = [
        f"{name} {signed(found)}"
        for name, found in compared
        if found["low"] > 0 or found["high"] < 0
    ]
    level = [name for name, found in compared if not (found["low"] > 0 or found["high"] < 0)]
    parts = [f"differ from that of {report['baseline']}: {listing(clear)} points" if clear else ""]
    parts.append(
        f"do not differ significantly from that of {report['baseline']}: {listing(level)}"
        if level
        else ""
    )
    return "Areas under the curves that " + "; that ".join(part for part in parts if part) + "."


def _caution(report: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> str:
    others = [
        each["chosen"]["test"]["difference"]
        for each in chosen
        if each["chosen"]["decoder"] != report["reference"]["decoder"]
    ]
    text = "Every interval is a 95 % one by itself; none is corrected for their number."
    if others:
        seen = median((found["high"] - found["low"]) / 2 for found in others)
        if seen >= 0.05:
            text += f" A difference in score of less than about {seen:.1f} points cannot be seen with these items."
    few = [
        f"{report['items'][split]} {split}"
        for split in ("dev", "test")
        if report["items"][split] < _FEW
    ]
    if few:
        text += f" Only {listing(few)} items: too few for an interval to be trusted; below {_FEW} its ends are rough."
    return text
