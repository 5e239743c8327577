"""The command batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.batch.options import BatchConfig
from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.batch.input import Line
    from creditdecoding.batch.processor import Reply

    Answerer = Callable[[Iterable[Line]], Iterator[Reply]]


@app.command()
@with_options(options=BatchConfig, serving=ServeConfig, engine=EngineConfig)
def batch(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Requests in OpenAI's batch format, one a line.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Where the answers go, in the order of the requests."),
    ],
    model: Model = "pocket",
    *,
    options: BatchConfig,
    serving: ServeConfig,
    engine: EngineConfig,
) -> None:
    """Answer a file of requests.

    The same command goes on after an interruption.

    Examples:
        credit batch requests.jsonl answers.jsonl
        credit batch requests.jsonl answers.jsonl --model DIR --batch-size 32
    """
    from creditdecoding.batch.job import cleanup, plan_job, run_job
    from creditdecoding.batch.processor import BatchProcessor, make_processor

    check_writable(out)
    job = plan_job(source, out, model, options, engine, serving)
    if job.done:
        cleanup(job)
        typer.echo(f"{out} is complete already", err=True)
        return
    if options.ray:
        from creditdecoding.integrations.ray import answer_on_ray

        make_worker = partial(make_processor, job.settings)
        answer: Answerer = partial(answer_on_ray, make_worker, options, engine)
    else:
        answer = BatchProcessor(load_lm(model, engine), job.settings).answers
    with open_progress("lines", resumable=True) as start:
        tally = run_job(job, answer, start)
    answers = f"{count(tally.requests, 'answer')}, {tally.failed} of them errors"
    passes = count(tally.nfe, "forward pass", "forward passes")
    work = f"; {count(tally.tokens, 'token')} in {passes}" if tally.nfe else ""
    typer.echo(f"wrote {out}: {answers}{work}", err=True)
