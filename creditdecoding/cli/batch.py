"""The command that answers a file of requests: batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.checks import writable
from creditdecoding.cli.progress import counting
from creditdecoding.config import BatchConfig, EngineConfig, ServeConfig
from creditdecoding.flags import with_options

if TYPE_CHECKING:
    from creditdecoding.batch.answers import Reply
    from creditdecoding.batch.lines import Line


@app.command()
@with_options(options=BatchConfig, serving=ServeConfig, engine=EngineConfig)
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Requests in OpenAI's batch format, one a line.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the answers go, in the order of the requests.")],
    model: Model = "pocket",
    *,
    options: BatchConfig,
    serving: ServeConfig,
    engine: EngineConfig,
) -> None:
    """Answer a file of requests; goes on after an interruption."""
    from creditdecoding.batch.answers import Desk, answerer
    from creditdecoding.batch.run import finish, plan, tidy

    writable(out)
    planned = plan(source, out, model, options, engine, serving)
    if planned.done:
        tidy(planned)
        return typer.echo(f"{out} is complete already", err=True)
    if options.ray:
        from creditdecoding.integrations.ray import spread

        answer: Callable[[Iterable[Line]], Iterator[Reply]] = partial(spread, partial(answerer, planned.setting), options, engine)
    else:
        answer = Desk(load_lm(model, engine), planned.setting).answers
    with counting("lines", kept=True) as start:
        tally = finish(planned, answer, start)
    passes = f"; {tally.tokens} tokens in {tally.nfe} forward passes" if tally.nfe else ""
    typer.echo(f"wrote {out}: {tally.rows} rows, {tally.failed} of them errors{passes}", err=True)
