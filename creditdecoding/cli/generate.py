"""The command generate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import Json, Model, Prompt, PromptFile, Raw, app, load_lm, read_prompt
from creditdecoding.cli.checkpoint_defaults import with_checkpoint_defaults
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.render import print_json
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.decoding.request import Request
    from creditdecoding.lm import LM, Completion

FRAME_SECONDS = 0.1  # a frame of --watch stays at least this long


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def generate(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    infill: Annotated[
        bool,
        typer.Option(
            "--infill",
            help="Fill each [MASK] of the text, or [MASK*n], instead of continuing it.",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Animate the denoising in the terminal.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show which pass wrote which token.")
    ] = False,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Answer one prompt.

    Examples:
        credit generate "Solve 3x+4=19 for x."
        credit generate "Solve 3x+4=19 for x." --decoder threshold:threshold=0.95 --watch
        credit generate "The capital of Peru is[MASK]." --infill
        credit generate --file prompt.txt --model GSAI-ML/LLaDA-8B-Instruct --json
    """
    if watch + trace + as_json > 1:
        raise OptionError("--watch, --trace and --json exclude each other", hint="Give one.")
    if infill and raw:
        hint = "Leave --raw out: infilling is always plain text."
        raise OptionError("--infill and --raw exclude each other", hint=hint)
    text = read_prompt(prompt, file)
    lm = load_lm(model, engine)
    request = _request(lm, text, generation, raw, infill)
    completion = _watch(lm, request) if watch else lm.collect([request])[0]
    if as_json:
        print_json(completion.to_json())
        return
    if trace:
        completion.trace.show()
    elif not watch:
        typer.echo(completion.text)
    typer.echo(completion.trace.summary, err=True)


def _request(lm: LM, text: str, generation: GenerationConfig, raw: bool, infill: bool) -> Request:
    generation = with_checkpoint_defaults(lm, generation)
    if infill:
        return lm.new_infill_request(text, generation)
    return lm.new_requests([text], generation, raw)[0]


def _watch(lm: LM, request: Request) -> Completion:
    """Decode a request while its canvas is drawn in the terminal."""
    from creditdecoding.viewer.terminal import watch

    trace = watch(
        lm.events([request]),
        lm.new_trace(request),
        lm.tokenizer.token_text,
        ends=lm.tokenizer.stop_ids,
        decode=lm.tokenizer.decode,
        delay=FRAME_SECONDS,
    )
    return lm.completion(request, trace)
