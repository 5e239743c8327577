"""The command that serves a model over HTTP: serve."""

from __future__ import annotations

from pathlib import Path

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.config import EngineConfig, HttpConfig, ServeConfig
from creditdecoding.flags import with_options


@app.command()
@with_options(serving=ServeConfig, http=HttpConfig, engine=EngineConfig)
def serve(model: Model = "pocket", *, serving: ServeConfig, http: HttpConfig, engine: EngineConfig) -> None:
    """Serve a model to OpenAI clients, with a live page at /."""
    from creditdecoding.server.run import serve as run

    lm = load_lm(model, engine)
    name = http.name or (Path(model).resolve().name if Path(model).is_dir() else model)
    run(lm, name, engine, serving, http, lambda address: typer.echo(f"{name} at {address} (OpenAI API at {address}/v1)", err=True))
