"""Traces grouped by prompt, and the names of their decoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.dataset import decoder_spec, group_traces
from creditdecoding.trace import Trace
from tests.helpers.analysis_traces import credit_trace, standard_trace, trace_settings


def test_sets_of_traces_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    elsewhere = replace(credit_trace(), prompt=(1, 2))
    shorter = replace(credit_trace(), settings=trace_settings("credit") | {"block_length": 4})
    nameless = replace(credit_trace(), settings={})
    sets = [
        [],
        [standard_trace(), standard_trace()],
        [standard_trace(), elsewhere],
        [standard_trace(), shorter],
        [nameless],
    ]
    for traces in sets:
        with pytest.raises(OptionError):
            group_traces([(f"{i}.jsonl", trace) for i, trace in enumerate(traces)])
    assert [
        list(case.traces) for case in group_traces([("a", standard_trace()), ("b", credit_trace())])
    ] == [["fixed", "credit"]]
    standard_trace().save(tmp_path / "t.jsonl")
    text = (tmp_path / "t.jsonl").read_text()
    for cut in ("", text[: len(text) // 2]):
        (tmp_path / "t.jsonl").write_text(cut)
        with pytest.raises(OptionError):
            group_traces([("t.jsonl", Trace.load(tmp_path / "t.jsonl"))])


def test_names_of_decoders() -> None:
    assert (
        decoder_spec(standard_trace(), "f") == "fixed"
        and decoder_spec(credit_trace(), "f") == "credit"
    )
    assert (
        decoder_spec(
            replace(credit_trace(), settings=trace_settings("credit", threshold=0.8, alpha=0.65)),
            "f",
        )
        == "credit:threshold=0.8"
    )
    assert (
        decoder_spec(replace(credit_trace(), settings=trace_settings("mine", k=2)), "f")
        == "mine:k=2"
    )
