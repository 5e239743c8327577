"""Texts that name decoders and the settings to compare them at.

`fixed threshold:threshold=0.8|0.9 credit:beta=0` is three curves: `fixed` over the sweep that its
file declares, `threshold` at two settings, and `credit` without memory over its declared sweep. A
second threshold follows the main knob in every sweep, unless it is given.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.decoders import class_of, load, names
from creditdecoding.decoders._files import is_file as is_settings_file
from creditdecoding.decoders.base import Sweep
from creditdecoding.errors import OptionError
from creditdecoding.options import split_spec

REFERENCE = "fixed:k=1"
"""Standard decoding: the most confident token, one a pass."""


@dataclass(frozen=True)
class CurvePoint:
    """One setting: the value of the curve's knob ("" without one), and the decoder as text."""

    value: str
    spec: str


@dataclass(frozen=True)
class DecoderCurve:
    """A decoder over the values of one knob; `knob` is "" for a single setting."""

    name: str
    knob: str
    points: tuple[CurvePoint, ...]


def sweep_of(name: str) -> Sweep | None:
    """The sweep that a decoder's class declares; None for a class without one, and for a file of
    settings. Raises `OptionError`.
    """
    if is_settings_file(name):
        return None
    sweep: Sweep | None = getattr(class_of(name), "sweep", None)
    return sweep


def parse_curves(text: str) -> list[DecoderCurve]:
    """The curves of decoders separated by blanks, or of `all`, every setting checked.

    Quotes keep the blanks of a path together. Settings that are the same decoder get the text that
    came first. Raises `OptionError`.
    """
    entries: list[str] = []
    for entry in split_blanks(text):
        entries += names(controls=True) if entry == "all" else [entry]
    if not entries:
        raise OptionError(
            "no decoder to compare",
            allowed=f"all, {', '.join(names(controls=True))}",
            hint='Name some: --decoders "threshold credit".',
        )
    curves = {curve.name: curve for curve in map(_parse_curve, dict.fromkeys(entries))}
    specs: dict[Any, str] = {load(REFERENCE): REFERENCE}
    unique = []
    for curve in curves.values():
        points: dict[str, CurvePoint] = {}
        for point in curve.points:
            spec = specs.setdefault(load(point.spec), point.spec)
            points[spec] = replace(point, spec=spec)
        unique.append(replace(curve, points=tuple(points.values())))
    return unique


def split_blanks(text: str) -> list[str]:
    """The decoders of a text, which blanks separate; quotes keep blanks. Raises `OptionError`."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(
            f"the decoders cannot be told apart ({error})", given=text, hint="Close the quotes."
        ) from error


def all_specs(curves: Sequence[DecoderCurve]) -> list[str]:
    """Every decoder of the curves once, standard decoding first."""
    specs = [point.spec for curve in curves for point in curve.points]
    return list(dict.fromkeys([REFERENCE, *specs]))


def _parse_curve(text: str) -> DecoderCurve:
    """One entry: its name without the knob that is swept, and its settings."""
    name, knobs = split_spec(text, "decoder")
    load(name)
    swept = [knob for knob, value in knobs.items() if "|" in value]
    sweep = sweep_of(name)
    if len(swept) > 1:
        raise OptionError(
            "a curve has one knob with several values",
            given=text,
            hint=f"Give one of {', '.join(swept)} a single value.",
        )
    if swept:
        knob = swept[0]
        points = [_given_point(name, sweep, knob, value) for value in knobs[knob].split("|")]
    elif sweep is not None and sweep.knob not in knobs:
        knob = sweep.knob
        points = [_given_point(name, sweep, knob, f"{value:g}") for value in sweep.values]
    else:
        return DecoderCurve(text, "", (_point("", name, knobs),))
    if any(point[knob] == "" for point in points):
        raise OptionError(
            f"no value between two bars for {knob}",
            given=text,
            allowed="VALUE|VALUE|...",
            hint="Take the extra bar out.",
        )
    pinned = {key: value for key, value in knobs.items() if key != knob}
    settings = tuple(_point(point[knob], name, {**point, **pinned}) for point in points)
    return DecoderCurve(_spec(name, pinned), knob, settings)


def _given_point(name: str, sweep: Sweep | None, knob: str, value: str) -> dict[str, str]:
    """The knobs of one setting: the swept one, and those tied to it if it is the main one."""
    point = {knob: value}
    if sweep is None or knob != sweep.knob:
        return point
    try:
        number = float(value)
    except ValueError:
        return point  # refused with the decoder's own error
    for tied, slope, offset in sweep.tied:
        follows = _within_bounds(name, tied, slope * number + offset)
        point[tied] = f"{round(follows, 6):g}"
    return point


def _within_bounds(name: str, knob: str, value: float) -> float:
    """The allowed value of a knob that is nearest to this one."""
    declared = {field.name: field.metadata for field in dataclasses.fields(class_of(name))}
    least, most = declared[knob].get("ge"), declared[knob].get("le")
    value = value if least is None else max(value, least)
    return value if most is None else min(value, most)


def _point(value: str, name: str, knobs: Mapping[str, str]) -> CurvePoint:
    spec = _spec(name, knobs)
    load(spec)
    return CurvePoint(value, spec)


def _spec(name: str, knobs: Mapping[str, str]) -> str:
    assignments = ",".join(f"{knob}={value}" for knob, value in knobs.items())
    return f"{name}:{assignments}" if assignments else name
