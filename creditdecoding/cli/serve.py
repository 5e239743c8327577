"""The command serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.signals import default_interrupt
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.server.options import Defaults, HttpConfig, set_values

if TYPE_CHECKING:
    from creditdecoding.server.listener import Listener

EMBEDDED = "pocket"
PULLED = "serving {name}, whose base was pulled; the embedded model: --model pocket"
NOT_PULLED = "serving pocket, the embedded model; one that writes sentences: credit pull smol"
OPEN_TO_ALL = (
    "anyone who can reach this machine can use the model: the server listens at {host} without a "
    "key. Set CREDIT_API_KEY or --api-key-file, or leave --host out."
)
FEWER_CONNECTIONS = (
    "{limit} connections at a time instead of {requested}: the system lets this process open no "
    "more files (ulimit -n)"
)

ServedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint folder, a hub id, or pocket (the embedded model).",
        show_default="smol if it was pulled, else pocket",
    ),
]


@app.command()
@with_options(serving=ServeConfig, http=HttpConfig, engine=EngineConfig, default=Defaults)
def serve(
    model: ServedModel = None,
    *,
    serving: ServeConfig,
    http: HttpConfig,
    engine: EngineConfig,
    default: Any,
) -> None:
    """Serve a model to OpenAI clients, with a live page at /.

    Without --model it is smol after credit pull smol, and pocket before.

    The default options apply to requests that do not set them; otherwise the checkpoint's defaults
    apply, then those of `credit generate`. SIGTERM and Ctrl+C end the server after the requests
    under way, with exit status 0. A second signal ends it at once with 128 + its number.

    Examples:
        credit serve
        credit serve --model DIR --port 9000 --decoder credit:threshold=0.99 --gen-length 256
        credit serve --host 0.0.0.0 --api-key-file key.txt
    """
    from creditdecoding.server.api_key import with_key
    from creditdecoding.server.defaults import apply_defaults, resolve_defaults
    from creditdecoding.server.hosts import is_loopback
    from creditdecoding.server.listener import listen
    from creditdecoding.server.serve import serve as run_server

    defaults = resolve_defaults(set_values(default))
    http = with_key(http, _warn)
    listener = listen(http)  # before the model is loaded, which may take minutes
    if http.api_key is None and not is_loopback(listener.getsockname()[0]):
        _warn(OPEN_TO_ALL.format(host=http.host))
    model = model or _model_here()
    lm = load_lm(model, engine)
    apply_defaults(lm, defaults)
    name = http.name or (Path(model).resolve().name if Path(model).is_dir() else model)
    on_ready = partial(_announce, name, listener, http.max_connections)
    with default_interrupt():
        run_server(lm, name, engine, serving, http, listener, on_ready)


def _model_here() -> str:
    """The language model if it was pulled, else the embedded one; says which on standard error."""
    from creditdecoding.bases.pull import ADAPTERS, is_pulled

    pulled = next(filter(is_pulled, ADAPTERS), None)
    typer.echo(NOT_PULLED if pulled is None else PULLED.format(name=pulled), err=True)
    return pulled or EMBEDDED


def _announce(name: str, listener: Listener, max_connections: int) -> None:
    """Say where the server is, and if it can hold fewer connections than asked for."""
    from creditdecoding.server.listener import url_of

    if listener.limit < max_connections:
        _warn(FEWER_CONNECTIONS.format(limit=listener.limit, requested=max_connections))
    url = url_of(listener)
    typer.echo(f"{name} at {url} (OpenAI API at {url}/v1)", err=True)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
