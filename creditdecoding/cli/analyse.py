"""The command analyse: what a set of traces says about the decoders and the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import answer_progress
from creditdecoding.cli.render import print_json
from creditdecoding.cli.validate import (
    check_can_plot,
    check_no_decoder,
    check_writable,
    parse_split,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.eval.traces.dataset import PromptTraces


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def analyse(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(help="Saved traces, or folders of them; with none, answers are made now."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Without files: pocket, or families of it, comma-separated.", show_default="pocket"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items a family.", min=1, show_default="10, or all of a list that is shorter"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="test, dev or train.")] = "test",
    decoders: Annotated[
        str, typer.Option(help="Decoders to set beside standard decoding, separated by blanks.")
    ] = "fixed threshold credit",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model; with files, to run the oracle on them too.",
            show_default="pocket without files",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Draw when tokens were candidates and when they were committed.",
            show_default=False,
        ),
    ] = None,
    reliability_png: Annotated[
        Path | None, typer.Option(help="Draw the reliability diagrams.", show_default=False)
    ] = None,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Analyse traces: redundancy, the oracle's NFE, wrong commits, what credit changed, and
    calibration.
    """
    from creditdecoding.eval.traces.report import analyse as numbers

    check_no_decoder("analyse", generation)
    check_can_plot(png)
    check_can_plot(reliability_png)
    check_writable(png, reliability_png)
    if traces:
        if tasks is not None or generation != GenerationConfig():
            raise OptionError(
                "saved traces take no tasks and no decoding options: nothing is decoded",
                hint="Leave them out, or the files.",
            )
        cases = _saved(traces, model, engine)
    else:
        cases = _made(
            tasks or "pocket", limit, split, decoders, model or "pocket", generation, engine
        )
    found = numbers(cases)
    if png is not None or reliability_png is not None:
        from creditdecoding.plots import analysis as plot

        if png is not None:
            plot.steps_png(found, png)
        if reliability_png is not None:
            plot.reliability_png(found, reliability_png)
    if as_json:
        print_json(found)
    else:
        _print_report(found)
    for path in (png, reliability_png):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


def _saved(paths: list[Path], model: str | None, engine: EngineConfig) -> list[PromptTraces]:
    """The cases of some files and folders, with the oracle's run if a model is named."""
    from creditdecoding.eval.traces.dataset import group_traces, standard_traces, with_oracle
    from creditdecoding.trace import Trace

    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]
    cases = group_traces([(str(file), Trace.load(file)) for file in files])
    if model is None:
        return cases
    standard_traces(cases)
    lm = load_lm(model, engine)
    with answer_progress(len(cases), "answers of the oracle") as on_event:
        return with_oracle(lm, cases, on_event)


def _made(
    tasks: str,
    limit: int | None,
    split: str,
    decoders: str,
    model: str,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> list[PromptTraces]:
    """The cases of task items answered now."""
    from creditdecoding.eval.traces.dataset import decode_prompts, decoders_to_trace
    from creditdecoding.tasks import load_tasks

    where = parse_split(split)
    chosen, specs = load_tasks(tasks), decoders_to_trace(decoders.split(), generation)
    most = items_per_task(limit, 10, chosen)
    lm = load_lm(model, engine)
    with answer_progress(most * len(chosen) * (len(specs) + 1)) as on_event:
        return decode_prompts(lm, chosen, generation, specs, most, where, on_event)


def _print_report(found: dict[str, Any]) -> None:
    """The tables that a person reads; everything else is in the JSON."""
    from rich.console import Console

    console = Console()
    title = f"{found['prompts']} prompts" + (
        f", oracle NFE {found['oracle']['nfe']:.2f}" if found["oracle"] else ""
    )
    table = _table(
        title,
        "decoder",
        "score %",
        "same %",
        "NFE",
        "/oracle",
        "bound",
        "commit",
        "redundant",
        "wrong %",
    )
    for each in found["decoders"]:
        wrong = each["wrong"] and 100 * each["wrong"]["wrong"] / max(1, each["wrong"]["judged"])
        values = (
            each[key]
            for key in (
                "score",
                "same",
                "nfe",
                "over_oracle",
                "trace_bound",
                "commit",
                "redundancy",
            )
        )
        table.add_row(each["decoder"], *map(_number, (*values, wrong)))
    console.print(table)
    for each in found["decoders"]:
        if each["wrong"] is not None and each["wrong"]["wrong"]:
            _print_wrong(console, each)
        if each["changed"] is not None:
            _print_changed(console, each["decoder"], each["changed"])
    if found["calibration"] is not None:
        _print_calibration(console, found["calibration"])


def _table(title: str, first: str, *columns: str) -> Any:
    """A table of a name and numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(first, title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _print_wrong(console: Any, record: dict[str, Any]) -> None:
    for name in ("confidence", "credit"):
        bins = [each for each in record["wrong"][f"by_{name}"] or () if each["commits"]]
        if bins:
            table = _table(
                f"{record['decoder']}: commits unlike standard decoding's, by {name}",
                name,
                "commits",
                "wrong",
                "wrong %",
            )
            for each in bins:
                span = (
                    f"{each['low']:g} to {each['high']:g}"
                    if each["high"] is not None
                    else f"{each['low']:g} and more"
                )
                table.add_row(
                    span,
                    str(each["commits"]),
                    str(each["wrong"]),
                    f"{100 * each['wrong'] / each['commits']:.1f}",
                )
            console.print(table)


def _print_changed(console: Any, name: str, changed: dict[str, Any]) -> None:
    text = f"{name}: credit changed {changed['commits']} committed tokens (and {changed['candidates'] - changed['commits']} passing candidates)"
    if changed["commits"]:
        for judge, words in (
            ("by_standard", "by standard decoding"),
            ("by_reference", "by the reference answers"),
        ):
            text += f"; {words} " + ", ".join(
                f"{changed[judge][kind]} {kind}" for kind in ("better", "worse", "neither")
            )
        text += f"; {changed['in_right_answers']} in right answers, {changed['in_wrong_answers']} in wrong ones"
    console.print(text + "\n", highlight=False)


def _print_calibration(console: Any, found: dict[str, Any]) -> None:
    table = _table(
        "How often the first choice is final, and right",
        "looks",
        "count",
        "conf %",
        "final %",
        "gap",
        "95%",
        "ECE",
        "right %",
        "gap",
    )
    final = found["final"]
    right = {
        each["band"]: each for key in ("by_ratio", "by_run") for each in found["right"][key]
    } | {"all": found["right"]["all"]}
    rows = [
        ("", {**final["all"], "band": "all"}),
        *(("masked ", each) for each in final["by_ratio"]),
        *(("run ", each) for each in final["by_run"]),
    ]
    for name, each in rows:
        other = right.get(each["band"], {"frequency": None, "gap": None})
        spread = "-" if each["interval"] is None else "{:+.1f}, {:+.1f}".format(*each["interval"])
        numbers = [
            None if value is None else 100 * value
            for value in (each["confidence"], each["frequency"], other["frequency"])
        ]
        shown = (_number(x, 1) for x in (*numbers[:2], each["gap"]))
        table.add_row(
            name + each["band"].replace("% to ", "-").replace(" to ", "-"),
            str(each["looks"]),
            *shown,
            spread,
            *(_number(x, 1) for x in (each["ece"], numbers[2], other["gap"])),
        )
    console.print(table)
    console.print(found["verdict"]["words"], highlight=False)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
