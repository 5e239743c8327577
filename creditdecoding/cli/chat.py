"""The command chat."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.checkpoint_defaults import with_checkpoint_defaults
from creditdecoding.cli.flags import with_options
from creditdecoding.config import EngineConfig, GenerationConfig

if TYPE_CHECKING:
    from creditdecoding.lm import LM
    from creditdecoding.trace import Event

UNSURE = 0.9
"""Probability of a token below which an answer of the embedded model is called unsure."""
UNSURE_NOTE = "(The model was not sure of this answer: it may be wrong.)"
LEAVE = "/new forgets the conversation, /help shows this again, /exit or Ctrl-D leaves."
KINDS = ("one-fact", "algebra", "discrete", "list-sort")
"""The embedded model's tasks from which examples are taken."""
BEYOND_POCKET = (
    "It can be wrong, and of other questions it says that it does not answer them.\n"
    "A model that talks: credit pull smol && credit chat --model smol"
)


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def chat(model: Model = "pocket", *, generation: GenerationConfig, engine: EngineConfig) -> None:
    """Talk to a model.

    /new forgets the conversation; /exit, or the end of input, leaves.

    Examples:
        credit chat
        credit chat --model DIR --decoder credit:threshold=0.99 --gen-length 256
    """
    from creditdecoding.decoding.prefix_cache import PrefixCache, prefix_cache_bytes
    from creditdecoding.models.memory import free_bytes

    lm = load_lm(model, engine)
    lm.prefixes = PrefixCache(prefix_cache_bytes(engine, free_bytes(lm.device)))
    generation = with_checkpoint_defaults(lm, generation)
    greeting = _greeting(model, lm)
    typer.echo(greeting, err=True)
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
        elif line.startswith("/"):
            typer.echo(greeting if line == "/help" else f"{line} is no command. {LEAVE}", err=True)
        elif line:
            history = [*lm.recent_turns(history), {"role": "user", "content": line}]
            answer, lowest = _answer(lm, history, generation)
            history.append({"role": "assistant", "content": answer})
            if model == "pocket" and lowest < UNSURE:
                typer.echo(UNSURE_NOTE, err=True)


def _answer(
    lm: LM, history: list[Mapping[str, str]], generation: GenerationConfig
) -> tuple[str, float]:
    """The answer, printed as it becomes final, and the lowest probability of its tokens."""
    from creditdecoding.trace import StepEvent

    answer = ""
    lowest = 1.0

    def watch(event: Event) -> None:
        nonlocal lowest
        if isinstance(event, StepEvent) and event.logprobs is not None:
            written = [p for p, done in zip(event.logprobs, event.committed) if done]
            lowest = min([lowest, *map(math.exp, written)])

    for piece in lm.stream(history, generation, on_event=watch):
        answer += piece
        typer.echo(piece, nl=False)
    typer.echo("")
    return answer, lowest


def _greeting(model: str, lm: LM) -> str:
    """Which model this is, what to ask it, and how to leave."""
    lines = [f"{model}: a diffusion language model; prompt and answer have {lm.max_length} tokens."]
    if model == "pocket":
        lines[0] = (
            "pocket: the embedded model, a small demonstration. It knows a few kinds of question:"
        )
        lines += [f"  {example}" for example in _examples()]
        lines.append(BEYOND_POCKET)
    return "\n".join([*lines, LEAVE])


def _examples() -> list[str]:
    from creditdecoding.tasks.base import distinct_items
    from creditdecoding.tasks.synthetic import POCKET_V2_TASKS

    return [distinct_items(POCKET_V2_TASKS[kind], "test", 1, 1)[0].prompt for kind in KINDS]
