"""Figures of traces and training logs, as valid PNG files of a sensible size."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.plots import base
from creditdecoding.plots.trace import trace_png, traces_png
from creditdecoding.plots.training import evaluations, smooth, training_png
from creditdecoding.trace import FinishEvent, StepEvent, Trace

TEXTS = ["The", " cat", " sat", ".", "\n", "</script><img src=x>", "<|end|>"]


def piece(token: int) -> str:
    return TEXTS[token]


def answer(credit: float | None = None) -> Trace:
    """Two blocks of two in four passes, the last token an end token."""

    def step(number: int, positions: tuple[int, ...], tokens: tuple[int, ...]) -> StepEvent:
        size = len(positions)
        return StepEvent(
            row=0,
            forward=number,
            block=number // 2,
            step=number % 2,
            positions=positions,
            tokens=tokens,
            confidence=(0.9, 0.3)[:size],
            credit=None if credit is None else (credit,) * size,
            committed=(True, False)[:size],
            seconds=0.1 * number,
        )

    steps = [
        step(0, (3, 4), (0, 1)),
        step(1, (4,), (2,)),
        step(2, (5, 6), (3, 6)),
        step(3, (6,), (6,)),
    ]
    return Trace((9, 9, 9), steps, FinishEvent(0, "stop", (0, 2, 3), 0.4))


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG, whose checksums must be right."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    start = 8
    kinds = []
    while start < len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 8 + length
        (checksum,) = struct.unpack(">I", data[end : end + 4])
        assert zlib.crc32(data[start + 4 : end]) == checksum
        kinds.append(kind)
        start = end + 4
    assert kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    assert 600 <= width <= 3000 and 300 <= height <= 3000 and len(data) > 5000
    return width, height


def test_a_trace_with_credit_has_a_second_panel(tmp_path: Path) -> None:
    trace_png(answer(0.5), piece, tmp_path / "credit.png", "A $title$ of \\alpha_")
    trace_png(answer(), piece, tmp_path / "plain.png")
    assert png_size(tmp_path / "credit.png")[1] > png_size(tmp_path / "plain.png")[1]


def test_several_decoders_are_drawn_below_each_other_and_one_alone_as_its_trace(
    tmp_path: Path,
) -> None:
    traces_png([("threshold", answer()), ("credit", answer(0.5))], piece, tmp_path / "both.png")
    traces_png([("credit", answer(0.5))], piece, tmp_path / "one.png")
    trace_png(answer(0.5), piece, tmp_path / "trace.png", "credit")
    png_size(tmp_path / "both.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "trace.png").read_bytes()


def test_a_long_answer_has_no_texts_along_its_axis(tmp_path: Path) -> None:
    steps = [
        StepEvent(
            row=0,
            forward=number,
            block=number // 2,
            step=number % 2,
            positions=tuple(range(1 + 50 * (number // 2), 51 + 50 * (number // 2))),
            tokens=(0,) * 50,
            confidence=(0.5,) * 50,
            credit=None,
            committed=tuple(i // 25 == number % 2 for i in range(50)),
            seconds=0.1,
        )
        for number in range(12)
    ]
    trace_png(Trace((9,), steps), piece, tmp_path / "long.png")
    png_size(tmp_path / "long.png")


def test_a_training_log_with_evaluations_has_a_second_panel(tmp_path: Path) -> None:
    log = [
        {
            "step": step,
            "tokens": 100 * step,
            "seconds": 0.5 * step,
            "uniform" if step % 2 else "blockwise": 3 / (step + 1),
        }
        for step in range(40)
    ]
    training_png(log, tmp_path / "plain.png")
    log[20]["eval"] = {"mean": 0.25, "families": {"facts": 0.5, "rule": 0.0}}
    log[39]["eval"] = {
        "score": 75.0,
        "families": {"facts": {"score": 100.0}, "rule": {"score": 50.0}},
    }
    training_png(log, tmp_path / "scored.png")
    assert png_size(tmp_path / "scored.png")[0] > png_size(tmp_path / "plain.png")[0]
    assert evaluations(log) == [
        (20, {"facts": 50.0, "rule": 0.0, "mean": 25.0}),
        (39, {"facts": 100.0, "rule": 50.0, "mean": 75.0}),
    ]
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)


def test_an_empty_trace_or_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no forward pass"):
        trace_png(Trace((1,)), piece, tmp_path / "x.png")
    with pytest.raises(OptionError, match="empty"):
        training_png([], tmp_path / "x.png")


def test_without_matplotlib_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "Figure", None)
    with pytest.raises(MissingExtraError, match=r"creditdecoding\[plot\]"):
        trace_png(answer(), piece, tmp_path / "x.png")
