"""The command trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Model, Prompt, PromptFile, Raw, app, load_lm, read_prompt
from creditdecoding.cli.checkpoint_defaults import with_checkpoint_defaults
from creditdecoding.cli.flags import typed_options, with_options
from creditdecoding.cli.render import report_written, write
from creditdecoding.cli.validate import check_can_plot, check_writable
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.text.tokenizer import Tokenizer
    from creditdecoding.trace import Trace

WITH_LOAD = {"load", "model", "save", "png", "html"}
"""The options that apply to a saved trace."""


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def trace(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    load: Annotated[
        Path | None,
        typer.Option(help="Read a saved trace instead of decoding.", show_default=False),
    ] = None,
    against: Annotated[
        list[str], typer.Option(help="Another decoder to show next to --decoder; may be repeated.")
    ] = [],  # noqa: B006
    save: Annotated[
        Path | None, typer.Option(help="Save the trace of --decoder as JSONL.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw step x position as PNG.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a stand-alone HTML page.", show_default=False)
    ] = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Show which pass wrote which token of an answer.

    With --save, --png or --html it is written to files instead.

    Examples:
        credit trace "Solve 3x+4=19 for x."
        credit trace "Solve 3x+4=19 for x." --against fixed --html trace.html
        credit trace --load trace.jsonl
    """
    check_can_plot(png)
    check_writable(save, png, html)
    if load is not None:
        traces, tokenizer = _read_trace(load, model)
    else:
        text = read_prompt(prompt, file)
        lm = load_lm(model, engine)
        tokenizer = lm.tokenizer
        generation = with_checkpoint_defaults(lm, generation)
        configs = [dataclasses.replace(generation, decoder=spec) for spec in against]
        traces = [
            (_label(config.decoder), lm.generate(text, config, raw=raw).trace)
            for config in [generation, *configs]
        ]
    _output(model, traces, tokenizer, save, png, html)


def _label(decoder: Any) -> str:
    """A decoder as it was typed; the checkpoint's own by its name and knobs."""
    from creditdecoding.decoders import settings
    from creditdecoding.viewer.labels import settings_label

    return decoder if isinstance(decoder, str) else settings_label(settings(decoder))


def _read_trace(path: Path, model: str) -> tuple[list[tuple[str, Trace]], Tokenizer]:
    """A saved trace with a name, and the tokenizer of its model."""
    from creditdecoding.lm import load_tokenizer
    from creditdecoding.trace import Trace

    unused = sorted(typed_options() - WITH_LOAD)
    if unused:
        raise OptionError(
            "--load decodes nothing, so it takes no prompt and no decoding options",
            given=", ".join(unused),
            hint="Leave them out, or leave --load out.",
        )
    return [("trace", Trace.load(path))], load_tokenizer(model)


def _output(
    model: str,
    traces: list[tuple[str, Trace]],
    tokenizer: Tokenizer,
    save: Path | None,
    png: Path | None,
    html: Path | None,
) -> None:
    """Write the files that were asked for, or print the traces. JSONL holds the first one only."""
    from creditdecoding.plots.trace import traces_png
    from creditdecoding.viewer.html import trace_html
    from creditdecoding.viewer.show import about_trace, show_trace

    piece = tokenizer.token_text
    if save is not None:
        write(save, traces[0][1].dumps())
    if png is not None:
        traces_png(traces, piece, png)
    if html is not None:
        about = {"Model": model, **about_trace(traces[0][1], tokenizer)}
        for name, decoded in traces[1:]:
            about[f"Answer of {name}"] = tokenizer.decode(decoded.tokens)
        write(html, trace_html(traces, piece, "Denoising trace", about))
    if save is None and png is None and html is None:
        for _, decoded in traces:
            show_trace(decoded, tokenizer)
    report_written(save, png, html)
