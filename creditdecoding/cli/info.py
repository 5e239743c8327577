"""The command info."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.render import print_json, show, table
from creditdecoding.config import EngineConfig
from creditdecoding.wording import count

SHORT = {
    "checkpoint": "{checkpoint}: {weight files}, {dtype of the files}",
    "model": "{family}, {parameters:,} parameters, {layers}, {max_length} positions",
    "memory": "{memory in float32} in float32, {memory in bfloat16} in bfloat16; {available}; "
    "loads in {loads in}",
    "attention": "{attention}; block length {block length}; caches {caches}",
    "tokens": "{tokenizer ids:,}; mask {mask token}; stop {stop tokens}; template: {chat template}",
    "decoder": "{decoder}",
}
"""The lines without --all, made of the facts."""


@app.command()
@with_options(engine=EngineConfig)
def info(
    model: Model = "pocket",
    show_all: Annotated[bool, typer.Option("--all", help="Show every fact.")] = False,
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Show a checkpoint without loading its weights.

    Files, architecture, memory and token ids in six lines; --all and --json show every fact.

    Examples:
        credit info
        credit info --model DIR --all
    """
    from creditdecoding.description import describe

    facts = describe(model, engine)
    if as_json:
        print_json(facts)
    elif show_all:
        rows = [(name, _text(value)) for name, value in facts.items()]
        show(table(("", model), rows, text_columns=(model,)))
    else:
        width = max(map(len, SHORT))
        for name, line in short_facts(facts).items():
            typer.echo(f"{name:<{width}}  {line}")


def short_facts(facts: dict[str, Any]) -> dict[str, str]:
    """The six lines by their names."""
    from creditdecoding.viewer.labels import decoder_label

    texts = {name: _text(value) for name, value in facts.items() if not isinstance(value, int)}
    free = [f"{value} {name}" for name, value in texts.items() if name.startswith("available on")]
    words = {
        "available": "".join(free),
        "layers": count(facts["num_layers"], "layer"),
        "decoder": decoder_label(facts["defaults"]["decoder"]),
    }
    values = defaultdict(lambda: "-", {**facts, **texts, **words})
    return {name: form.format_map(values) for name, form in SHORT.items()}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name} {inner}" for name, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
