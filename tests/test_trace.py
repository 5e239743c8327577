"""Traces: what they count, and that they survive saving."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import FinishEvent, Trace, total
from tests.helpers.toys import (
    ALPHABET,
    CPU,
    MASK,
    PROMPTS,
    SIZE,
    STOPS,
    Letters,
    plan,
    requests_of,
    toy,
    traces_of,
)


@pytest.mark.parametrize("batch_size", (1, 2, 3, 16))
@pytest.mark.parametrize("decoder", ["fixed", "threshold:threshold=0.5", "credit:threshold=0.5"])
def test_traces_count_what_the_model_did(decoder: str, batch_size: int) -> None:
    model = toy()
    traces = traces_of(
        model, requests_of(PROMPTS, decoder=decoder, gen_length=10, block_length=4), batch_size
    )
    totals = total(traces)
    assert totals.requests == len(PROMPTS)
    assert totals.forwards == model.calls and totals.sequence_forwards == model.rows == sum(
        trace.nfe for trace in traces
    )
    assert totals.tokens == sum(
        len(trace.tokens) for trace in traces
    ) and totals.nfe == model.rows / len(PROMPTS)
    assert totals.tpf == pytest.approx(totals.tokens / model.rows)
    assert totals.seconds == max(trace.finish.seconds for trace in traces if trace.finish)
    for trace in traces:
        assert trace.tpf == len(trace.tokens) / trace.nfe
        answer = [
            trace.written[p]
            for p in range(len(trace.prompt), len(trace.prompt) + len(trace.tokens))
        ]
        assert list(trace.tokens) == answer and not set(answer) & set(STOPS)
        times = [step.seconds for step in trace.steps]
        assert (
            times == sorted(times)
            and trace.finish is not None
            and trace.finish.seconds >= times[-1]
        )
        passes = [step.forward for step in trace.steps]
        assert passes == list(
            range(passes[0], passes[0] + len(passes))
        )  # once admitted, a row takes part in every pass


def test_sums_over_nothing() -> None:
    assert total([]) == dataclasses.replace(
        total([]), requests=0, forwards=0, sequence_forwards=0, tokens=0, seconds=0.0
    )
    assert (
        total([]).nfe == total([]).tpf == Trace(()).tpf == Trace(()).seconds == 0.0
        and Trace(()).tokens == ()
    )


@pytest.mark.parametrize("decoder", ["credit", "fixed"])
@pytest.mark.parametrize("finished", (True, False))
def test_a_trace_survives_saving(decoder: str, finished: bool, tmp_path: Path) -> None:
    (trace,) = traces_of(
        toy(), requests_of([[1, 2, 3]], decoder=decoder, gen_length=9, block_length=4)
    )
    trace.settings = {"decoder": {"name": decoder, "threshold": 0.9}, "seed": 3, "top_k": None}
    assert trace.finish is not None
    trace.finish = dataclasses.replace(trace.finish, seconds=2.5, began=0.25) if finished else None
    path = tmp_path / "trace.jsonl"
    trace.save(path)
    loaded = Trace.load(path)
    assert loaded == trace
    assert (loaded.nfe, loaded.tokens, loaded.tpf, loaded.seconds, loaded.written) == (
        trace.nfe,
        trace.tokens,
        trace.tpf,
        trace.seconds,
        trace.written,
    )
    assert len(path.read_text().splitlines()) == 1 + trace.nfe + finished


HEAD = '{"kind": "trace", "prompt": [1], "settings": {}}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"kind": "trace"}',
        b"\xff\xfe\x00",
        *(HEAD.encode() + x for x in (b"{}", b'{"kind": "step"}', b"[1]", b"5", b"null")),
    ],
)
def test_another_file_is_no_trace(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="not a trace file"):
        Trace.load(path)
    with pytest.raises(OptionError, match="not a trace file"):
        Trace.load(tmp_path / "absent")


def test_an_lms_trace_survives_saving(tmp_path: Path) -> None:
    """With the settings that the library itself writes into it."""
    lm = LM(plan(ALPHABET), Tokenizer(Letters(), MASK, STOPS, SIZE), max_length=99, device=CPU)
    trace = lm.generate("a", raw=True, decoder="fixed", gen_length=8, stop=("cd",)).trace
    trace.save(tmp_path / "t")
    assert Trace.load(tmp_path / "t") == trace
    assert isinstance(trace.finish, FinishEvent) and trace.tokens == (0, 1, 2, 3)
