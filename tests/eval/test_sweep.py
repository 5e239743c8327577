"""Sweeps of the decoders' knobs, and the texts that name them; prompt templates."""

from __future__ import annotations

import pytest

from creditdecoding.decoders import create, names, resolve, settings
from creditdecoding.decoders.base import THRESHOLD_SWEEP
from creditdecoding.errors import OptionError
from creditdecoding.eval.sweep import REFERENCE, DecoderCurve, all_specs, parse_curves, sweep_of
from creditdecoding.tasks.templates import TEMPLATES, apply_template, parse_templates


def test_every_sweep_is_of_a_decoder_that_is_there() -> None:
    curves = {curve.name: curve for curve in parse_curves("all")}
    assert set(curves) == set(names(controls=True))
    for name, curve in curves.items():
        sweep = sweep_of(name)
        assert sweep is not None and sweep.knob in settings(create(name))
        assert len(curve.points) == len(sweep.values)
        for point in curve.points:
            resolve(point.spec)
    for name in ("stable", "localleap", "hierarchy", "prophet"):  # tied knobs meet the defaults
        assert (
            any(resolve(point.spec) == resolve(name) for point in parse_curves(name)[0].points)
            or name == "stable"
        )
    assert resolve(
        next(point.spec for point in parse_curves("stable")[0].points if point.value == "0.8")
    ) == resolve("stable")


def test_the_text_of_decoders() -> None:
    swept, pinned, alone = parse_curves(
        "threshold:threshold=0.8|0.9 credit:beta=0 klass:threshold=0.7"
    )
    assert swept == DecoderCurve("threshold", "threshold", swept.points) and [
        point.value for point in swept.points
    ] == ["0.8", "0.9"]
    assert (
        pinned.name == "credit:beta=0"
        and pinned.knob == "threshold"
        and len(pinned.points) == len(THRESHOLD_SWEEP.values)
    )
    assert alone.knob == "" and [point.spec for point in alone.points] == ["klass:threshold=0.7"]
    both = parse_curves("fixed:k=1|2 fixed:k=2|4,order=low_confidence")
    assert all_specs(both) == [
        REFERENCE,
        "fixed:k=2",
        "fixed:k=4,order=low_confidence",
    ]  # the same decoder is run once


def test_a_second_threshold_follows_values_that_are_given() -> None:
    (swept,) = parse_curves("stable:threshold=0.9|0.98")
    assert [point.spec for point in swept.points] == [
        "stable:threshold=0.9,sure=0.95",
        "stable:threshold=0.98,sure=0.99",
    ]
    usual = {point.value: point.spec for point in parse_curves("stable")[0].points}
    assert swept.points[1].spec == usual["0.98"]
    (pinned,) = parse_curves("stable:threshold=0.9|0.98,sure=0.95")
    assert [resolve(point.spec) for point in pinned.points] == [
        create("stable", threshold=threshold, sure=0.95) for threshold in (0.9, 0.98)
    ]
    (other_knob,) = parse_curves("stable:k=1|2")
    assert [point.spec for point in other_knob.points] == ["stable:k=1", "stable:k=2"]


def test_a_second_threshold_stays_within_its_bounds() -> None:
    (curve,) = parse_curves("hierarchy:threshold=0.5|0.9")
    assert [point.spec for point in curve.points] == [
        "hierarchy:threshold=0.5,low=0",
        "hierarchy:threshold=0.9,low=0.4",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no decoder"),
        ("credits", "credit"),
        ("credit:alhpa=1|2", "alpha"),
        ("credit:threshold=0.8|0.9,alpha=0|1", "one knob"),
        ("credit:threshold=0.8||0.9", "no value"),
        ("credit:threshold=0.8|1.5", "out of range"),
        ("credit:threshold", "knob=value"),
    ],
)
def test_a_bad_text_of_decoders_is_refused(text: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        parse_curves(text)


def test_templates_are_three_or_more_and_keep_the_question() -> None:
    assert (
        len(TEMPLATES) >= 3
        and parse_templates("steps, plain,steps") == ["steps", "plain"]
        and parse_templates("all") == list(TEMPLATES)
    )
    question = "What does f{x} print? {question}"
    assert apply_template("plain", question) == question
    assert all(question in apply_template(name, question) for name in TEMPLATES)
    for bad in ("stpes", " , "):
        with pytest.raises(OptionError):
            parse_templates(bad)
