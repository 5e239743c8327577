"""The command adapt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress, progress
from creditdecoding.cli.render import report_written
from creditdecoding.cli.validate import make_folder
from creditdecoding.config import EngineConfig
from creditdecoding.train.adapt_options import AdaptConfig

if TYPE_CHECKING:
    from creditdecoding.train.adapt import AdaptRun

PARTS = 1000
"""Into how many parts the progress bar divides a run."""

SHOW_EVERY = 25
"""Steps between lines about the losses."""


@app.command()
@with_options(adapting=AdaptConfig)
def adapt(
    base: Annotated[
        str,
        typer.Option(
            help="A causal Llama, Qwen2 or Qwen3 model: a folder, a hub id or a pulled name."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help='A JSONL file of {"messages": [...]}, or a task as in credit train; may be '
            "repeated. NAME@2 is drawn from twice as often.",
        ),
    ] = None,
    self_written: Annotated[
        int,
        typer.Option(
            "--self",
            help="Learn from this many questions and answers that the base writes itself, too.",
            min=0,
        ),
    ] = 0,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the adapter; a run found there goes on where it stopped."),
    ] = Path("runs/adapted"),
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="Begin with this adapter, of the same rank and base.",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(help="Examples of each file and task that are decoded meanwhile.", min=0),
    ] = 8,
    eval_length: Annotated[int, typer.Option(help="Positions of a held-out answer.", min=1)] = 128,
    *,
    adapting: AdaptConfig,
) -> None:
    """Make a diffusion language model of a causal one.

    It ends with a PEFT adapter, config.json and a model card in the folder (docs/guide/adapt.md).
    The same command continues an interrupted run.

    Examples:
        credit adapt --base Qwen/Qwen3-0.6B --self 3000 --data pocket --minutes 60 --out runs/mine
    """
    from creditdecoding.run_dir import locked_folder
    from creditdecoding.train.adapt import AdaptRun, adapt_peer
    from creditdecoding.train.adapt_data import load_sources
    from creditdecoding.train.bases import read_base
    from creditdecoding.train.parallel import peer_processes

    causal = read_base(base, adapting.block_length)
    make_folder(out, "adapter_model.safetensors", "config.json", "state.pt", "log.jsonl")
    with locked_folder(out):
        specs = (*(data or ()), *_self_data(base, self_written, adapting, out))
        sources = load_sources(specs, held_out)
        run = AdaptRun(adapting, causal, sources, out, start_from)
        _report_left_out(run)
        count = sum(weight.numel() for _, weight in run.trained())
        typer.echo(f"{count:,} trained parameters, step {run.step}, {out}", err=True)
        evaluate = _evaluator(run, eval_length)
        peers = (adapting, base, specs, out, start_from)
        with (
            progress(PARTS, "adapting", _part(run), True, lambda: run.saved_step) as tick,
            peer_processes(adapting.processes, out / ".peers", adapt_peer, *peers),
        ):
            shown = _part(run)
            for record in run.run(evaluate):
                for _ in range(_part(run) - shown):
                    tick()
                shown = _part(run)
                _show(record)
    report_written(out / "config.json")


def _self_data(
    base: str,
    count: int,
    adapting: AdaptConfig,
    out: Path,
) -> list[str]:
    """The file of conversations that the base writes, if any are asked for."""
    if not count:
        return []
    from creditdecoding.bases.autoregressive_lm import load_base
    from creditdecoding.train.self_written import write_self_data

    writer = load_base(base, EngineConfig(device=adapting.device, threads=adapting.threads))
    with open_progress("conversations the base writes", True) as start:
        return [str(write_self_data(writer, count, adapting.seed, out / "self", start))]


def _report_left_out(run: AdaptRun) -> None:
    """Say which sources lose rows because no bucket is long enough. Raises `OptionError`."""
    for source in run.sources:
        share = run.rows.left_out(source)
        if share:
            typer.echo(f"{source.name}: {share:.0%} of the rows fit into no bucket", err=True)


def _part(run: AdaptRun) -> int:
    return int(PARTS * run.progress)


def _evaluator(run: AdaptRun, length: int) -> Callable[[AdaptRun], dict[str, Any]] | None:
    """A function that decodes the held-out examples; None if there are none. Raises `OptionError`
    for one that does not fit.
    """
    from creditdecoding.train.adapt import check_held_out, decode_held_out

    if not any(source.held_out for source in run.sources):
        return None
    check_held_out(run, length)
    return lambda run: decode_held_out(run, length)


def _show(record: dict[str, Any]) -> None:
    """Lines about a step: losses now and then, and what was decoded."""
    if record["step"] % SHOW_EVERY == 0:
        ratio = _means(record["by_ratio"])
        distance = _means(record["by_distance"])
        typer.echo(
            f"step {record['step']}: loss {record['loss']:.2f}, {record['right']:.0f}% of the "
            f"masked tokens right; loss by mask ratio {ratio}; "
            f"by distance from the last clean token {distance}",
            err=True,
        )
    if "eval" in record:
        score, nfe = record["eval"]["score"], record["eval"]["nfe"]
        typer.echo(f"step {record['step']}: held-out score {score}, NFE {nfe}", err=True)


def _means(sums: list[list[float]]) -> str:
    return " ".join(f"{total / count:.2f}" if count else "-" for total, count in sums)
