"""Decoders with the settings to compare them at: each one's main knob and its values, as data, and
the text that overrides them.

`fixed threshold:threshold=0.8|0.9 credit:beta=0` is three curves: `fixed` over the sweep that its
file declares, `threshold` at two settings, `credit` without memory over the sweep of its main knob.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.decoders import decoder_class, load, names
from creditdecoding.decoders.base import BaseDecoder, Sweep
from creditdecoding.errors import OptionError
from creditdecoding.options import split_spec

REFERENCE = "fixed:k=1"
"""Standard decoding: the most confident token, one a pass."""


def sweep_of(name: str) -> Sweep | None:
    """The sweep that a decoder's class declares; None for a decoder without one, and for a file."""
    if name not in names(controls=True):
        return None
    cls = decoder_class(name)
    return cls.sweep if issubclass(cls, BaseDecoder) else None


@dataclass(frozen=True)
class CurvePoint:
    """One setting of a curve: the value of its knob ("" where it has none), and the decoder as
    text.
    """

    value: str
    spec: str


@dataclass(frozen=True)
class DecoderCurve:
    """A decoder over the values of one knob; `knob` is "" for a single setting."""

    name: str
    knob: str
    points: tuple[CurvePoint, ...]


def parse_curves(text: str) -> list[DecoderCurve]:
    """The curves of a text of decoders separated by blanks, or `all`; every setting is checked.
    Raises `OptionError`.
    """
    words = [
        word
        for part in text.split()
        for word in (names(controls=True) if part == "all" else [part])
    ]
    if not words:
        raise OptionError(
            "no decoder to compare",
            allowed=f"all, {', '.join(names(controls=True))}",
            hint='Name some: --decoders "threshold credit".',
        )
    found = {curve.name: curve for curve in map(_curve, dict.fromkeys(words))}
    return list(_once(list(found.values())))


def all_specs(found: Sequence[DecoderCurve]) -> list[str]:
    """Every decoder of the curves once, standard decoding first."""
    return list(
        dict.fromkeys([REFERENCE, *(point.spec for curve in found for point in curve.points)])
    )


def _curve(word: str) -> DecoderCurve:
    """One entry: its name without the knob that is swept, and its settings."""
    name, knobs = split_spec(word, "decoder")
    load(name)
    listed = [knob for knob, value in knobs.items() if "|" in value]
    if len(listed) > 1:
        raise OptionError(
            "a curve has one knob with several values",
            given=word,
            hint=f"Give one of {', '.join(listed)} a single value.",
        )
    sweep = sweep_of(name)
    if listed:
        knob, values = listed[0], knobs[listed[0]].split("|")
        ties: tuple[tuple[str, float, float], ...] = ()
    elif sweep is not None and sweep.knob not in knobs:
        knob, values, ties = sweep.knob, [f"{value:g}" for value in sweep.values], sweep.tied
    else:
        return DecoderCurve(word, "", (_point("", name, knobs),))
    if "" in values:
        raise OptionError(
            f"no value between two bars for {knob}",
            given=word,
            allowed="VALUE|VALUE|...",
            hint="Take the extra bar out.",
        )
    kept = {key: value for key, value in knobs.items() if key != knob}
    points = []
    for value in values:
        tied = {
            key: f"{round(slope * float(value) + offset, 6):g}"
            for key, slope, offset in ties
            if key not in kept
        }
        points.append(_point(value, name, {knob: value, **tied, **kept}))
    return DecoderCurve(_text(name, kept), knob, tuple(points))


def _text(name: str, knobs: Mapping[str, str]) -> str:
    return f"{name}:{','.join(f'{key}={value}' for key, value in knobs.items())}" if knobs else name


def _point(value: str, name: str, knobs: Mapping[str, str]) -> CurvePoint:
    spec = _text(name, knobs)
    load(spec)
    return CurvePoint(value, spec)


def _once(found: Sequence[DecoderCurve]) -> list[DecoderCurve]:
    """The same curves, where two settings are the same decoder both under the text that came first."""
    known: dict[Any, str] = {load(REFERENCE): REFERENCE}
    chosen = []
    for curve in found:
        points = {known.setdefault(load(point.spec), point.spec): point for point in curve.points}
        chosen.append(
            dataclasses.replace(
                curve,
                points=tuple(
                    dataclasses.replace(point, spec=spec) for spec, point in points.items()
                ),
            )
        )
    return chosen
