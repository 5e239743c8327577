"""`credit orthogonality` and `credit scaling`: settings, times by a clock that counts passes,
lengths, words, pictures, bad input.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.cli import main
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.eval import lengths as scaling
from creditdecoding.eval import speedups as orthogonality
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.eval.verdicts import orthogonality_words, scaling_words
from creditdecoding.lm import LM, Completion, load
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.plots.lengths import lengths_png
from creditdecoding.plots.speedups import speedups_png
from creditdecoding.tasks import load_tasks
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

SHORT = GenerationConfig(gen_length=12, block_length=6)
FAST = "threshold:threshold=0.002"
FULL = ModelGeometry(supports_kv_cache=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A tiny random model that takes three rows at a time."""
    return load(
        str(make("llada", tmp_path_factory.mktemp("model") / "tiny")),
        batch_size=3,
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def pocket() -> LM:
    return load("pocket", threads=1)


def plan(**changes: Any) -> orthogonality.Plan:
    given = {
        "families": tuple(load_tasks("facts,algebra")),
        "decoders": ("fixed", FAST),
        "limit": 2,
        "generation": SHORT,
        "repeats": 1,
    }
    return orthogonality.Plan(**{**given, **changes})


def silent(done: int, total: int) -> Callable[[], None]:
    return lambda: None


# Settings


def names(layout: ModelGeometry = FULL, **changes: Any) -> list[str]:
    return [setting.name for setting in orthogonality.settings(plan(**changes), layout)]


def test_each_setting_changes_one_thing_of_the_base() -> None:
    assert names() == [
        *("base", "early stop off", "cache prefix", "cache dual", "cache every", "cache vicinity"),
        *("torch.compile", "int8 weights", "cache dual, compile, int8"),
    ]
    for setting in orthogonality.settings(plan(), FULL)[1:-1]:
        assert len(orthogonality._changed(setting, plan())) == 1
    assert len(orthogonality._changed(orthogonality.settings(plan(), FULL)[-1], plan())) == 3


def test_what_the_base_has_already_is_not_changed_again() -> None:
    assert names(ModelGeometry(causal_block=32, supports_kv_cache=True), kinds=("cache",)) == [
        "base",
        "cache none",
    ]  # auto is the exact cache there
    assert names(ModelGeometry(), kinds=("cache",)) == [
        "base"
    ]  # a model of one's own keeps nothing
    assert "cache none" in names(
        generation=GenerationConfig(cache="dual")
    ) and "cache dual" not in names(generation=GenerationConfig(cache="dual"))
    assert names(generation=GenerationConfig(early_stop=False), kinds=("early-stop",)) == [
        "base",
        "early stop on",
    ]
    assert names(engine=EngineConfig(compile=True), kinds=("compile",)) == ["base"]


# Orthogonality


def counted(tiny: LM, overhead: float = 0.0, missing: bool = False) -> dict[str, Any]:
    """A run in which a pass of a row takes a second, or a quarter with int8, and a batch `overhead`
    seconds more.
    """
    now, factor = [0.0], [1.0]
    plain = LM.collect

    def collect(self: LM, rows: Any, on_event: Any = None) -> list[Completion]:
        found = plain(self, rows, on_event)
        now[0] += factor[0] * sum(each.nfe for each in found) + overhead
        return found

    def opened(engine: EngineConfig) -> LM:
        if engine.quantize == "int8" and missing:
            raise MissingExtraError("torchao", "quant")
        factor[0] = 0.25 if engine.quantize == "int8" else 1.0
        return tiny

    kinds = ("int8",) if overhead or missing else ("early-stop", "cache", "int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LM, "collect", collect)
        patch.setattr(orthogonality, "_clock", lambda lm: lambda: now[0])
        return orthogonality.run(plan(kinds=kinds), opened, silent)


@pytest.fixture(scope="module")
def report(tiny: LM) -> dict[str, Any]:
    return counted(tiny)


def cell(report: dict[str, Any], setting: str, spec: str) -> dict[str, Any]:
    (found,) = (
        each
        for row in report["settings"]
        if row["name"] == setting
        for each in row["decoders"]
        if each["decoder"] == spec
    )
    return found


def test_times_are_ratios_and_multiply_where_a_pass_costs_the_same(report: dict[str, Any]) -> None:
    for setting in report["settings"]:
        for spec, other in (("fixed", FAST), (FAST, "fixed")):
            found = cell(report, setting["name"], spec)
            over = found["against"][other]
            assert over["faster"]["value"] == pytest.approx(over["fewer"]["value"], abs=0.002)
            assert over["faster"]["low"] <= over["faster"]["value"] <= over["faster"]["high"]
            base = cell(report, "base", spec)["against"][other]["fewer"]["value"]
            assert over["kept"] == pytest.approx(over["fewer"]["value"] / base, abs=0.002)
    assert cell(report, "int8 weights", FAST)["against_base"]["faster"]["value"] == 4.0
    assert cell(report, "int8 weights", FAST)["against"]["fixed"]["kept"] == 1.0
    assert cell(report, "base", "fixed")["seconds"] == cell(report, "base", "fixed")["nfe"]


def test_what_every_batch_costs_is_a_gain_lost(tiny: LM) -> None:
    assert (
        cell(counted(tiny, overhead=20.0), "int8 weights", FAST)["against"]["fixed"]["kept"] < 0.9
    )


def test_cells_are_evaluations_with_those_options(tiny: LM, report: dict[str, Any]) -> None:
    for name, changed in (
        ("base", {}),
        ("early stop off", {"early_stop": False}),
        ("cache dual", {"cache": "dual"}),
    ):
        config = GenerationConfig(decoder=FAST, gen_length=12, block_length=6, **changed)
        wanted = evaluate(tiny, plan().families, config, 2).to_json()
        found = cell(report, name, FAST)
        assert (found["nfe"], found["score"]["value"]) == (wanted["nfe"], wanted["score"])


def test_what_cannot_run_here_says_why(tiny: LM, tmp_path: Path) -> None:
    report = counted(tiny, missing=True)
    last = report["settings"][-1]
    assert last["decoders"] == [] and "creditdecoding[quant]" in last["reason"]
    assert any("Not measured: int8 weights (" in sentence for sentence in report["words"])
    speedups_png(report, tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(MissingExtraError):  # the base itself must run
        orthogonality.run(
            plan(), lambda engine: (_ for _ in ()).throw(MissingExtraError("x", "y")), silent
        )


def test_the_verdict_follows_the_intervals(report: dict[str, Any]) -> None:
    assert "persists under each" in report["words"][0]
    worse = copy.deepcopy(report)
    cell(worse, "cache dual", FAST)["against"]["fixed"]["fewer"]["low"] = 0.9
    assert "does not persist under cache dual" in orthogonality_words(worse)[0]
    cell(worse, "base", FAST)["against"]["fixed"]["fewer"] = {"value": 1.0, "low": 0.9, "high": 1.1}
    assert "no gain in passes to persist" in orthogonality_words(worse)[0]
    cell(worse, "cache dual", FAST)["against_base"]["difference"] = {
        "value": -9.0,
        "low": -12.0,
        "high": -3.0,
    }
    assert f"cache dual with {FAST} (-9.0 [-12.0, -3.0])" in " ".join(orthogonality_words(worse))


# Scaling


def laid(lm: LM, **changes: Any) -> scaling.Work:
    given = {
        "families": tuple(load_tasks("output")),
        "decoders": ("fixed", "credit"),
        "limit": 4,
        "gen_lengths": (64,),
        "block_lengths": (16,),
    }
    return scaling.lay_out(scaling.Plan(**{**given, **changes}), lm)


def test_items_are_drawn_by_the_length_of_their_answers(pocket: LM) -> None:
    work = laid(pocket, families=tuple(load_tasks("output,rule")))
    assert [len(bucket.items) for bucket in work.buckets] == [4] * 4
    assert all(max(a.lengths) < min(b.lengths) for a, b in zip(work.buckets, work.buckets[1:]))
    assert work.lengths == [len(pocket.tokenizer.encode(item.answer)) for item in work.items]
    assert {item.task for item in work.items} == {"output", "rule"} and all(
        item.split == "test" for item in work.items
    )


def test_default_lengths_are_those_that_fit(pocket: LM, tmp_path: Path) -> None:
    work = laid(pocket, gen_lengths=None, block_lengths=None)
    assert list(work.points["gen"]) == [64, 128, 256, 448] and list(work.points["block"]) == [
        8,
        16,
        32,
        64,
        128,
    ]
    causal = load(str(make("llada2", tmp_path / "m")), device="cpu")
    assert causal.geometry.causal_block == 32
    facts = {"families": tuple(load_tasks("facts")), "generation": GenerationConfig(gen_length=64)}
    shorter = laid(causal, gen_lengths=None, block_lengths=None, **facts)
    assert list(shorter.points["gen"]) == [64] and list(shorter.points["block"]) == [8, 16, 32]
    with pytest.raises(OptionError, match="do not fit into the model"):
        laid(pocket, gen_lengths=(64, 500))
    with pytest.raises(OptionError, match="block_length does not divide"):
        laid(causal, block_lengths=(12,), **facts)


def test_passes_per_token_over_lengths(pocket: LM, tmp_path: Path) -> None:
    """Without early stop standard decoding takes gen_length passes, whatever the answer; with it,
    whole blocks up to the end.
    """
    asked = {"decoders": ("fixed:k=8", "credit"), "limit": 2, "buckets": 2, "gen_lengths": (40, 80)}
    report = scaling.run(laid(pocket, **asked), pocket)
    sweeps = {sweep["name"]: sweep["points"] for sweep in report["sweeps"]}
    assert list(sweeps) == list(scaling.SWEEPS)
    assert [point["decoders"][0]["nfe"] for point in sweeps["gen-full"]] == [5.0, 10.0]
    assert sweeps["gen"][1]["decoders"][0]["nfe"] < 10 and sweeps["gen"][0]["too_long"] > 0
    for points in sweeps.values():
        for point in points:
            for each in point["decoders"]:
                assert each["per_token"]["value"] == pytest.approx(
                    each["nfe"] / each["tokens"], abs=0.001
                )
            first, last = point["decoders"]
            assert last["against"]["fixed:k=8"]["fewer"]["value"] == pytest.approx(
                first["nfe"] / last["nfe"], abs=0.002
            )
    assert (
        len(report["words"]) == 5
        and "fixed:k=8 grows" in report["words"][2]
        and "do not fit" in report["words"][1]
    )
    lengths_png(report, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert scaling_words({**report, "items": 100}) == report["words"][:-1]


# The commands


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["credit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


COMMANDS = (
    [
        "orthogonality",
        "--tasks",
        "facts",
        "--limit",
        "2",
        "--settings",
        "early-stop",
        "--gen-length",
        "40",
        "--repeats",
        "1",
    ],
    [
        "scaling",
        "--limit",
        "2",
        "--buckets",
        "2",
        "--sweeps",
        "answer block",
        "--block-lengths",
        "16,32",
    ],
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_commands(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out, png = tmp_path / "o.json", tmp_path / "o.png"
    assert (
        call(
            [
                *words,
                "--decoders",
                "threshold credit",
                "--json",
                "--out",
                str(out),
                "--png",
                str(png),
            ],
            monkeypatch,
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (
        found == json.loads(out.read_text())
        and found["model"] == "pocket"
        and png.stat().st_size > 5000
    )
    monkeypatch.setenv("COLUMNS", "80")
    assert call([*words, "--decoders", "credit"], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "credit" in said and "…" not in said


BAD = [
    (["orthogonality", "--settings", "chache"], "unknown setting"),
    (["orthogonality", "--decoders", "credit credit:alpha=0.65"], "two decoders are the same"),
    (["orthogonality", "--decoders", " "], "no decoder"),
    (["orthogonality", "--decoder", "fixed"], "--decoders"),
    (["orthogonality", "--split", "best"], "unknown split"),
    (["scaling", "--sweeps", "blocks"], "unknown sweep"),
    (["scaling", "--gen-lengths", "64,x"], "whole numbers"),
    (["scaling", "--gen-lengths", "0"], "whole numbers"),
    (["scaling", "--png", "nowhere/x.png"], "folder"),
    (["scaling", "--tasks", "maths"], "unknown task"),
]


@pytest.mark.parametrize(("words", "complaint"), BAD)
def test_bad_input_is_one_line(
    words: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(words, monkeypatch) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
