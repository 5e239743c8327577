"""What a table of orthogonality and curves of scaling say, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.eval.words import listing, signed

_FEW = 100


def orthogonality_words(report: Mapping[str, Any]) -> list[str]:
    """Sentences on the last decoder beside each of the others, and on what could not be measured."""
    settings = [each for each in report["settings"] if each["reason"] is None]
    missing = [
        f"{each['name']} ({each['reason'].rstrip('.')})"
        for each in report["settings"]
        if each["reason"] is not None
    ]
    *others, last = report["decoders"]
    said = [sentence for other in others for sentence in _pair(settings, last, other)]
    said += [_drift(settings, report["decoders"])]
    if missing:
        said.append(f"Not measured: {'; '.join(missing)}.")
    said.append(
        f"Times are ratios of {report['clock']}, after loading and warming up. Intervals are 95 % ones, each by itself."
    )
    return [*said, *_few(report["items"])]


def _pair(settings: Sequence[Mapping[str, Any]], last: str, other: str) -> list[str]:
    """Passes, time and score of `last` beside `other` under every setting."""
    beside = {each["name"]: _record(each, last)["against"][other] for each in settings}
    base, rest = beside["base"], {name: found for name, found in beside.items() if name != "base"}
    said = [f"{last} takes {_times(base['fewer'])} times fewer passes than {other} at the base."]
    if rest:
        values = [found["fewer"]["value"] for found in rest.values()]
        lost = [name for name, found in rest.items() if found["fewer"]["low"] <= 1]
        if base["fewer"]["low"] <= 1:
            verdict = (
                "there is no gain in passes to persist"
                if base["fewer"]["high"] >= 1
                else "it takes more passes to begin with"
            )
        else:
            verdict = (
                "the gain in passes persists under each"
                if not lost
                else f"the gain in passes does not persist under {listing(lost)}"
            )
        said.append(f"Under the other settings it takes {_span(values, 2)} times fewer: {verdict}.")
        kept = sorted((found["kept"], name) for name, found in rest.items())
        ends = [
            f"{100 * share:.0f} % is left under {name}"
            for share, name in dict.fromkeys((kept[0], kept[-1]))
        ]
        said.append(
            f"In time it is {base['faster']['value']:.2f} times as fast as {other} at the base. Of this factor {listing(ends)}; "
            "at 100 % the two speed-ups multiply."
        )
    clear = [
        f"{name} ({signed(found['difference'])})"
        for name, found in beside.items()
        if not _reaches_zero(found["difference"])
    ]
    spread = _span([found["difference"]["value"] for found in beside.values()], 1, "+")
    tail = f"significant under {listing(clear)}" if clear else "significant under none"
    return [
        " ".join([*said, f"Its score differs from that of {other} by {spread} points, {tail}."])
    ]


def _drift(settings: Sequence[Mapping[str, Any]], decoders: Sequence[str]) -> str:
    """Which settings change a decoder's own score."""
    changed = [
        f"{each['name']} with {spec} ({signed(found)})"
        for each in settings
        for spec in decoders
        if not _reaches_zero(found := _record(each, spec)["against_base"]["difference"])
    ]
    return f"Score changed significantly against the same decoder's base: {listing(changed) if changed else 'nowhere'}."


def scaling_words(report: Mapping[str, Any]) -> list[str]:
    """Sentences on each sweep: passes per answer token, and the last decoder beside each of the
    others.
    """
    *others, last = report["decoders"]
    return [
        *(_swept(sweep, last, others) for sweep in report["sweeps"] if sweep["points"]),
        *_few(report["items"]),
    ]


def _swept(sweep: Mapping[str, Any], last: str, others: Sequence[str]) -> str:
    """One sweep, from its first to its last point."""
    points = sweep["points"]
    ends = [points[0]["label"], points[-1]["label"]]
    said = []
    for spec in (*others, last):
        first, final = (_record(point, spec)["per_token"] for point in (points[0], points[-1]))
        way = (
            "falls"
            if final["high"] < first["low"]
            else "grows"
            if final["low"] > first["high"]
            else "does not change significantly"
        )
        said.append(f"{spec} {way} ({first['value']:.3f} to {final['value']:.3f})")
    text = f"Passes per answer token over {sweep['title']}, from {ends[0]} to {ends[1]}: {'; '.join(said)}."
    for other in others:
        found = [_record(point, last)["against"][other] for point in points]
        sure = sum(each["fewer"]["low"] > 1 for each in found)
        worse = [
            point["label"] for point, each in zip(points, found) if each["difference"]["high"] < 0
        ]
        text += (
            f" {last} takes {_span([each['fewer']['value'] for each in found], 2)} times fewer passes than {other}, significantly fewer at "
            f"{sure} of {len(points)} points"
            + (f", with a significantly lower score at {listing(worse)}." if worse else ".")
        )
    cut = [
        f"{point['label']} ({point['too_long']} of {point['items']})"
        for point in points
        if point["too_long"]
    ]
    return text + (
        f" Reference answers that do not fit with their end token: {listing(cut)}." if cut else ""
    )


def _record(setting: Mapping[str, Any], spec: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(each for each in setting["decoders"] if each["decoder"] == spec)
    return found


def _times(found: Mapping[str, float]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _span(values: Sequence[float], digits: int, sign: str = "") -> str:
    """`1.03 to 1.08`, or one number where both ends read the same."""
    low, high = (f"{value:{sign}.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _reaches_zero(found: Mapping[str, float]) -> bool:
    return found["low"] <= 0 <= found["high"]


def _few(items: int) -> list[str]:
    return [f"Few items ({items}): intervals are rough."] if items < _FEW else []
