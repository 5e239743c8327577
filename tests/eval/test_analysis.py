"""Trace analysis: numbers worked out by hand on small made-up traces, the oracle's rule, and the
command on a tiny checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from creditdecoding.cli import main
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders.base import Block, from_logits
from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.calibration import calibration, observations, verdict
from creditdecoding.eval.traces.commit_timing import (
    answer_end,
    check_trace,
    token_timings,
    trace_bound,
)
from creditdecoding.eval.traces.dataset import PromptTraces, decoder_spec, group_traces, with_oracle
from creditdecoding.eval.traces.oracle import Oracle, decode_with_oracle
from creditdecoding.eval.traces.report import analyse
from creditdecoding.lm import LM, load
from creditdecoding.plots import analysis as plot
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tools.make_checkpoint import make

END = 9
FAST = ["--gen-length", "12", "--block-length", "5"]
Cell = tuple[int, float, bool]


def step(
    block: int,
    number: int,
    cells: dict[int, Cell],
    credit: dict[int, float] | None = None,
    top: dict[int, int] | None = None,
) -> StepEvent:
    """An event from position -> (token, confidence, committed); `top` names the model's first
    choices where they are others.
    """
    kept = None if credit is None else tuple(credit[position] for position in cells)
    first = tuple((top or {}).get(position, token) for position, (token, _, _) in cells.items())
    tokens, confidence, done = zip(*cells.values())
    return StepEvent(
        0, 0, block, number, tuple(cells), tokens, confidence, kept, done, 0.1, top=first
    )


def settings(name: str, **knobs: Any) -> dict[str, Any]:
    return {
        "decoder": {"name": name, **knobs},
        "gen_length": 4,
        "block_length": 2,
        "early_stop": True,
        "stop": [],
        "temperature": 0.0,
    }


def standard() -> Trace:
    """Prompt of 2; "5 6", then "7 end": one token a pass, two blocks of two."""
    steps = [
        step(0, 0, {2: (5, 0.9, True), 3: (4, 0.3, False)}),
        step(0, 1, {3: (6, 0.6, True)}),
        step(1, 0, {4: (7, 0.4, False), 5: (END, 0.8, True)}),
        step(1, 1, {4: (7, 0.7, True)}),
    ]
    return Trace(
        (1, 1),
        steps,
        FinishEvent(0, "stop", (5, 6, 7), 0.4),
        settings("fixed", k=1, steps=None, order="low_confidence"),
    )


def credited() -> Trace:
    """The same prompt: writes 5, then 8 where the model itself would have said 6; then all at once."""
    steps = [
        step(0, 0, {2: (5, 0.95, True), 3: (8, 0.4, False)}, {2: 1.0, 3: 0.8}),
        step(0, 1, {3: (8, 0.91, True)}, {3: 2.2}, {3: 6}),
        step(1, 0, {4: (7, 0.92, True), 5: (END, 0.97, True)}, {4: 0.9, 5: 1.0}),
    ]
    return Trace(
        (1, 1), steps, FinishEvent(0, "stop", (5, 8, 7), 0.3), settings("credit", threshold=0.9)
    )


def test_moments_by_hand() -> None:
    found = token_timings(standard())
    assert [
        (m.position, m.token, m.block_start, m.candidate, m.commit, m.redundancy) for m in found
    ] == [
        (2, 5, 1, 1, 1, 0),
        (3, 6, 1, 2, 2, 0),
        (5, END, 3, 3, 3, 0),
        (4, 7, 3, 3, 4, 1),
    ]
    assert trace_bound(found) == 2 + 1
    assert trace_bound(token_timings(credited())) == 1 + 1


def test_a_candidate_that_was_left_and_found_again_counts_from_the_second_time() -> None:
    steps = [step(0, n, {1: (token, 0.5, n == 4)}) for n, token in enumerate((5, 6, 5, 5, 5))]
    found = token_timings(Trace((1,), steps, FinishEvent(0, "length", (5,), 1.0)))
    assert [(m.candidate, m.commit, m.redundancy) for m in found] == [(3, 5, 2)] and trace_bound(
        found
    ) == 3


def test_what_lies_behind_the_end_does_not_count() -> None:
    trace = standard()
    assert trace.finish is not None and answer_end(trace) == 6
    trace.finish = replace(trace.finish, tokens=(5,))
    assert answer_end(trace) == 4 and {m.position for m in token_timings(trace)} == {2, 3}
    trace.settings["stop"] = ["x"]
    assert {m.position for m in token_timings(trace)} == {2}
    trace.settings |= {"stop": [], "early_stop": False}
    assert answer_end(trace) == math.inf and len(token_timings(trace)) == 4


def test_the_report_by_hand() -> None:
    oracle = Trace(
        (1, 1), [*standard().steps[:2], credited().steps[2]], FinishEvent(0, "stop", (5, 6, 7), 0.3)
    )
    case = PromptTraces(
        {"fixed": standard(), "credit": credited()},
        {"fixed": True, "credit": False},
        (5, 6, 7),
        oracle,
    )
    found = analyse([case])
    assert json.loads(json.dumps(found)) == found
    fixed, credit = found["decoders"]
    assert (fixed["nfe"], fixed["trace_bound"], fixed["over_bound"], fixed["over_oracle"]) == (
        4,
        3,
        1.3333,
        1.3333,
    )
    assert (fixed["redundancy"], fixed["redundant"], fixed["candidate"], fixed["commit"]) == (
        0.25,
        25.0,
        1.25,
        1.5,
    )
    assert (fixed["score"], fixed["same"], fixed["wrong"]["wrong"], fixed["changed"]) == (
        100.0,
        100.0,
        0,
        None,
    )
    assert (
        credit["nfe"],
        credit["trace_bound"],
        credit["over_oracle"],
        credit["redundancy"],
        credit["same"],
    ) == (3, 2, 1.0, 0.25, 0.0)
    wrong = credit["wrong"]
    assert (wrong["judged"], wrong["wrong"]) == (4, 1)
    assert [
        (b["low"], b["commits"], b["wrong"]) for b in wrong["by_confidence"] if b["commits"]
    ] == [(0.9, 2, 1), (0.95, 2, 0)]
    assert [
        (b["low"], b["high"], b["commits"], b["wrong"]) for b in wrong["by_credit"] if b["commits"]
    ] == [
        (0.5, 1.0, 1, 0),
        (1.0, 1.5, 2, 0),
        (2.0, 2.5, 1, 1),
    ]
    assert (
        credit["aligned"],
        credit["wrong_reference"]["judged"],
        credit["wrong_reference"]["wrong"],
    ) == (1, 3, 1)
    assert credit["changed"] == {
        "candidates": 1,
        "commits": 1,
        "by_standard": {"better": 0, "worse": 1, "neither": 0},
        "by_reference": {"better": 0, "worse": 1, "neither": 0},
        "in_right_answers": 0,
        "in_wrong_answers": 1,
    }
    assert [
        (c["position"], c["pass"], c["top"], c["written"], c["by_standard"])
        for c in found["changes"]
    ] == [(1, 2, 6, 8, "worse")]
    assert found["steps"]["credit"] == {
        "positions": [0, 2, 3],
        "candidate": [1, 3, 3],
        "commit": [1, 3, 3],
        "oracle": [1, 3, 3],
    }
    assert found["tokens"]["fixed"][0]["candidate"] == [1, 2, 3, 3] and found["tokens"]["fixed"][0][
        "redundancy"
    ] == [0, 0, 1, 0]
    assert found["oracle"] == {"nfe": 3, "told": 0}


def test_a_change_for_the_better_and_what_a_trace_does_not_say() -> None:
    trace = credited()
    other = standard()
    other.steps[1] = step(0, 1, {3: (8, 0.6, True)})
    other.finish = FinishEvent(0, "stop", (5, 8, 7), 0.4)
    record = analyse([PromptTraces({"fixed": other, "credit": trace})])["decoders"][1]
    assert (
        record["changed"]["by_standard"]["better"] == 1
        and record["score"] is None
        and record["over_oracle"] is None
    )
    trace.steps = [replace(each, top=None) for each in trace.steps]
    assert (
        analyse([PromptTraces({"fixed": other, "credit": trace})])["decoders"][1]["changed"] is None
    )


def test_without_standard_decoding_only_what_one_trace_says() -> None:
    found = analyse([PromptTraces({"credit": credited()})])
    assert (
        found["calibration"] is None
        and found["decoders"][0]["wrong"] is None
        and found["decoders"][0]["nfe"] == 3
    )
    assert found["steps"]["credit"]["positions"] == [0, 1, 2, 3]


def test_looks_by_hand() -> None:
    trace = standard()
    found = observations([(trace, token_timings(trace), {2: 5, 3: 8, 4: 7})])
    assert found.confidence.tolist() == [0.9, 0.3, 0.6, 0.4, 0.8, 0.7]
    assert found.ratio.tolist() == [1, 1, 0.5, 1, 1, 0.5]
    assert found.run.tolist() == [1, 1, 1, 1, 1, 2]
    assert found.final.tolist() == [True, False, True, True, True, True]
    assert found.judged.tolist() == [True, True, True, True, False, True]
    assert found.right.tolist() == [True, False, False, True, False, True]
    report = calibration([(trace, token_timings(trace), {2: 5, 3: 8, 4: 7})])
    early = report["final"]["early"]
    assert (early["looks"], early["confidence"], early["frequency"], early["gap"]) == (
        4,
        0.6,
        0.75,
        15.0,
    )
    assert (
        early["ece"] == pytest.approx(100 * (0.1 + 0.3 + 0.6 + 0.2) / 4)
        and early["interval"] is None
    )
    assert (
        report["right"]["all"]["looks"] == 5
        and report["verdict"]["kind"] == "undecided"
        and "Too few" in report["verdict"]["words"]
    )


def made_up(chance: Any, prompts: int = 60, seed: int = 0) -> dict[str, Any]:
    """Reliability of a model that says 0.7 at four first passes of a block of 8; its choice is
    final with `chance(run)`.
    """
    rng = np.random.default_rng(seed)
    cases: list[Any] = []
    for _ in range(prompts):
        final = dict.fromkeys(range(1, 9), 5)
        shown: dict[int, list[int]] = {}
        for position in final:
            runs = 1 + int(rng.integers(4))  # a break before the last `runs` of four passes
            token = 5 if rng.random() < chance(runs) else 6
            shown[position] = [7 + n for n in range(4 - runs)] + [token] * runs
        steps = [
            step(0, n, {position: (shown[position][n], 0.7, False) for position in final})
            for n in range(4)
        ]
        steps.append(step(0, 4, dict.fromkeys(final, (5, 0.7, True))))
        trace = Trace((1,), steps, FinishEvent(0, "length", (5,) * 8, 1.0))
        cases.append((trace, token_timings(trace), None))
    return calibration(cases)


def test_the_verdict_follows_its_rule() -> None:
    gains = {name: {"share": 0.0, "interval": [-0.1, 0.1]} for name in ("recalibration", "history")}
    none = {"gap": None, "interval": None}

    def said(gap: float, low: float, high: float) -> str:
        return str(verdict({"gap": gap, "interval": [low, high]}, none, gains, 50)["kind"])

    assert (
        said(5, 3, 7) == "underconfident"
        and said(-5, -7, -3) == "overconfident"
        and said(0.5, -1, 2) == "calibrated"
    )
    assert said(5, -1, 11) == "undecided" and said(1.5, 0.5, 2.5) == "undecided"
    found = verdict(
        {"gap": 5.0, "interval": [3.0, 7.0]}, {"gap": -4.0, "interval": [-6.0, -2.0]}, gains, 50
    )
    assert (found["kind"], found["kind_right"], found["pays"]) == (
        "underconfident",
        "overconfident",
        "neither",
    )
    assert "5.0 points more often" in found["words"] and "4.0 points less often" in found["words"]
    for pays, names in (
        ("both", ("recalibration", "history")),
        ("recalibration", ("recalibration",)),
        ("history", ("history",)),
    ):
        some = {
            name: {"share": 0.1, "interval": [0.05, 0.2]} if name in names else gains[name]
            for name in gains
        }
        assert verdict({"gap": 5.0, "interval": [3.0, 7.0]}, none, some, 50)["pays"] == pays
    small = gains | {"history": {"share": 0.005, "interval": [0.001, 0.01]}}
    assert verdict({"gap": 5.0, "interval": [3.0, 7.0]}, none, small, 50)["pays"] == "neither"


def test_history_pays_only_where_the_run_says_more_than_the_confidence() -> None:
    assert made_up(lambda run: run / 4)["gains"]["history"]["interval"][0] > 0.02
    plain = made_up(lambda run: 0.2)
    low, high = plain["gains"]["recalibration"]["interval"]
    assert 0 < low <= plain["gains"]["recalibration"]["share"] <= high


def test_the_oracle_commits_what_is_right_already() -> None:
    logits = torch.zeros(1, 4, 6)
    logits[0, 0, 2] = logits[0, 1, 3] = logits[0, 2, 4] = logits[0, 3, 5] = 3.0
    masked = torch.tensor([[True, True, True, False]])
    block = Block(
        torch.zeros(1, 4, dtype=torch.long), masked, masked, torch.tensor([3]), torch.tensor([0])
    )
    decide = lambda *tokens: Oracle(0, tokens).step(from_logits(logits, masked), block, {})[0]  # noqa: E731
    assert decide(2, 1, 4, 5).commit.tolist() == [[True, False, True, False]]
    logits[0, 1, 1] = 1.0
    told = decide(0, 1, 0, 5)
    assert told.commit.tolist() == [[False, True, False, False]] and told.tokens[0, 1] == 1
    assert decide(-1, -1, 0).commit.tolist() == [[False, False, True, False]]
    unknown = decide(-1)
    assert unknown.commit.sum() == 1 and unknown.tokens[0, :3].tolist() == [2, 3, 4]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def lm(model: str) -> LM:
    return load(model, EngineConfig(device="cpu"))


@pytest.mark.parametrize("early_stop", [True, False])
def test_the_oracle_reaches_standard_decodings_answer_in_no_more_passes(
    lm: LM, early_stop: bool
) -> None:
    config = GenerationConfig(decoder="fixed", gen_length=12, block_length=5, early_stop=early_stop)
    references = [done.trace for done in lm.generate(["hello", "one two three", "x"], config)]
    found = decode_with_oracle(lm, references)
    for reference, trace in zip(references, found):
        assert trace.tokens == reference.tokens and len(reference.steps[0].top or ()) == 5
        assert 3 <= trace.nfe <= reference.nfe
        assert trace_bound(token_timings(reference)) <= reference.nfe
    assert sum(trace.nfe for trace in found) < sum(trace.nfe for trace in references)


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["credit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_decodes_and_draws(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = ["--png", str(tmp_path / "s.png"), "--reliability-png", str(tmp_path / "r.png")]
    run = [
        "-m",
        model,
        "--tasks",
        "facts",
        "--limit",
        "2",
        "--decoders",
        "credit:threshold=0.5",
        *FAST,
    ]
    assert call(["analyse", *run, *pictures, "--json"], monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == 2 and [each["decoder"] for each in found["decoders"]] == [
        "fixed",
        "credit:threshold=0.5",
    ]
    assert (
        all(each["over_oracle"] >= 1 for each in found["decoders"][:1])
        and found["calibration"]["looks"] > 0
    )
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("s.png", "r.png"))
    monkeypatch.setenv("COLUMNS", "100")
    assert call(["analyse", *run], monkeypatch) == 0
    text = capsys.readouterr().out
    assert "oracle NFE" in text and "credit changed" in text and "Too few prompts" in text


def test_the_command_reads_saved_traces(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, (prompt, decoder) in enumerate(
        (p, d) for p in ("hello", "analyse this") for d in ("fixed", "threshold:threshold=0.5")
    ):
        assert (
            call(
                [
                    "trace",
                    prompt,
                    "-m",
                    model,
                    "-d",
                    decoder,
                    "--save",
                    str(tmp_path / f"{i}.jsonl"),
                    *FAST,
                ],
                monkeypatch,
            )
            == 0
        )
    capsys.readouterr()
    assert call(["analyse", str(tmp_path), "--json"], monkeypatch) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (
        plain["prompts"] == 2
        and plain["oracle"] is None
        and [each["decoder"] for each in plain["decoders"]] == ["fixed", "threshold:threshold=0.5"]
    )
    assert call(["analyse", str(tmp_path), "-m", model, "--json"], monkeypatch) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["decoders"][0]["over_oracle"] >= 1
        and told["decoders"][0]["nfe"] == plain["decoders"][0]["nfe"]
    )
    bad = [
        [str(tmp_path), "--tasks", "facts"],
        [str(tmp_path), "--gen-length", "9"],
        [str(tmp_path / "none")],
        [str(tmp_path / "1.jsonl"), "-m", model],
        ["--decoder", "fixed"],
        ["--decoders", "nonsense", "-m", model],
        ["--decoders", "edit", "-m", model],
        ["--temperature", "1", "-m", model],
        ["--split", "nonsense"],
        [str(tmp_path / "1.jsonl"), "--reliability-png", str(tmp_path / "r.png")],
        [str(model), "--json"],
    ]
    for arguments in bad:
        assert call(["analyse", *arguments], monkeypatch) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, arguments


def broken(**changes: Any) -> list[Trace]:
    """Traces that no definition fits."""
    found = [standard() for _ in range(9)]
    found[0].finish = None
    found[1].steps = []
    found[2].prompt = ()
    found[3].settings["temperature"] = 0.5
    del found[4].steps[1]
    found[5].steps[0] = replace(found[5].steps[0], tokens=(1,))
    found[6].steps[1] = replace(found[6].steps[0], step=1)
    found[7].finish = FinishEvent(0, "stop", (5, 6, 8), 0.4)
    found[8].steps[0] = replace(found[8].steps[0], top=(1, 2, 3))
    return found


def test_traces_that_no_definition_fits_are_refused() -> None:
    for i, trace in enumerate(broken()):
        with pytest.raises(OptionError, match=r"f\.jsonl"):
            check_trace(trace, "f.jsonl")
            pytest.fail(f"trace {i} was let through")


def test_sets_of_traces_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    elsewhere = replace(credited(), prompt=(1, 2))
    shorter = replace(credited(), settings=settings("credit") | {"block_length": 4})
    nameless = replace(credited(), settings={})
    sets = [
        [],
        [standard(), standard()],
        [standard(), elsewhere],
        [standard(), shorter],
        [nameless],
    ]
    for traces in sets:
        with pytest.raises(OptionError):
            group_traces([(f"{i}.jsonl", trace) for i, trace in enumerate(traces)])
    assert [list(case.traces) for case in group_traces([("a", standard()), ("b", credited())])] == [
        ["fixed", "credit"]
    ]
    standard().save(tmp_path / "t.jsonl")
    text = (tmp_path / "t.jsonl").read_text()
    for cut in ("", text[: len(text) // 2]):
        (tmp_path / "t.jsonl").write_text(cut)
        with pytest.raises(OptionError):
            group_traces([("t.jsonl", Trace.load(tmp_path / "t.jsonl"))])


def test_names_of_decoders() -> None:
    assert decoder_spec(standard(), "f") == "fixed" and decoder_spec(credited(), "f") == "credit"
    assert (
        decoder_spec(
            replace(credited(), settings=settings("credit", threshold=0.8, alpha=0.65)), "f"
        )
        == "credit:threshold=0.8"
    )
    assert decoder_spec(replace(credited(), settings=settings("mine", k=2)), "f") == "mine:k=2"


def test_the_oracle_of_another_model_and_without_a_reference(lm: LM) -> None:
    with pytest.raises(OptionError, match="fixed"):
        with_oracle(lm, [PromptTraces({"credit": credited()})])
    stranger = standard()
    stranger.prompt = (10**6, 1)
    with pytest.raises(OptionError, match="another model"):
        with_oracle(lm, [PromptTraces({"fixed": stranger})])


def test_pictures_of_little(tmp_path: Path) -> None:
    found = analyse([PromptTraces({"fixed": standard(), "credit": credited()})])
    plot.steps_png(found, tmp_path / "s.png")
    plot.reliability_png(found, tmp_path / "r.png")
    with pytest.raises(OptionError, match="fixed"):
        plot.reliability_png(analyse([PromptTraces({"credit": credited()})]), tmp_path / "n.png")
