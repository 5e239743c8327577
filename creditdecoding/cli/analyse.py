"""The command analyse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import answer_progress
from creditdecoding.cli.render import (
    number,
    print_json,
    report_written,
    show,
    table,
    write_json,
)
from creditdecoding.cli.validate import (
    check_can_plot,
    check_no_decoder,
    check_writable,
    parse_split,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.eval.traces.dataset import PromptTraces
    from creditdecoding.tasks.base import Item, Split, Task

NO_REFERENCE = "There is no reference answer to compare with."


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
            help="Without files: families, benchmarks or files of questions, also without answers.",
            show_default="pocket",
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
        str, typer.Option(help="Decoders to compare with standard decoding, separated by blanks.")
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
            help="Draw when tokens were decided and when they were committed.",
            show_default=False,
        ),
    ] = None,
    reliability_png: Annotated[
        Path | None, typer.Option(help="Draw the reliability diagrams.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also save the JSON to this file; without files an interrupted run continues.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Analyse traces: wasted work, wrong tokens, calibration.

    It reports redundancy, the oracle's NFE, wrong commits, what credit changed, and calibration.
    With --out answers are kept in FILE.partial until the file is written, and the same command
    continues an interrupted run.

    Examples:
        credit analyse --tasks arithmetic --limit 5
        credit analyse --decoders "threshold credit" --out analysis.json
    """
    from creditdecoding.eval.sweep import split_blanks
    from creditdecoding.eval.traces.report import analyse as analyse_prompts
    from creditdecoding.plots.analysis import reliability_png as draw_reliability
    from creditdecoding.plots.analysis import steps_png as draw_steps

    check_no_decoder("analyse", generation)
    check_can_plot(png)
    check_can_plot(reliability_png)
    check_writable(out, png, reliability_png)
    if traces:
        if tasks is not None or generation != GenerationConfig():
            raise OptionError(
                "saved traces take no tasks and no decoding options: nothing is decoded",
                hint="Leave them out, or the files.",
            )
        prompts = read_prompts(traces, model, engine)
    else:
        specs = split_blanks(decoders)
        prompts = decode_now(
            tasks or "pocket", limit, split, specs, model or "pocket", generation, engine, out
        )
    report = analyse_prompts(prompts)
    if png is not None:
        draw_steps(report, png)
    if reliability_png is not None:
        draw_reliability(report, reliability_png)
    if out is not None:
        write_json(out, report)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    report_written(out, png, reliability_png)


def read_prompts(paths: list[Path], model: str | None, engine: EngineConfig) -> list[PromptTraces]:
    """The traces of files and folders, with the oracle's if a model is named."""
    from creditdecoding.eval.traces.dataset import group_traces, standard_traces, with_oracle
    from creditdecoding.trace import Trace

    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    prompts = group_traces([(str(file), Trace.load(file)) for file in files])
    if model is None:
        return prompts
    standard_traces(prompts)  # refuses before the model is loaded
    lm = load_lm(model, engine)
    with answer_progress(len(prompts), "answers of the oracle") as on_event:
        return with_oracle(lm, prompts, on_event)


def decode_now(
    tasks: str,
    limit: int | None,
    split: str,
    decoders: list[str],
    model: str,
    generation: GenerationConfig,
    engine: EngineConfig,
    out: Path | None,
) -> list[PromptTraces]:
    """The traces of task items that are answered now."""
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.eval.traces.dataset import decode_prompts, decoders_to_trace
    from creditdecoding.tasks import load_tasks

    item_split = parse_split(split)
    loaded_tasks = load_tasks(tasks, open_text=True)
    specs = decoders_to_trace(decoders, generation)
    items = _draw_items(loaded_tasks, item_split, limit)
    lm = load_lm(model, engine)
    options = dataclasses.asdict(generation)
    manifest = answers_manifest(
        "analyse", model, engine, loaded_tasks, items, specs, generation=options
    )
    with save_answers(out, manifest, whole_traces=True) as saved:
        done = 0 if saved is None else saved.count
        total = len(items) * (len(specs) + 1)
        with answer_progress(total, done=done, resumable=saved is not None) as on_event:
            return decode_prompts(lm, loaded_tasks, items, generation, specs, on_event, saved)


def _draw_items(tasks: list[Task], split: Split, limit: int | None) -> list[Item]:
    """The items to answer, ten of each task unless a limit is given."""
    from creditdecoding.tasks.base import distinct_items

    count = items_per_task(limit, 10, tasks)
    return [item for task in tasks for item in distinct_items(task, split, 0, count)]


def print_report(report: dict[str, Any]) -> None:
    """The tables that a person reads; everything else is in the JSON."""
    forms = {
        "score": ("score", ".1f"),
        "same": ("same", ".1f"),
        "NFE": ("nfe", ".2f"),
        "/ oracle": ("over_oracle", ".2f"),
        "bound": ("trace_bound", ".2f"),
        "commit": ("commit", ".2f"),
        "redund.": ("redundancy", ".2f"),
    }
    rows = []
    for record in report["decoders"]:
        wrong = record["wrong"]
        share = None if wrong is None else 100 * wrong["wrong"] / max(1, wrong["judged"])
        cells = [number(record[key], form) for key, form in forms.values()]
        rows.append((record["decoder"], *cells, number(share)))
    oracle = f", oracle NFE {report['oracle']['nfe']:.2f}" if report["oracle"] else ""
    title = f"{count(report['prompts'], 'prompt')}{oracle} (score, same and wrong in %)"
    show(table(("decoder", *forms, "wrong"), rows, title))
    for record in report["decoders"]:
        if record["wrong"] is not None and record["wrong"]["wrong"]:
            print_wrong(record)
    print_changes(report["decoders"])
    print_attribution(report["decoders"])
    print_side_by_side(report["decoders"])
    if report["calibration"] is not None:
        print_calibration(report["calibration"])


def print_wrong(record: dict[str, Any]) -> None:
    """Where the commits that differ from standard decoding's are, by confidence and credit."""
    for measure in ("confidence", "credit"):
        bins = [entry for entry in record["wrong"][f"by_{measure}"] or () if entry["commits"]]
        rows = []
        for entry in bins:
            end = "and more" if entry["high"] is None else f"to {entry['high']:g}"
            share = f"{100 * entry['wrong'] / entry['commits']:.1f}"
            counts = (str(entry["commits"]), str(entry["wrong"]))
            rows.append((f"{entry['low']:g} {end}", *counts, share))
        title = f"{record['decoder']}: commits that differ from standard decoding's, by {measure}"
        if rows:
            show(table((measure, "commits", "wrong", "wrong %"), rows, title))


def print_changes(records: list[dict[str, Any]]) -> None:
    """What credit changed: tokens that were not the model's first choice."""
    rows = []
    for record in records:
        changed = record["changed"]
        if changed is not None:
            cells = [str(changed["commits"]), str(changed["candidates"] - changed["commits"])]
            for judge in ("standard", "reference"):
                counts = changed[f"by_{judge}"]
                cells += [_judged(record, counts[kind], judge) for kind in ("better", "worse")]
            rows.append((record["decoder"], *cells))
    columns = ("decoder", "committed", "passing", "better", "worse", "better*", "worse*")
    if rows:
        show(
            table(columns, rows, "Tokens changed by credit"),
            "Better and worse: by standard decoding, and with * by the reference answers.",
        )


def _judged(record: dict[str, Any], count: int, judge: str) -> str:
    """What a judge counted; "-" for the reference answers if none could be compared."""
    return str(count if judge == "standard" or record["aligned"] else "-")


def print_attribution(records: list[dict[str, Any]]) -> None:
    """Commits that a decoder's history made, right and wrong."""
    rows = []
    for record in records:
        counts = record["attribution"]
        if counts is not None:
            share = 100 * counts["by_history"] / max(1, counts["commits"])
            cells = [counts[key] for key in ("commits", "by_history")]
            judged = [
                _judged(record, counts[f"{verdict}_by_{judge}"], judge)
                for judge in ("standard", "reference")
                for verdict in ("right", "wrong")
            ]
            texts = [*map(str, cells), f"{share:.1f}", *judged, str(counts["changed"])]
            rows.append((record["decoder"], *texts))
    columns = ("decoder", "commits", "by history", "%", "right", "wrong", "right*", "wrong*")
    if rows:
        show(
            table((*columns, "changed"), rows, "Commits that only the history made"),
            "By history: the threshold alone would not have written the token in that pass.",
            "Right and wrong: by standard decoding, and with * by the reference answers.",
        )


def print_side_by_side(records: list[dict[str, Any]]) -> None:
    """The cost of committing side by side, on prompts whose right answers are all known."""
    costs = [(record, record["side_by_side"]) for record in records if record["side_by_side"]]
    rows = [
        (
            record["decoder"],
            str(cost["prompts"]),
            number(cost["nats"], ".3f"),
            str(cost["left_support"]),
        )
        for record, cost in costs
    ]
    if rows:
        show(
            table(("decoder", "prompts", "nats", "left"), rows, "Cost of committing side by side"),
            "Nats an answer: the total correlation of tokens that one pass commits. Left: answers "
            "with tokens that no right answer has together.",
        )


def print_calibration(report: dict[str, Any]) -> None:
    """How often the first choice is final, and right, and the verdict."""
    from creditdecoding.eval.traces.calibration import KINDS, PAYS

    right = {"all": report["right"]["all"]}
    for key in ("by_ratio", "by_run"):
        right |= {band["band"]: band for band in report["right"][key]}
    final = report["final"]
    bands = [("", {**final["all"], "band": "all"})]
    bands += [("masked ", band) for band in final["by_ratio"]]
    bands += [("run ", band) for band in final["by_run"]]
    rows = []
    for prefix, band in bands:
        other = right.get(band["band"], {"frequency": None, "gap": None})
        low, high = band["interval"] or (None, None)
        rows.append(
            (
                prefix + band["band"].replace("% to ", "-").replace(" to ", "-"),
                str(band["looks"]),
                percent(band["confidence"]),
                percent(band["frequency"]),
                f"{number(band['gap'], '+.1f')} [{number(low, '.1f')}, {number(high, '.1f')}]",
                number(band["ece"], ".1f"),
                percent(other["frequency"]),
                number(other["gap"], "+.1f"),
            )
        )
    columns = ("band", "count", "conf %", "final %", "gap [95 %]", "ECE", "right %", "gap")
    gains = [
        f"{name} {100 * gain['share']:.1f} % [{100 * gain['interval'][0]:.1f}, "
        f"{100 * gain['interval'][1]:.1f}]"
        for name, gain in report["gains"].items()
    ]
    verdict = report["verdict"]
    is_judged = report["right"]["all"]["looks"] > 0
    kind_right = KINDS[verdict["kind_right"]] if is_judged else NO_REFERENCE
    show(
        table(columns, rows, "How often the first choice is final, and right"),
        f"Brier score removed: {', '.join(gains)}.",
        f"First choice final: {KINDS[verdict['kind']]}",
        f"First choice right: {kind_right}",
        PAYS[verdict["pays"]],
    )


def percent(share: float | None) -> str:
    """A share in percent."""
    return number(None if share is None else 100 * share, ".1f")
