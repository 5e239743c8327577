"""The console script `credit`. Flags come from the option dataclasses (flags.py); heavy modules are imported inside the commands.

Leaves to others: everything but printing and exit codes (0 fine, 2 for what the caller must change).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from creditdecoding.config import EngineConfig, GenerationConfig, TrainConfig
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.flags import with_options

if TYPE_CHECKING:
    from creditdecoding.lm import LM, Completion
    from creditdecoding.trace import Trace

app = typer.Typer(
    name="credit",
    help="Diffusion language models decoded in few forward passes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option("--model", "-m", help="A checkpoint folder, a hub id, or pocket (the embedded model).")]
Prompt = Annotated[str | None, typer.Argument(help="The prompt; `-` or nothing reads standard input.", show_default=False)]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text, without the chat template.")]


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    if file is not None:
        if prompt is not None:
            raise OptionError("two prompts", given="an argument and --file", hint="Give one of the two.")
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the prompt file cannot be read ({error})", given=str(file), hint="Check the path; it must be UTF-8 text.") from error
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise OptionError("no prompt", hint='Give it as an argument, with --file, or on standard input: credit generate "..."')
        return sys.stdin.read()
    return prompt


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write ({error.strerror})", given=str(path), hint="Check the folder.") from error


def _summary(done: Completion) -> str:
    return f"{done.trace.count} tokens in {done.nfe} forward passes ({done.tpf:.2f} a pass), {done.trace.seconds:.2f} s, {done.finish_reason}"


@contextmanager
def _progress(total: int, text: str) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error that counts calls."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def generate(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    infill: Annotated[bool, typer.Option("--infill", help="Fill each [MASK] of the text instead of continuing it.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Animate the denoising in the terminal.")] = False,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Answer one prompt."""
    if watch and as_json:
        raise OptionError("--watch and --json exclude each other", hint="Leave one out.")
    text = _read_prompt(prompt, file)
    done = _complete(_load(model, engine), text, generation, raw, infill, watch)
    if as_json:
        _print_json(done.to_json())
    else:
        if not watch:
            typer.echo(done.text)
        typer.echo(_summary(done), err=True)


def _load(model: str, engine: EngineConfig) -> LM:
    from creditdecoding.lm import load
    from creditdecoding.view.loading import bar

    with bar() as on_progress:
        return load(model, engine, on_progress)


def _complete(lm: LM, text: str, config: GenerationConfig, raw: bool = False, infill: bool = False, watch: bool = False) -> Completion:
    if infill and raw:
        raise OptionError("--infill and --raw exclude each other", hint="Leave --raw out: infilling is always plain text.")
    row = lm.infill_row(text, config) if infill else lm.rows([text], config, raw)[0]
    if not watch:
        return lm.collect([row])[0]
    from creditdecoding.view.terminal import watch as show

    trace = lm.trace_of(row)
    show(lm.events([row]), trace, lm.tokenizer.piece, ends=lm.tokenizer.stop_ids, decode=lm.tokenizer.decode, delay=0.1)
    return lm.completion(row, trace)


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def chat(model: Model = "pocket", *, generation: GenerationConfig, engine: EngineConfig) -> None:
    """Talk to a model; `/new` forgets the conversation, `/exit` or end of input leaves."""
    lm = _load(model, engine)
    history: list[Mapping[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/new":
            history = []
        elif line:
            history = [*lm.recent(history), {"role": "user", "content": line}]
            pieces = []
            for piece in lm.stream(history, generation):
                pieces.append(piece)
                typer.echo(piece, nl=False)
            typer.echo("")
            history.append({"role": "assistant", "content": "".join(pieces)})


@app.command()
@with_options(engine=EngineConfig)
def info(model: Model = "pocket", as_json: Json = False, *, engine: EngineConfig) -> None:
    """Show what would be loaded: files, architecture, memory need, ids and defaults, without loading the weights."""
    from creditdecoding.lm import describe

    found = describe(model, engine)
    if as_json:
        _print_json(found)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in found.items():
        table.add_row(name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    Console().print(table)


@app.command()
def decoders(as_json: Json = False) -> None:
    """List the decoders, their rules and their knobs."""
    from creditdecoding.decoders import describe, names

    found = [describe(name) for name in names()]
    if as_json:
        _print_json(found)
        return
    for each in found:
        typer.secho(each["name"], bold=True, nl=False)
        typer.echo(f"  {each['rule']}")
        for knob in each["knobs"]:
            allowed = f" ({knob['allowed']})" if knob["allowed"] else ""
            typer.echo(f"    {knob['name']} = {knob['default']}{allowed}: {knob['help']}")


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def trace(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    load: Annotated[Path | None, typer.Option(help="Read a saved trace instead of decoding.", show_default=False)] = None,
    against: Annotated[list[str], typer.Option(help="Another decoder to set beside --decoder; may be repeated.")] = [],  # noqa: B006
    save: Annotated[Path | None, typer.Option(help="Save the trace of --decoder as JSONL.", show_default=False)] = None,
    png: Annotated[Path | None, typer.Option(help="Draw step x position as PNG.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a stand-alone HTML page.", show_default=False)] = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Decode one prompt and show what was committed when; save or draw it."""
    from creditdecoding.lm import load_words
    from creditdecoding.trace import Trace

    if load is not None:
        if prompt is not None or file is not None or against or raw or generation != GenerationConfig() or engine != EngineConfig():
            raise OptionError("--load takes no prompt and no decoding options: it decodes nothing", hint="Leave one out.")
        named = [("trace", Trace.load(load))]
        piece = load_words(model).piece
    else:
        text, lm = _read_prompt(prompt, file), _load(model, engine)
        piece = lm.tokenizer.piece
        named = []
        for spec in [generation.decoder, *against]:
            done = _complete(lm, text, dataclasses.replace(generation, decoder=spec), raw)
            named.append((spec, done.trace))
    _show_traces(named, piece, save, png, html)


def _show_traces(named: list[tuple[str, Trace]], piece: Callable[[int], str], save: Path | None, png: Path | None, html: Path | None) -> None:
    """Print the traces, or write the files asked for; JSONL holds the first alone."""
    from creditdecoding.view import html as page
    from creditdecoding.view import plot, terminal

    if save is not None:
        _write(save, named[0][1].dumps())
    if png is not None:
        plot.compare_png(named, piece, png)
    if html is not None:
        _write(html, page.trace_html(named, piece, "Denoising trace"))
    if save is None and png is None and html is None:
        for _, each in named:
            terminal.table(each, piece)
    for path in (save, png, html):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


@app.command("eval")
@with_options(generation=GenerationConfig, engine=EngineConfig)
def evaluate(
    tasks: Annotated[str, typer.Option(help="pocket, or families of it, comma-separated.")] = "pocket",
    limit: Annotated[int, typer.Option(help="Items a family.", min=1)] = 50,
    split: Annotated[str, typer.Option(help="test, dev or train.")] = "test",
    model: Model = "pocket",
    out: Annotated[Path | None, typer.Option(help="Also save the JSON, with every sample, to this file.", show_default=False)] = None,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Score a model with a decoder on held-out items: score by family, NFE, tokens per forward."""
    from creditdecoding.errors import unknown_name
    from creditdecoding.eval.runner import evaluate as run
    from creditdecoding.tasks import families
    from creditdecoding.tasks.base import SPLITS
    from creditdecoding.trace import FinishEvent

    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    chosen = families(tasks)
    lm = _load(model, engine)
    with _progress(limit * len(chosen), "answers") as tick:
        report = run(lm, chosen, generation, limit, split, on_event=lambda event: tick() if isinstance(event, FinishEvent) else None)
    found = report.to_json()
    found["settings"]["model"] = model
    if out is not None:
        _write(out, json.dumps({**found, "samples": [sample.to_json() for sample in report.samples]}, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        _print_json(found)
    else:
        _print_scores(found)


def _print_scores(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "score %", "NFE", "tokens / pass", "items")
    for name, numbers in [*found["families"].items(), ("mean", found)]:
        table.add_row(name, f"{numbers['score']:.1f}", f"{numbers['nfe']:.1f}", f"{numbers['tpf']:.2f}", str(numbers["items"]))
    Console().print(table)


@app.command()
@with_options(engine=EngineConfig)
def demo(model: Model = "pocket", *, engine: EngineConfig) -> None:
    """A short tour: one question of several families, answered by standard, threshold and credit decoding."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from creditdecoding.tasks.base import distinct_items
    from creditdecoding.tasks.pocket import FAMILIES

    console, lm = Console(), _load(model, engine)
    specs = ("fixed", "threshold", "credit")
    passes = dict.fromkeys(specs, 0)
    for family in (FAMILIES[name] for name in ("facts", "program", "arithmetic", "algebra")):
        item = distinct_items(family, "test", 1, 1)[0]
        console.print(f"\n[bold]{family.title}[/]")
        console.print(Text(item.prompt, style="cyan"))
        table = Table("decoder", "answer", "right", "passes", "speed-up")
        done = {spec: _complete(lm, item.prompt, GenerationConfig(decoder=spec)) for spec in specs}
        for spec in specs:
            passes[spec] += done[spec].nfe
            right = "[green]yes[/]" if family.score(done[spec].text, item) else "[red]no[/]"
            table.add_row(spec, Text(done[spec].text), right, str(done[spec].nfe), f"{done['fixed'].nfe / done[spec].nfe:.1f}x")
        console.print(table)
    summary = ", ".join(f"{spec} {count} ({passes['fixed'] / count:.1f}x)" for spec, count in passes.items())
    console.print(f"\nForward passes in all: {summary}", highlight=False)


@app.command()
@with_options(training=TrainConfig)
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there goes on where it stopped.")] = Path("runs/pocket"),
    tasks: Annotated[str, typer.Option(help="Families to train on: pocket, or some of it.")] = "pocket",
    start_from: Annotated[
        str | None, typer.Option(help="Begin a new run with the weights and tokenizer of this checkpoint.", show_default=False)
    ] = None,
    eval_limit: Annotated[int, typer.Option(help="Dev items a family in evaluations while training; 0 for none.", min=0)] = 16,
    report_limit: Annotated[int, typer.Option(help="Test items a family in the final report.", min=1)] = 200,
    *,
    training: TrainConfig,
) -> None:
    """Train a masked-diffusion model on the task families; resumable, ends with report.json and loss.png beside the weights."""
    from creditdecoding.eval.runner import evaluate as score
    from creditdecoding.lm import load
    from creditdecoding.tasks import families
    from creditdecoding.train.loop import Run, begin_from, help_run
    from creditdecoding.train.parallel import helpers
    from creditdecoding.train.vocabulary import task_tokenizer

    chosen = families(tasks)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder ({error.strerror})", given=str(out), hint="Choose another --out.") from error

    def measure(folder: Path, decoder: str, limit: int, split: Any) -> dict[str, Any]:
        lm = load(str(folder), threads=training.threads, batch_size=32)
        return score(lm, chosen, GenerationConfig(decoder=decoder), limit, split).to_json()

    if start_from is not None:
        begin_from(start_from, out)
    tokenizer = task_tokenizer(chosen, training.vocabulary, out)
    run = Run(training, tokenizer, chosen, out)
    typer.echo(f"{sum(w.numel() for w in run.model.parameters()):,} parameters, step {run.step} of {training.steps}, {out}", err=True)
    evaluate = (lambda folder: measure(folder, "threshold:threshold=0.95", eval_limit, "dev")) if eval_limit else None
    peers = helpers(training.processes, out / ".peers", help_run, training, chosen, out)
    with _progress(training.steps, "training") as tick, peers:
        for _ in range(run.step):
            tick()
        for record in run.run(evaluate):
            tick()
            if "eval" in record:
                typer.echo(f"step {record['step']}: dev score {record['eval']['score']}, NFE {record['eval']['nfe']}", err=True)
    found = {spec: measure(out, spec, report_limit, "test") for spec in ("fixed", "threshold", "credit")}
    _write(out / "report.json", json.dumps({"training": run.report(), "test": found}, indent=1) + "\n")
    from creditdecoding.view.plot import loss_curve

    loss_curve(run.records(), out / "loss.png")
    typer.echo(f"wrote {out / 'report.json'} and {out / 'loss.png'}", err=True)


def main() -> None:
    """Run the command line; errors meant for the caller are one line on standard error and exit code 2."""
    try:
        status = app(standalone_mode=False)
    except CreditError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message()  # a usage error of the option parser; empty after it has printed help
        sys.exit(2) if not said else _fail(f"{said.rstrip('.')}. See: credit --help", 2)
    sys.exit(status or 0)


def _fail(text: str, status: int) -> NoReturn:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    sys.exit(status)
