"""Decoders in words for figures, pages and tables: `threshold:threshold=0.9` is "threshold 0.9"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {"fixed": "standard"}
_BARE_KNOBS = ("threshold", "confidence")
"""Knobs whose value alone says enough."""
QUALITY_COLUMNS = {
    "nfe": ("passes", 2),
    "nll": ("NLL a token", 2),
    "distinct_2": ("distinct 2-grams", 3),
    "distinct_3": ("distinct 3-grams", 3),
    "doubled": ("doubled words", 2),
    "agreement": ("agreement", 3),
    "equal": ("equal answers", 3),
}
"""Measures of text without a gold answer, in the order of tables: a title, and decimals."""


def spec_label(spec: str) -> str:
    """A decoder's spec, `name:knob=value,knob=value`, in words."""
    name, _, text = spec.partition(":")
    pairs = (part.partition("=") for part in text.split(",") if part)
    return settings_label({"name": name, **{knob: value for knob, _, value in pairs}})


def decoder_label(decoder: str | Mapping[str, Any]) -> str:
    """A decoder in words, given by its spec or by its settings."""
    return spec_label(decoder) if isinstance(decoder, str) else settings_label(decoder)


def settings_label(settings: Mapping[str, Any]) -> str:
    """A decoder's `name` and some of its knobs in words."""
    knobs = {knob: value for knob, value in settings.items() if knob != "name"}
    name = settings["name"]
    if name == "fixed" and str(knobs.get("k", 1)) != "1":
        return f"{knobs['k']} tokens a pass"
    if name == "fixed":
        knobs.pop("k", None)
    words = ", ".join(_knob_words(knob, str(value)) for knob, value in knobs.items())
    return f"{name_label(name)} {words}" if words else name_label(name)


def name_label(name: str) -> str:
    """A decoder's name, or a method's, in words."""
    return _NAMES.get(name, name.replace("_", " "))


def _knob_words(knob: str, value: str) -> str:
    if knob in _BARE_KNOBS:
        return value
    return f"{knob.replace('_', ' ')} {value}"
