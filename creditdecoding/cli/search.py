"""The command search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Prompt, PromptFile, Raw, app, load_lm, read_prompt
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import number, print_json, show, table
from creditdecoding.cli.validate import check_folder, parse_split
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.pav.search.options import SearchConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.lm import LM
    from creditdecoding.pav.problems import Problem
    from creditdecoding.pav.sampler import Sampler
    from creditdecoding.pav.search.result import Candidate, SearchResult
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.tasks.base import Task

COST_COLUMNS = ("right %", "[95 %]", "sequences", "verifier", "tokens", "seconds")
COST_NOTE = (
    "Sequences: sequence-forwards a problem, those of the verifier included and also in the next "
    "column."
)


@app.command()
@with_options(search=SearchConfig, generation=GenerationConfig, engine=EngineConfig)
def search(
    prompt: Prompt = None,
    model: Model = "pocket",
    verifier: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the verifier (credit pav train), or pocket, the embedded one.",
            show_default=False,
        ),
    ] = None,
    file: PromptFile = None,
    raw: Raw = False,
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="What ends a step of the answer to a prompt: a text, \\\\n for a line's end, or "
            "'8 tokens'; by default a full stop.",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks instead of a prompt, comma-separated: how often is the search right?",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="With --tasks: items a task; by default 50, or all of a shorter list.",
            min=2,
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With --tasks: test, dev or train; by default test.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="With --tasks: keep the answers in this folder; an interrupted run in it is "
            "continued.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for the rows that run at a time; by default 80% of what is free.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    *,
    search: SearchConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Search for an answer step by step under a verifier.

    For --tasks it reports how often that is right and what it costs. Draws need a --temperature
    above 0. See docs/research/verifiers.md.

    Examples:
        credit search "Solve 3x+4=19 for x." --verifier pocket --temperature 1.5
        credit search --tasks arithmetic --limit 5 --method majority --temperature 1.5
    """
    from creditdecoding.pav.sampler import Sampler
    from creditdecoding.tasks import load_tasks

    if tasks is None:
        _refuse("--limit, --split and --out need --tasks", limit, split, out)
        text = read_prompt(prompt, file)
    else:
        _refuse("a prompt and --tasks exclude each other", prompt, file)
        _refuse(
            "--delimiter and --raw are for a prompt: a task has its own", delimiter, raw or None
        )
        if out is not None:
            check_folder(out, "samples.jsonl")
    lm = load_lm(model, engine)
    value_model = load_verifier(verifier, lm, engine)
    sampler = Sampler(lm, generation, memory=memory, share=True)
    if tasks is None:
        result = _search_prompt(sampler, value_model, search, text, raw, delimiter or ".")
        report = {"method": dataclasses.asdict(search), **_result_record(result, sampler)}
        if as_json:
            print_json(report)
        else:
            _print_result(report)
        return
    task_list = load_tasks(tasks)
    settings = {"limit": items_per_task(limit, 50, task_list), "split": split or "test"}
    report = _search_tasks(
        sampler, value_model, search, task_list, settings, out, str(verifier or ""), engine
    )
    if as_json:
        print_json(report)
    else:
        _print_accuracy(report)


def _refuse(message: str, *values: Any) -> None:
    option_values = [str(value) for value in values if value is not None]
    if option_values:
        raise OptionError(message, given=", ".join(option_values), hint="Leave it out.")


def load_verifier(folder: Path | None, lm: LM, engine: EngineConfig) -> Verifier | None:
    """The verifier in `folder`, if one is given."""
    from creditdecoding.pav.verifier.model import Verifier

    return None if folder is None else Verifier.load(folder, lm, compile=engine.compile)


def _search_prompt(
    sampler: Sampler,
    value_model: Verifier | None,
    config: SearchConfig,
    prompt: str,
    raw: bool,
    delimiter: str,
) -> SearchResult:
    from creditdecoding.pav.problems import Problem, answer_extractor
    from creditdecoding.pav.search.methods import search as run_search
    from creditdecoding.pav.steps import parse_delimiter

    lm = sampler.lm
    problem = Problem(
        prompt=tuple(lm.encode(prompt, raw)),
        delimiter=parse_delimiter(delimiter),
        seed=sampler.generation.seed,
        extract_answer=answer_extractor(None, lm, sampler.generation),
    )
    ((_, result),) = run_search(config, [problem], sampler, value_model)
    return result


def _result_record(result: SearchResult, sampler: Sampler) -> dict[str, Any]:
    """A search as JSON-ready data."""
    answer, spent = result.answer, result.spent
    return {
        "text": sampler.text(answer.state),
        "q": answer.q,
        "logprob": answer.logprob,
        "finish_reason": answer.state.reason,
        "rounds": [
            [_candidate_record(candidate, sampler.lm) for candidate in candidates]
            for candidates in result.rounds
        ],
        "policy": dataclasses.asdict(spent.policy),
        "verifier": dataclasses.asdict(spent.verifier),
        "sequences": spent.sequences,
        "seconds": round(spent.seconds + spent.verifier_seconds, 4),
    }


def _candidate_record(candidate: Candidate, lm: LM) -> dict[str, Any]:
    state = candidate.state
    start = state.ends[-2] if state.depth > 1 else 0
    return {
        "step": lm.vocab.decode(state.written[start:]),
        "text": lm.vocab.decode(state.written),
        "done": state.done,
        "kept": candidate.kept,
        "q": candidate.q,
        "advantage": candidate.advantage,
        "score": candidate.score,
    }


def _search_tasks(
    sampler: Sampler,
    value_model: Verifier | None,
    config: SearchConfig,
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
    out: Path | None,
    verifier: str,
    engine: EngineConfig,
) -> dict[str, Any]:
    """How often a search is right, and its mean costs."""
    from creditdecoding.pav.search.compare import choose_items, make_problems, search_settings
    from creditdecoding.pav.search.report import accuracy

    lm, generation = sampler.lm, sampler.generation
    items = choose_items(tasks, parse_split(settings["split"]), settings["limit"])
    problems = make_problems(tasks, items, lm, generation)
    method = dataclasses.asdict(config)
    if out is None:
        records = list(_records(problems, sampler, value_model, config, len(problems)))
    else:
        about = search_settings(lm, tasks, items, generation, engine, verifier)
        with _saved_records(out, {**about, **settings, "method": method}) as (saved, append):
            missing = [problem for problem in problems if problem.key not in saved]
            for record in _records(missing, sampler, value_model, config, len(problems), True):
                append(record)
                saved[record["family"], record["item"]] = record
            records = [saved[key] for key in items]
    return {"method": method, **accuracy(records, [task.name for task in tasks])}


def _records(
    problems: Sequence[Problem],
    sampler: Sampler,
    value_model: Verifier | None,
    config: SearchConfig,
    total: int,
    resumable: bool = False,
) -> Iterator[dict[str, Any]]:
    """The answer to each problem, as searches finish; shows progress."""
    from creditdecoding.pav.search.compare import answer_record
    from creditdecoding.pav.search.methods import search as run_search

    with open_progress("problems", resumable) as start:
        tick = start(total - len(problems), total)
        for index, result in run_search(config, problems, sampler, value_model):
            task, item = problems[index].key
            yield {"family": task, "item": item, **answer_record(result, problems[index], sampler)}
            tick()


@contextmanager
def _saved_records(out: Path, settings: Mapping[str, Any]) -> Iterator[tuple[dict[Any, Any], Any]]:
    """The records in a run's folder by problem, and a function that appends one."""
    from creditdecoding.run_dir import open_journal

    with open_journal(out, settings, ("family", "item")) as journal:
        records = journal.read()
        with journal.writer() as append:
            yield records, append
        journal.finalize(journal.read(), sorted(records))


def cost_cells(point: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells under `COST_COLUMNS`."""
    score = point["score"]
    return (
        f"{score['value']:.1f}",
        f"{score['low']:.1f} to {score['high']:.1f}",
        f"{point['sequences']:.1f}",
        f"{point['verifier_sequences']:.1f}",
        f"{point['tokens']:.0f}",
        f"{point['seconds']:.3f}",
    )


def _print_accuracy(report: Mapping[str, Any]) -> None:
    points = {**report["families"], "all": report}
    rows = [(name, str(point["problems"]), *cost_cells(point)) for name, point in points.items()]
    show(table(("task", "problems", *COST_COLUMNS), rows), COST_NOTE)


def _print_result(report: Mapping[str, Any]) -> None:
    rows: list[tuple[str, ...] | None] = []
    for round_number, candidates in enumerate(report["rounds"], 1):
        for candidate in candidates:
            marks = ("*" if candidate["kept"] else "") + (" end" if candidate["done"] else "")
            rewarded = candidate["advantage"] is not None
            rows.append(
                (
                    str(round_number),
                    marks,
                    candidate["step"].strip(),
                    number(candidate["q"], ".3f"),
                    number(candidate["advantage"], "+.3f"),
                    number(candidate["score"] if rewarded else None, ".3f"),
                )
            )
        rows.append(None)
    columns = ("round", "kept", "last step", "Q", "A", "Q + alpha A")
    show(table(columns, rows, text_columns=("kept", "last step")))
    typer.echo(report["text"])
    policy, verifier = report["policy"], report["verifier"]
    typer.echo(
        f"{count(policy['sequences'], 'sequence-forward')} of the policy, "
        f"{verifier['sequences']} of the verifier, {count(policy['tokens'], 'token')} kept, "
        f"{report['seconds']:.2f} s",
        err=True,
    )
