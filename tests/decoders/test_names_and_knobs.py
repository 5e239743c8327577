"""Decoders by name, text and mapping: knobs are checked, unknown names refused, controls hidden."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import pytest

from creditdecoding.decoders import create, decoder_class, describe, names, resolve
from creditdecoding.decoders import settings as settings_of
from creditdecoding.decoders._laws import variants
from creditdecoding.decoders.base import Capabilities, Decoder
from creditdecoding.decoders.threshold import Threshold
from creditdecoding.errors import OptionError
from creditdecoding.options import option
from tests.decoders.test_laws import every_decoder


@every_decoder
def test_a_decoder_is_a_frozen_value_with_valid_defaults(name: str) -> None:
    cls = decoder_class(name)
    decoder = create(name)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert isinstance(decoder, Decoder) and decoder == cls() and hash(decoder) == hash(cls())
    assert settings_of(decoder) == {"name": name, **dataclasses.asdict(decoder)}  # type: ignore[call-overload]
    description = describe(name)
    assert (
        description["name"] == name
        and description["rule"]
        and all(knob["help"] for knob in description["knobs"])
    )
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(decoder, field.name, field.default)


def unchecked(cls: type[Any], **knobs: Any) -> Any:
    """A decoder with these knobs, its own check aside and past the type check that tests put in
    front of every call.
    """
    made = object.__new__(cls)
    for name, value in {
        **{field.name: field.default for field in dataclasses.fields(cls)},
        **knobs,
    }.items():
        object.__setattr__(made, name, value)
    return made


@every_decoder
def test_unknown_knobs_and_values_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="unknown option"):
        create(name, no_such_knob=1)
    for field in dataclasses.fields(decoder_class(name)):
        meta, bad = field.metadata, [object()]
        bad += [meta["ge"] - 1] if meta.get("ge") is not None else []
        bad += [meta["gt"]] if meta.get("gt") is not None else []
        bad += [meta["le"] + 1] if meta.get("le") is not None else []
        bad += ["no such choice"] if meta.get("choices") else []
        bad += (
            [math.nan, math.inf, -math.inf, True, "x"] if isinstance(field.default, float) else []
        )
        for value in bad:
            with pytest.raises(OptionError, match=field.name):
                unchecked(decoder_class(name), **{field.name: value}).__post_init__()
            if type(value) is type(field.default):
                with pytest.raises(OptionError, match=field.name):
                    create(name, **{field.name: value})


@every_decoder
@pytest.mark.parametrize("value", (-0.01, 1.01, 2.0, -1.0))
def test_thresholds_outside_zero_to_one_are_refused(name: str, value: float) -> None:
    for field in dataclasses.fields(decoder_class(name)):
        if "threshold" in field.name and isinstance(field.default, float):
            with pytest.raises(OptionError, match=field.name):
                create(name, **{field.name: value})
            with pytest.raises(OptionError, match=field.name):
                resolve(f"{name}:{field.name}={value:g}")


@every_decoder
def test_a_decoder_can_be_written_as_text(name: str) -> None:
    for decoder in variants(create(name)):
        knobs = settings_of(decoder)
        text = ",".join(f"{key}={value}" for key, value in knobs.items() if key != "name")
        assert resolve(f"{name}:{text}") == create(**knobs) == resolve(decoder)
    with pytest.raises(OptionError, match="without a value"):
        resolve(f"{name}:threshold")


def test_a_name_that_no_file_has_is_refused_with_the_nearest() -> None:
    for wrong, near in (("credti", "credit"), ("treshold", "threshold")):
        with pytest.raises(OptionError, match=f"Did you mean '{near}'"):
            create(wrong)
    for wrong in ("base", "_credit", "", "nothing like it"):
        with pytest.raises(OptionError, match="unknown decoder"):
            resolve(wrong)
    with pytest.raises(OptionError, match="not a decoder"):
        resolve(3)
    assert {"credit", "credit_adaptive", "credit_full", "fixed", "threshold"} <= set(names())
    assert all(not name.startswith("_") and name != "base" for name in names(controls=True))


def test_controls_are_known_only_where_they_are_asked_for() -> None:
    controls = {"stable", "credit_blind", "credit_first"}
    assert set(names(controls=True)) - set(names()) == controls
    for name in controls:
        assert resolve(name) == create(name) == resolve({"name": name})
        for decoder in (name, f"{name}:threshold=0.5", {"name": name}):
            with pytest.raises(OptionError, match="unknown decoder"):
                resolve(decoder, controls=False)


def test_the_former_knobs_of_thrift_are_still_read() -> None:
    new = create("thrift", near=1.0, gap=2.0, tail=3.0)
    assert resolve("thrift:leap=1,split=2,finish=3") == new
    assert resolve({"name": "thrift", "leap": 1.0, "gap": 2.0, "finish": 3.0}) == new
    with pytest.raises(OptionError, match="near is given twice"):
        resolve("thrift:leap=1,near=1")


@pytest.mark.parametrize(
    ("former", "capability"),
    [
        ("edits", "can_edit"),
        ("revokes", "can_remask"),
        ("shadows", "leave_one_out"),
        ("ahead", "looks_ahead"),
        ("dense", "dense_state"),
    ],
)
def test_attributes_that_are_no_longer_read_are_refused(former: str, capability: str) -> None:
    old = type("Old", (Threshold,), {former: True})
    with pytest.raises(OptionError, match=rf"{former} = True.*Capabilities\({capability}=True\)"):
        resolve(old())
    declared = {former: True, "capabilities": Capabilities(**{capability: True})}
    new = type("New", (Threshold,), declared)()
    assert resolve(new) is new


def test_a_knob_may_have_the_name_of_a_former_attribute() -> None:
    @dataclasses.dataclass(frozen=True)
    class Old(Threshold):
        ahead: ClassVar[bool] = True

    @dataclasses.dataclass(frozen=True)
    class New(Threshold):
        ahead: bool = option(True, "Any knob.")

    with pytest.raises(OptionError, match="looks_ahead"):
        resolve(Old())
    assert resolve(New()) == New()


def test_decoders_differ() -> None:
    """No two names give the same object, nor compare equal with their defaults."""
    assert all(
        a != b
        for a, b in itertools.combinations([create(name) for name in names(controls=True)], 2)
    )
