"""`credit lengths`: items by the length of their answers, sweeps, resumption, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.eval.lengths import SWEEPS, LengthsLayout, LengthsPlan, lay_out, run
from creditdecoding.lm import LM, load
from creditdecoding.plots.lengths import lengths_png
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Task
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make


@pytest.fixture(scope="module")
def pocket() -> LM:
    return load("pocket", threads=1)


def layout(lm: LM, **changes: Any) -> LengthsLayout:
    defaults = {
        "tasks": tuple(load_tasks("output")),
        "decoders": ("fixed", "credit"),
        "limit": 4,
        "gen_lengths": (64,),
        "block_lengths": (16,),
    }
    return lay_out(LengthsPlan("pocket", **{**defaults, **changes}), lm)


def test_items_are_drawn_by_the_length_of_their_answers(pocket: LM) -> None:
    two = layout(pocket, tasks=tuple(load_tasks("output,rule")))
    assert [len(bucket.items) for bucket in two.buckets] == [4] * 4
    for shorter, longer in zip(two.buckets, two.buckets[1:]):
        assert max(shorter.lengths) < min(longer.lengths)
    assert two.lengths == [len(pocket.tokenizer.encode(item.answer)) for item in two.items]
    assert {item.task for item in two.items} == {"output", "rule"}
    assert all(item.split == "test" for item in two.items)


def test_a_short_list_is_one_range(pocket: LM) -> None:
    listed = tuple(Item("quiz", f"question {n}", "a " * n, "a", (n,)) for n in (1, 40))
    quiz = Task("quiz", "quiz", lambda rng: listed[0], lambda *_: True, fixed_items=listed)
    assert [len(bucket.items) for bucket in layout(pocket, tasks=(quiz,)).buckets] == [2]


def test_default_lengths_are_those_that_fit(pocket: LM, tmp_path: Path) -> None:
    usual = layout(pocket, gen_lengths=None, block_lengths=None)
    assert list(usual.points["gen"]) == [64, 128, 256, 448]
    assert list(usual.points["block"]) == [8, 16, 32, 64, 128]
    causal = load(str(make("llada2", tmp_path / "m")), device="cpu")
    facts = {"tasks": tuple(load_tasks("facts")), "generation": GenerationConfig(gen_length=64)}
    shorter = layout(causal, gen_lengths=None, block_lengths=None, **facts)
    assert list(shorter.points["gen"]) == [64] and list(shorter.points["block"]) == [8, 16, 32]
    with pytest.raises(OptionError, match="do not fit into the model"):
        layout(pocket, gen_lengths=(64, 500))
    with pytest.raises(OptionError, match="block_length does not divide"):
        layout(causal, block_lengths=(12,), **facts)


@pytest.mark.slow
def test_passes_per_token_over_lengths(pocket: LM, tmp_path: Path) -> None:
    """Without early stop standard decoding takes gen_length passes, whatever the answer; with it,
    whole blocks up to the end.
    """
    options = {"decoders": ("fixed:k=8", "credit"), "limit": 2, "buckets": 2}
    small = layout(pocket, gen_lengths=(40, 80), **options)
    report = run(small, pocket, tmp_path / "run")
    sweeps = {sweep["name"]: sweep for sweep in report["sweeps"]}
    assert list(sweeps) == list(SWEEPS)
    full = [point["decoders"][0]["nfe"] for point in sweeps["gen-full"]["points"]]
    stopped, longer = sweeps["gen"]["points"]
    assert full == [5.0, 10.0] and sweeps["gen-full"]["trends"]["fixed:k=8"] == "grows"
    assert longer["decoders"][0]["nfe"] < 10 and stopped["too_long"] > 0
    for sweep in sweeps.values():
        for point in sweep["points"]:
            first, last = point["decoders"]
            for cell in (first, last):
                ratio = cell["nfe"] / cell["tokens"]
                assert cell["per_token"]["value"] == pytest.approx(ratio, abs=0.001)
            speedup = last["against"]["fixed:k=8"]["speedup"]["value"]
            assert speedup == pytest.approx(first["nfe"] / last["nfe"], abs=0.002)
    lengths_png(report, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_command_saves_draws_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = str(make("llada", tmp_path / "tiny"))
    out, png = tmp_path / "o.json", tmp_path / "o.png"
    options = ["--tasks", "facts", "--limit", "2", "--buckets", "2", "--gen-length", "12"]
    sweeps = ["--sweeps", "answer block", "--block-lengths", "6,12", "--decoders", "fixed credit"]
    done = run_credit(["lengths", "-m", model, *options, *sweeps, "--out", out, "--png", png])
    assert done.status == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["model"] == model and png.stat().st_size > 5000
    assert "Over block_length" in done.stdout and "…" not in done.stdout
    rows = [line for line in done.stdout.splitlines() if "credit" in line and "[" in line]
    assert len(rows) == sum(len(sweep["points"]) for sweep in report["sweeps"])


BAD = [
    (["--sweeps", "blocks"], "unknown sweep"),
    (["--gen-lengths", "64,x"], "whole numbers"),
    (["--gen-lengths", "0"], "whole numbers"),
    (["--png", "nowhere/x.png"], "folder"),
    (["--tasks", "maths"], "unknown task"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_bad_input_is_one_line(arguments: list[str], complaint: str) -> None:
    done = run_credit(["lengths", *arguments])
    assert done.status == 2 and complaint in done.stderr and done.stderr.count("\n") == 1


def test_the_earlier_name_of_the_command() -> None:
    done = run_credit(["scaling", "--sweeps", "blocks"])
    assert "credit scaling is now called credit lengths" in done.stderr
