"""The command pav rl."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav import pav
from creditdecoding.cli.progress import Tick, open_progress
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import check_can_plot, check_folder, check_writable, make_folder
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.pav.rl.options import RLConfig

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
        typer.Option(
            help="Folder of the run, or of the runs; what is found there goes on where it stopped."
        ),
    ] = Path("runs/rl"),
    tasks: Annotated[
        str,
        typer.Option(
            help="Families to learn on, comma-separated, or a file of your own questions."
        ),
    ] = "arithmetic,algebra",
    arms: Annotated[
        str | None,
        typer.Option(
            help="Run several arms in place of --arm: outcome,q or 'outcome effective:candidates=8,lr=1e-4'.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Runs of each arm, with --seed and the seeds behind it.", min=1)
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
    """Policy gradient on steps: the model learns from what its verifier says of each step it writes
    (docs/verifiers.md).

    Each run's folder ends up as a checkpoint: credit generate -m FOLDER. Needs a --temperature
    above 0.
    """
    from creditdecoding.pav.rl.report import run_specs, summary
    from creditdecoding.pav.steps import task_delimiter
    from creditdecoding.tasks import load_tasks

    check_can_plot(png)
    check_writable(png)
    check_folder(out, "rl.json")
    chosen = load_tasks(tasks)
    runs = run_specs(out, rl.arm if arms is None else arms, rl, generation.seed, seeds)
    for family in chosen:
        task_delimiter(family, rl.delimiter)
    ended = 0
    run: PolicyTraining | None = None
    with open_progress("iterations", True, lambda: ended + (run.saved if run else 0)) as start:
        logged = [_logged(cell) for cell in runs]
        tick = start(sum(logged), sum(cell.config.iterations for cell in runs))
        for cell, done in zip(runs, logged):
            run = _run(cell, verifier, chosen, model, generation, engine)
            _pursue(run, cell.arm, done, tick)
            ended += cell.config.iterations
            run = None
    asked = {
        "tasks": tasks,
        "model": model,
        "verifier": None if verifier is None else str(verifier),
        "rl": dataclasses.asdict(rl),
    }
    found = summary(runs, {**asked, "generation": dataclasses.asdict(generation), "seeds": seeds})
    write(out / "rl.json", json.dumps(found, indent=1) + "\n")
    if png is not None:
        from creditdecoding.plots.rl import rl_png

        rl_png(found, png)
    if as_json:
        print_json(found)
    else:
        _print(found)
    for path in (out / "rl.json", png):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


def _run(
    cell: RunSpec,
    verifier: Path | None,
    families: list[Task],
    model: str,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> PolicyTraining:
    """The run of a cell, ready to begin or to go on."""
    from creditdecoding.checkpoint import resolve_checkpoint
    from creditdecoding.pav.rl.train import PolicyTraining
    from creditdecoding.pav.verifier.model import Verifier

    lm = load_lm(model, engine)
    source = resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir)
    judge = None if verifier is None else Verifier.load(verifier, lm, compile=engine.compile)
    run = PolicyTraining(
        lm,
        families,
        dataclasses.replace(generation, seed=cell.seed),
        cell.config,
        judge,
        cell.folder,
        source,
        engine.compile,
    )
    make_folder(cell.folder)
    return run


def _logged(cell: RunSpec) -> int:
    """Iterations that a run found in its folder has done."""
    from creditdecoding.pav.rl.train import records

    done = [record["iteration"] for record in records(cell.folder)]
    return min(max(done, default=0), cell.config.iterations)


def _pursue(run: PolicyTraining, arm: str, told: int, tick: Tick) -> None:
    """Carry a run out; `told` iterations are counted already."""
    for record in run.run():
        for _ in range(told, record["iteration"]):
            tick()
        told = max(told, record["iteration"])
        if "held" in record:
            held = record["held"]
            text = f"{arm}, seed {run.generation.seed}, {record['samples']} samples: "
            typer.echo(
                f"{text}{100 * held['accuracy']:.1f} % right, {held['passes']:.2f} passes an answer",
                err=True,
            )
    for _ in range(told, run.config.iterations):
        tick()


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    level = found["level"]
    more = (
        ()
        if level is None
        else (f"samples to {100 * level:.1f} %", "times fewer", "forwards fewer")
    )
    table = Table(Column("arm", overflow="fold"), "right %, before and in the end", *more)
    for arm in found["arms"]:
        first, last = arm["accuracy"][0], arm["final"]
        cells = [] if level is None else _saving(arm["reaches"])
        table.add_row(
            arm["arm"], f"{100 * first['value']:.1f} -> {_percent(last, arm['seeds'])}", *cells
        )
    Console().print(table)
    if level is not None:
        typer.echo(
            "Fewer than the outcome arm takes to where it ends; forwards: sequences of the policy and of the verifier."
        )


def _percent(share: dict[str, float], seeds: int) -> str:
    """A share in percent, with its interval over seeds where there are several."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}..{high:.1f})" if seeds > 1 else f"{value:.1f}"


def _saving(reaches: dict[str, Any]) -> list[str]:
    """When an arm gets there, and how much sooner."""
    when = "never" if reaches["samples"] is None else f"{reaches['samples']:.0f}"
    range_ = (
        ""
        if reaches["low"] in (None, reaches["high"])
        else f" ({reaches['low']:.1f}..{reaches['high']:.1f})"
    )
    ratio = "" if reaches["ratio"] is None else f"{reaches['ratio']:.1f}{range_}"
    return [
        when,
        ratio,
        "" if reaches["sequences_ratio"] is None else f"{reaches['sequences_ratio']:.1f}",
    ]
