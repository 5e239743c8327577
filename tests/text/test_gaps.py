"""Markers of missing tokens."""

from __future__ import annotations

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.text.gaps import Gap, split_gaps


def test_pieces_of_a_text() -> None:
    pieces = split_gaps("a [MASK] b[MASK*12][MASK].", 20)
    assert pieces == ["a", Gap(1, False), " b", Gap(12, True), Gap(1, False), "."]
    assert split_gaps("[mask] MASK] [MASK]", 1) == ["[mask] MASK]", Gap(1, False)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("plain", "no mask"),
        ("", "no mask"),
        ("[MASK*0]", r"\[MASK\*0\]"),
        ("[MASK] [MASK*x]", r"\[MASK\*x\]"),
        ("[MASK*]", "malformed"),
        ("[MASK *2]", "malformed"),
        ("[MASK", "malformed"),
        ("[MASK*-1]", "malformed"),
        ("[MASK*9]", "got .9 tokens.; allowed: 8"),
        ("[MASK*999999999]", "longer than the model"),
        ("[MASK*" + "9" * 500 + "]", "malformed"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        split_gaps(text, 8)
