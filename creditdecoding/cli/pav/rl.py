"""The command pav rl."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.progress import Tick, open_progress
from creditdecoding.cli.render import number, print_json, report_written, show, table, write
from creditdecoding.cli.validate import (
    check_can_plot,
    check_folder,
    check_writable,
    make_folder,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.pav.rl.options import RLConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.pav.rl.report import RunSpec
    from creditdecoding.pav.rl.train import PolicyTraining
    from creditdecoding.tasks.base import Task


@pav.command()
@with_options(rl=RLConfig, generation=GenerationConfig, engine=EngineConfig)
def rl(
    verifier: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model's verifier (credit pav train), or pocket, the embedded one.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the run, or of the runs; interrupted runs are continued."),
    ] = Path("runs/rl"),
    tasks: Annotated[
        str,
        typer.Option(help="Tasks to learn on, comma-separated, or a file of your own questions."),
    ] = "arithmetic,algebra",
    arms: Annotated[
        str | None,
        typer.Option(
            help="Run several arms instead of --arm: outcome,q or "
            "'outcome effective:candidates=8,lr=1e-4'.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Runs of each arm, with --seed and the seeds after it.", min=1)
    ] = 1,
    model: Model = "pocket",
    png: Annotated[
        Path | None,
        typer.Option(help="Draw accuracy against samples into this file.", show_default=False),
    ] = None,
    as_json: Json = False,
    *,
    rl: RLConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Train a model on its verifier's value of each step it writes.

    Policy gradient on steps (docs/research/verifiers.md). Each run's folder becomes a checkpoint:
    credit generate -m FOLDER. Needs a --temperature above 0.

    Examples:
        credit pav rl --verifier pocket --temperature 0.7 --out runs/rl
    """
    from creditdecoding.pav.rl.report import run_specs, summary
    from creditdecoding.pav.steps import task_delimiter
    from creditdecoding.tasks import load_tasks

    check_can_plot(png)
    check_writable(png)
    check_folder(out, "rl.json")
    task_list = load_tasks(tasks)
    specs = run_specs(out, rl.arm if arms is None else arms, rl, generation.seed, seeds)
    for task in task_list:
        task_delimiter(task, rl.delimiter)
    _run_all(specs, verifier, task_list, model, generation, engine)
    settings = {
        "tasks": tasks,
        "model": model,
        "verifier": None if verifier is None else str(verifier),
        "rl": dataclasses.asdict(rl),
        "generation": dataclasses.asdict(generation),
        "seeds": seeds,
    }
    report = summary(specs, settings)
    write(out / "rl.json", json.dumps(report, indent=1) + "\n")
    if png is not None:
        from creditdecoding.plots.rl import rl_png

        rl_png(report, png)
    if as_json:
        print_json(report)
    else:
        _print(report)
    report_written(out / "rl.json", png)


def _run_all(
    specs: list[RunSpec],
    verifier: Path | None,
    tasks: list[Task],
    model: str,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Run all specs, one after the other, with one progress display."""
    finished = 0
    run: PolicyTraining | None = None

    def saved() -> int:
        return finished + (run.saved if run is not None else 0)

    with open_progress("iterations", resumable=True, saved_count=saved) as start:
        logged = [_logged_iterations(spec) for spec in specs]
        tick = start(sum(logged), sum(spec.config.iterations for spec in specs))
        for spec, done in zip(specs, logged):
            run = _open_run(spec, verifier, tasks, model, generation, engine)
            _follow(run, spec, done, tick)
            finished += spec.config.iterations
            run = None


def _open_run(
    spec: RunSpec,
    verifier: Path | None,
    tasks: list[Task],
    model: str,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> PolicyTraining:
    """A run, ready to begin or to continue."""
    from creditdecoding.checkpoint import resolve_checkpoint
    from creditdecoding.cli.search import load_verifier
    from creditdecoding.pav.rl.train import PolicyTraining

    lm = load_lm(model, engine)
    run = PolicyTraining(
        lm,
        tasks,
        dataclasses.replace(generation, seed=spec.seed),
        spec.config,
        load_verifier(verifier, lm, engine),
        spec.folder,
        resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir),
        engine.compile,
    )
    make_folder(spec.folder)
    return run


def _logged_iterations(spec: RunSpec) -> int:
    """Iterations in the log of the run's folder."""
    from creditdecoding.pav.rl.train import records

    last = max((record["iteration"] for record in records(spec.folder)), default=0)
    return min(int(last), spec.config.iterations)


def _follow(run: PolicyTraining, spec: RunSpec, counted: int, tick: Tick) -> None:
    """Carry a run out; `counted` iterations are in the progress already."""
    for record in run.run():
        for _ in range(counted, record["iteration"]):
            tick()
        counted = max(counted, record["iteration"])
        if "held" in record:
            held = record["held"]
            typer.echo(
                f"{spec.arm}, seed {spec.seed}, {count(record['samples'], 'sample')}: "
                f"{100 * held['accuracy']:.1f} % right, {held['passes']:.2f} passes an answer",
                err=True,
            )
    for _ in range(counted, spec.config.iterations):
        tick()


def _print(report: dict[str, Any]) -> None:
    columns = ["arm", "right %, before and in the end"]
    level = report["level"]
    if level is not None:
        columns += [f"samples to {100 * level:.1f} %", "times fewer", "forwards fewer"]
    rows = []
    for arm in report["arms"]:
        before, final = arm["accuracy"][0], _percent(arm["final"], arm["seeds"])
        row = [arm["arm"], f"{100 * before['value']:.1f} -> {final}"]
        if level is not None:
            row += _saving_cells(arm["reaches"])
        rows.append(row)
    show(table(columns, rows))
    if level is not None:
        typer.echo(
            "Fewer than the outcome arm takes to where it ends; forwards: sequence-forwards of the "
            "policy and of the verifier."
        )


def _percent(share: dict[str, float], seeds: int) -> str:
    """A share in percent, with its interval if there are several seeds."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" if seeds > 1 else f"{value:.1f}"


def _saving_cells(reaches: dict[str, Any]) -> list[str]:
    samples = "never" if reaches["samples"] is None else f"{reaches['samples']:.0f}"
    ratio = number(reaches["ratio"], ".1f")
    if reaches["low"] is not None and reaches["low"] != reaches["high"]:
        ratio += f" [{reaches['low']:.1f}, {reaches['high']:.1f}]"
    return [samples, ratio, number(reaches["sequences_ratio"], ".1f")]
