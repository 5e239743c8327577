"""The command info."""

from __future__ import annotations

from typing import Any

from creditdecoding.cli.app import Json, Model, app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.render import print_json, show, table
from creditdecoding.config import EngineConfig


@app.command()
@with_options(engine=EngineConfig)
def info(model: Model = "pocket", as_json: Json = False, *, engine: EngineConfig) -> None:
    """Show a checkpoint without loading its weights.

    Files, architecture, memory, token ids and defaults.

    Examples:
        credit info
        credit info --model DIR --json
    """
    from creditdecoding.lm import describe

    facts = describe(model, engine)
    if as_json:
        print_json(facts)
    else:
        rows = [(name, _text(value)) for name, value in facts.items()]
        show(table(("", model), rows, text_columns=(model,)))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name} {inner}" for name, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
