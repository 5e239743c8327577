"""The command search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Prompt, PromptFile, Raw, app, load_lm, read_prompt
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json
from creditdecoding.cli.validate import parse_split
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.pav.search.options import SearchConfig

if TYPE_CHECKING:
    from creditdecoding.lm import LM
    from creditdecoding.pav.search.driver import Candidate, Found
    from creditdecoding.pav.verifier.model import Verifier


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
        str,
        typer.Option(
            help="What ends a step of the answer to a prompt: a text, \\\\n for a line's end, or '8 tokens'."
        ),
    ] = ".",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Families instead of a prompt, comma-separated: how often is it right?",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="With --tasks: items a family.", min=2)] = 50,
    split: Annotated[str, typer.Option(help="With --tasks: test, dev or train.")] = "test",
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for the rows under way; by default 80% of what is free.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    *,
    search: SearchConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Search for an answer step by step under a verifier, or for tasks say how often that is right
    and what it costs.

    Draws need a --temperature above 0. See docs/verifiers.md.
    """
    from creditdecoding.pav.sampler import Sampler

    asked = (
        None if tasks is not None and prompt is None and file is None else read_prompt(prompt, file)
    )
    if asked is not None and tasks is not None:
        raise OptionError(
            "a prompt and --tasks exclude each other", given=tasks, hint="Give one of the two."
        )
    if tasks is None and (limit, split) != (50, "test"):
        raise OptionError("--limit and --split are of --tasks", hint="Leave them out.")
    if tasks is not None and (delimiter, raw) != (".", False):
        raise OptionError(
            "--delimiter and --raw are of a prompt",
            given=tasks,
            hint="Leave them out: a task says what ends its steps.",
        )
    lm = load_lm(model, engine)
    judge = load_verifier(verifier, lm, engine)
    sampler = Sampler(lm, generation, memory=memory, share=True)
    if asked is None:
        found = _accuracy(lm, sampler, judge, search, str(tasks), limit, split)
        print_json(found) if as_json else _print_accuracy(found)
    else:
        one = _one(lm, sampler, judge, search, asked, raw, delimiter)
        shown = {"method": dataclasses.asdict(search), **_record(one, sampler)}
        print_json(shown) if as_json else _print_one(shown)


def load_verifier(folder: Path | None, lm: LM, engine: EngineConfig) -> Verifier | None:
    from creditdecoding.pav.verifier.model import Verifier

    return None if folder is None else Verifier.load(folder, lm, compile=engine.compile)


def _one(
    lm: LM, sampler: Any, judge: Any, config: SearchConfig, prompt: str, raw: bool, delimiter: str
) -> Found:
    from creditdecoding.pav.search.best_of_n import answer_extractor
    from creditdecoding.pav.search.driver import Problem
    from creditdecoding.pav.search.methods import search as find
    from creditdecoding.pav.steps import parse_delimiter

    mark, generation = parse_delimiter(delimiter), sampler.generation
    problem = Problem(
        tuple(lm.encode(prompt, raw)), mark, generation.seed, answer_extractor(None, lm, generation)
    )
    ((_, found),) = find(config, [problem], sampler, judge)
    return found


def _record(found: Found, sampler: Any) -> dict[str, Any]:
    """A search as JSON-ready data."""

    lm = sampler.lm

    def told(each: Candidate) -> dict[str, Any]:
        step = lm.vocab.decode(
            each.state.written[
                each.state.prefix(each.state.depth - 1).ends[-1] if each.state.depth > 1 else 0 :
            ]
        )
        numbers = {"q": each.q, "advantage": each.advantage, "score": each.score}
        return {
            "step": step,
            "text": lm.vocab.decode(each.state.written),
            "done": each.state.done,
            "kept": each.kept,
            **numbers,
        }

    answer, spent = found.choice.answer, found.spent
    return {
        "text": sampler.text(answer.state),
        "q": answer.q,
        "logprob": answer.logprob,
        "finish_reason": answer.state.reason,
        "rounds": [[told(each) for each in looked] for looked in found.choice.rounds],
        "policy": dataclasses.asdict(spent.policy),
        "verifier": dataclasses.asdict(spent.verifier),
        "sequences": spent.sequences,
        "seconds": round(spent.seconds + spent.verifier_seconds, 4),
    }


def _accuracy(
    lm: LM, sampler: Any, judge: Any, config: SearchConfig, tasks: str, limit: int, split: str
) -> dict[str, Any]:
    """How often a search is right, and its mean costs."""
    from creditdecoding.pav.search.compare import chosen, judged, line_of, posed
    from creditdecoding.pav.search.methods import search as find
    from creditdecoding.pav.search.report import accuracy
    from creditdecoding.tasks import load_tasks

    found = {family.name: family for family in load_tasks(tasks)}
    items = chosen([*found.values()], parse_split(split), limit)
    problems = posed([*found.values()], items, lm, sampler.generation, sampler.generation.seed)
    places, lines = [*problems], []
    with progress(len(problems), "problems") as tick:
        for at, one in find(config, [*problems.values()], sampler, judge):
            place = places[at]
            lines.append(
                {
                    "family": place[0],
                    "item": place[1],
                    **line_of(one, judged(found[place[0]], items[place]), sampler),
                }
            )
            tick()
    return {"method": dataclasses.asdict(config), **accuracy(lines, [*found])}


COST_COLUMNS = ("right %", "[95 %]", "sequences", "verifier", "tokens", "seconds")


def cost_cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells under `COST_COLUMNS`."""
    score = each["score"]
    costs = (
        f"{each['sequences']:.1f}",
        f"{each['verifier_sequences']:.1f}",
        f"{each['tokens']:.0f}",
        f"{each['seconds']:.3f}",
    )
    return (f"{score['value']:.1f}", f"{score['low']:.1f} to {score['high']:.1f}", *costs)


def search_table(*columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column,
            justify="left"
            if column in ("task", "method", "against", "kept", "last step")
            else "right",
        )
    return table


def print_tables(tables: list[Any], sentences: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for each in (*tables, *map(Text, sentences)):
        console.print(each)


def _print_accuracy(found: Mapping[str, Any]) -> None:
    table = search_table("task", "problems", *COST_COLUMNS)
    for name, each in (*found["families"].items(), ("all", found)):
        table.add_row(name, str(each["problems"]), *cost_cells(each))
    print_tables(
        [table],
        [
            "Sequences: sequence-forwards a problem, of which the verifier ran those in the next column."
        ],
    )


def _print_one(shown: Mapping[str, Any]) -> None:
    from rich.text import Text

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    table = search_table("round", "kept", "last step", "Q", "A", "Q + alpha A")
    for place, looked in enumerate(shown["rounds"], 1):
        for each in looked:
            mark = ("*" if each["kept"] else "") + (" end" if each["done"] else "")
            score = number(each["score"] if each["advantage"] is not None else None, ".3f")
            table.add_row(
                str(place),
                mark,
                Text(each["step"].strip()),
                number(each["q"], ".3f"),
                number(each["advantage"], "+.3f"),
                score,
            )
        table.add_section()
    print_tables([table], [])
    typer.echo(shown["text"])
    policy, verifier = shown["policy"], shown["verifier"]
    cost = f"{policy['sequences']} sequence-forwards of the policy, {verifier['sequences']} of the verifier, {policy['tokens']} tokens kept"
    typer.echo(f"{cost}, {shown['seconds']:.2f} s", err=True)
