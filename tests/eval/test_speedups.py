"""`credit speedups`: variants, times by a clock that counts passes, agreement, resumption."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import MissingExtraError
from creditdecoding.eval import grid
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.eval.saved_answers import grid_folder
from creditdecoding.eval.speedups import (
    ModelHandover,
    SpeedupPlan,
    read_report,
    run,
    token_agreement,
    variants,
)
from creditdecoding.lm import LM, Completion, load
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.plots.speedups import speedups_png
from creditdecoding.tasks import load_tasks
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

FAST = "threshold:threshold=0.002"
CACHED = ModelGeometry(supports_kv_cache=True)
ENGINE = EngineConfig(batch_size=3, device="cpu", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def lm(model: str) -> LM:
    return load(model, ENGINE)


def plan(model: str = "pocket", **changes: Any) -> SpeedupPlan:
    defaults = {
        "tasks": tuple(load_tasks("facts,algebra")),
        "decoders": ("fixed", FAST),
        "limit": 2,
        "generation": GenerationConfig(gen_length=12, block_length=6),
        "engine": ENGINE,
        "repeats": 1,
    }
    return SpeedupPlan(model, **{**defaults, **changes})


def test_a_model_that_was_handed_over_is_kept_by_nobody_else() -> None:
    class Model:
        pass

    models = ModelHandover(lambda engine: Model())  # type: ignore[arg-type, return-value]
    for engine in (ENGINE, EngineConfig(device="cpu", compile=True)):
        looked_at = weakref.ref(models.look_at(ENGINE))
        assert looked_at() is models.look_at(ENGINE)
        taken = models.take(engine)
        assert (taken is looked_at()) == (engine == ENGINE)
        del taken
        assert looked_at() is None


# Variants


def names(geometry: ModelGeometry = CACHED, **changes: Any) -> list[str]:
    return [variant.name for variant in variants(plan(**changes), geometry)]


def test_each_variant_changes_one_thing_of_the_base() -> None:
    assert names() == [
        *("base", "early stop off", "cache prefix", "cache dual", "cache every", "cache vicinity"),
        *("torch.compile", "int8 weights", "cache dual, compile, int8"),
    ]
    assert names(kinds=("cache:dual", "cache:every:n=2")) == [
        *("base", "cache dual", "cache every:n=2"),
    ]


def test_what_the_base_already_has_is_not_changed_again() -> None:
    block_causal = ModelGeometry(causal_block=32, supports_kv_cache=True)
    assert names(block_causal, kinds=("cache",)) == ["base", "cache none"]  # auto is exact there
    assert names(ModelGeometry(), kinds=("cache",)) == ["base"]  # no cache at all
    dual = names(generation=GenerationConfig(cache="dual"))
    assert "cache none" in dual and "cache dual" not in dual
    stopping = names(generation=GenerationConfig(early_stop=False), kinds=("early-stop",))
    assert stopping == ["base", "early stop on"]
    assert names(engine=EngineConfig(compile=True), kinds=("compile",)) == ["base"]


# Measurements


class PassClock:
    """A clock on which a pass of a request takes a second, a quarter of one with int8 weights, and
    a batch `overhead` seconds more.
    """

    def __init__(self, lm: LM, monkeypatch: pytest.MonkeyPatch, overhead: float = 0.0) -> None:
        self.lm = lm
        self.seconds = 0.0
        self.pass_seconds = 1.0
        collect = LM.collect

        def timed(lm: LM, requests: Any, on_event: Any = None) -> list[Completion]:
            completions = collect(lm, requests, on_event)
            passes = sum(completion.nfe for completion in completions)
            self.seconds += self.pass_seconds * passes + overhead
            return completions

        monkeypatch.setattr(LM, "collect", timed)
        monkeypatch.setattr(grid, "make_clock", lambda lm: lambda: self.seconds)

    def load_model(self, engine: EngineConfig) -> LM:
        self.pass_seconds = 0.25 if engine.quantize == "int8" else 1.0
        return self.lm


def measure(
    model: str, lm: LM, folder: Path, overhead: float = 0.0, kinds: tuple[str, ...] = ("int8",)
) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = PassClock(lm, monkeypatch, overhead)
        return run(plan(model, kinds=kinds), clock.load_model, folder)


@pytest.fixture(scope="module")
def report(model: str, lm: LM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    return measure(model, lm, folder, kinds=("early-stop", "cache:dual", "int8"))


def cell(report: dict[str, Any], setting: str, spec: str) -> dict[str, Any]:
    (row,) = [row for row in report["settings"] if row["name"] == setting]
    return next(cell for cell in row["decoders"] if cell["decoder"] == spec)


def test_times_are_ratios_and_multiply_where_a_pass_costs_the_same(report: dict[str, Any]) -> None:
    for setting in report["settings"]:
        for spec, other in (("fixed", FAST), (FAST, "fixed")):
            gain = cell(report, setting["name"], spec)["against"][other]
            base = cell(report, "base", spec)["against"][other]["speedup"]["value"]
            passes = gain["speedup"]["value"]
            assert gain["faster"]["value"] == pytest.approx(passes, abs=0.002)
            assert gain["faster"]["low"] <= gain["faster"]["value"] <= gain["faster"]["high"]
            assert gain["gain_retained"] == pytest.approx(passes / base, abs=0.002)
    assert cell(report, "int8 weights", FAST)["against_base"]["faster"]["value"] == 4.0
    assert cell(report, "int8 weights", FAST)["against"]["fixed"]["gain_retained"] == 1.0
    assert cell(report, "base", "fixed")["seconds"] == cell(report, "base", "fixed")["nfe"]
    assert report["verdict"] == "persists"


def test_what_every_batch_costs_is_a_gain_lost(model: str, lm: LM, tmp_path: Path) -> None:
    report = measure(model, lm, tmp_path, overhead=20.0)
    assert cell(report, "int8 weights", FAST)["against"]["fixed"]["gain_retained"] < 0.9


def test_cells_are_evaluations_with_those_options(lm: LM, report: dict[str, Any]) -> None:
    options: dict[str, dict[str, Any]] = {
        "base": {},
        "early stop off": {"early_stop": False},
        "cache dual": {"cache": "dual"},
    }
    for name, changed in options.items():
        config = GenerationConfig(decoder=FAST, gen_length=12, block_length=6, **changed)
        expected = evaluate(lm, plan().tasks, config, 2).to_json()
        measured = cell(report, name, FAST)
        assert (measured["nfe"], measured["score"]["value"]) == (expected["nfe"], expected["score"])


def test_agreement_compares_tokens_with_the_base(report: dict[str, Any]) -> None:
    base = cell(report, "base", "fixed")["against_base"]
    assert (base["agreement"], base["identical"], base["computed"]) == (100.0, 100.0, 1.0)
    cached = cell(report, "cache dual", "fixed")["against_base"]
    assert cached["computed"] < 1 and 0 <= cached["identical"] <= cached["agreement"] <= 100
    assert token_agreement((1, 2, 3), (1, 5)) == pytest.approx(1 / 3)
    assert token_agreement((), ()) == 1.0


def test_what_cannot_run_here_has_a_reason(model: str, lm: LM, tmp_path: Path) -> None:
    def without_int8(engine: EngineConfig) -> LM:
        if engine.quantize == "int8":
            raise MissingExtraError("torchao", "quant")
        return lm

    report = run(plan(model, kinds=("int8",)), without_int8, tmp_path)
    last = report["settings"][-1]
    assert last["decoders"] == [] and "creditdecoding[quant]" in last["reason"]
    speedups_png(report, tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"

    def nothing(engine: EngineConfig) -> LM:
        raise MissingExtraError("x", "y")

    with pytest.raises(MissingExtraError):  # the base itself must run
        run(plan(model), nothing, tmp_path / "other")


class Killed(BaseException):
    """As good as SIGKILL between two batches."""


def test_a_run_that_was_killed_continues(model: str, lm: LM, tmp_path: Path) -> None:
    out = tmp_path / "speedups.json"
    starts: list[tuple[int, int]] = []

    def killing(done: int, total: int) -> Callable[[], None]:
        ticks: list[int] = []

        def tick() -> None:
            ticks.append(1)
            if len(ticks) == 9:
                raise Killed

        return tick

    def counting(done: int, total: int) -> Callable[[], None]:
        starts.append((done, total))
        return lambda: None

    small = plan(model, kinds=("early-stop",))
    with pytest.raises(Killed), grid_folder(out) as folder:
        run(small, lambda engine: lm, folder, killing)
    with grid_folder(out) as folder:
        continued = run(small, lambda engine: lm, folder, counting)
    assert starts == [(9, 16)] and not (tmp_path / "speedups.json.partial").exists()
    undisturbed = run(small, lambda engine: lm, tmp_path / "undisturbed")
    assert without_times(continued) == without_times(undisturbed)


def without_times(report: Any) -> Any:
    if isinstance(report, list):
        return [without_times(entry) for entry in report]
    if isinstance(report, dict):
        times = ("seconds", "faster", "gain_retained")
        return {key: without_times(value) for key, value in report.items() if key not in times}
    return report


def test_the_clock_does_not_see_other_programs_where_that_can_be(lm: LM) -> None:
    assert grid.make_clock(lm) in (time.thread_time, time.perf_counter)


# The command


def test_the_command_saves_draws_and_prints(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, png = tmp_path / "o.json", tmp_path / "o.png"
    options = ["--tasks", "facts", "--limit", "2", "--gen-length", "12", "--block-length", "6"]
    measured = ["--settings", "early-stop", "--repeats", "1", "--decoders", f"fixed {FAST}"]
    arguments = ["-m", model, *options, *measured, "--out", out, "--png", png]
    done = run_credit(["speedups", *arguments])
    assert done.status == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["model"] == model and png.stat().st_size > 5000
    assert "early stop off" in done.stdout and "…" not in done.stdout
    again = run_credit(["speedups", "--load", out])
    assert again.stdout == done.stdout


def test_a_saved_report_of_an_earlier_version_can_be_shown(
    report: dict[str, Any], tmp_path: Path
) -> None:
    text = json.dumps(report).replace('"speedup"', '"fewer"').replace('"gain_retained"', '"kept"')
    old = json.loads(text)
    del old["verdict"]
    current = json.loads(json.dumps(report))
    del current["verdict"]
    assert read_report(old) == current
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert "cache dual" in run_credit(["speedups", "--load", tmp_path / "old.json"]).stdout
    bad = run_credit(["speedups", "--load", __file__])
    assert bad.status == 2 and "not a saved report" in bad.stderr


def test_earlier_names_of_the_command() -> None:
    renamed = run_credit(["orthogonality", "--settings", "chache"])
    assert renamed.status == 2
    assert "credit orthogonality is now called credit speedups" in renamed.stderr
    moved = run_credit(["drift", "--tasks", "pocket", "--limit", "8"])
    assert moved.status == 2 and "credit speedups --settings cache" in moved.stderr


BAD = [
    (["--settings", "chache"], "unknown setting"),
    (["--decoders", "credit credit:alpha=0.65"], "two decoders are the same"),
    (["--decoders", " "], "no decoder"),
    (["--decoder", "fixed"], "--decoders"),
    (["--split", "best"], "unknown split"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_bad_input_is_one_line(arguments: list[str], complaint: str) -> None:
    done = run_credit(["speedups", *arguments])
    assert done.status == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
