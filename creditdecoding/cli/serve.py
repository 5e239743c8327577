"""The command that serves a model over HTTP: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.signals import default_interrupt
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.server.defaults import Defaults, set_values
from creditdecoding.server.options import HttpConfig

EVERYBODY = (
    "everybody who can reach this machine can use the model: the server listens at {host} without a key. "
    "Set CREDIT_API_KEY or --api-key-file, or leave --host out."
)
LESS_ROOM = "{room} connections at a time instead of {wanted}: the system lets this process open no more files (ulimit -n)"


@app.command()
@with_options(serving=ServeConfig, http=HttpConfig, engine=EngineConfig, default=Defaults)
def serve(
    model: Model = "pocket",
    *,
    serving: ServeConfig,
    http: HttpConfig,
    engine: EngineConfig,
    default: Any,
) -> None:
    """Serve a model to OpenAI clients, with a live page at /.

    Default options are for requests that do not say otherwise; what is not set here, the checkpoint
    or `credit generate` says.
    SIGTERM and Ctrl+C end it: requests under way may finish, and the exit code is 0. A second
    signal ends it at once with 128 + its number.
    """
    from creditdecoding.server import api_key as key
    from creditdecoding.server import hosts
    from creditdecoding.server import listener as door
    from creditdecoding.server.parse import apply_defaults, resolve_defaults
    from creditdecoding.server.serve import serve as run

    defaults = resolve_defaults(set_values(default))
    http = key.with_key(http, _warn)
    listening = door.listen(http)  # before the model is loaded, which may take minutes
    if http.api_key is None and not hosts.is_loopback(listening.getsockname()[0]):
        _warn(EVERYBODY.format(host=http.host))
    lm = load_lm(model, engine)
    apply_defaults(lm, defaults)
    name = http.name or (Path(model).resolve().name if Path(model).is_dir() else model)

    def ready() -> None:
        if listening.limit < http.max_connections:
            _warn(LESS_ROOM.format(room=listening.limit, wanted=http.max_connections))
        address = door.url_of(listening)
        typer.echo(f"{name} at {address} (OpenAI API at {address}/v1)", err=True)

    with default_interrupt():
        run(lm, name, engine, serving, http, listening, ready)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
