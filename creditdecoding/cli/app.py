"""What the commands share: the app, common arguments, reading prompts, printing, exit codes.

Errors meant for the caller are one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from creditdecoding.cli.signals import Stopped, restore_default_signals, signals_as_exceptions
from creditdecoding.cli.streams import prepare_streams
from creditdecoding.errors import CreditError, OptionError

if TYPE_CHECKING:
    from creditdecoding.config import EngineConfig, GenerationConfig
    from creditdecoding.lm import LM, Completion

app = typer.Typer(
    name="credit",
    help="Diffusion language models decoded in few forward passes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A checkpoint folder, a hub id, or pocket (the embedded model)."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Argument(help="The prompt; `-` or nothing reads standard input.", show_default=False),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Read the prompt from this file.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="Continue the prompt as plain text, without the chat template."),
]


def read_prompt(prompt: str | None, file: Path | None) -> str:
    if file is not None:
        if prompt is not None:
            raise OptionError(
                "two prompts", given="an argument and --file", hint="Give one of the two."
            )
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"the prompt file cannot be read ({error})",
                given=str(file),
                hint="Check the path; it must be UTF-8 text.",
            ) from error
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin.isatty():
            raise OptionError(
                "no prompt",
                hint='Give it as an argument, with --file, or on standard input: credit generate "..."',
            )
        return sys.stdin.read()
    return prompt


def summary(done: Completion) -> str:
    return done.trace.summary


def load_lm(model: str, engine: EngineConfig) -> LM:
    from creditdecoding.cli.loading import loading_progress
    from creditdecoding.lm import load

    with loading_progress() as onprogress:
        return load(model, engine, onprogress)


def complete(
    lm: LM,
    text: str,
    config: GenerationConfig,
    raw: bool = False,
    infill: bool = False,
    watch: bool = False,
) -> Completion:
    if infill and raw:
        raise OptionError(
            "--infill and --raw exclude each other",
            hint="Leave --raw out: infilling is always plain text.",
        )
    row = lm.infill_row(text, config) if infill else lm.rows([text], config, raw)[0]
    if not watch:
        return lm.collect([row])[0]
    from creditdecoding.viewer.terminal import watch as show

    trace = lm.trace_of(row)
    show(
        lm.events([row]),
        trace,
        lm.tokenizer.piece,
        ends=lm.tokenizer.stop_ids,
        decode=lm.tokenizer.decode,
        delay=0.1,
    )
    return lm.completion(row, trace)


def main(commands: typer.Typer = app) -> None:
    """Run the command line; errors meant for the caller are one line on standard error and exit
    code 2.
    """
    try:
        prepare_streams()
        with signals_as_exceptions():
            status = commands(args=sys.argv[1:], standalone_mode=False)
            sys.stdout.flush()
    except CreditError as error:
        _fail(str(error), 2)
    except Stopped as stopped:
        restore_default_signals()
        sys.stderr.write(f"{stopped.message}\n")
        sys.exit(stopped.status)
    except typer.Abort:
        _fail("interrupted", 130)
    except BrokenPipeError:
        _say_no_more()
        sys.exit(1)
    except OSError as error:
        _say_no_more()
        _fail(
            f"the system refused ({error.strerror or error}); got {str(error.filename or 'output')!r}. Make room, or check the path.",
            2,
        )
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said = (
            error.format_message()
        )  # a usage error of the option parser; empty after it has printed help
        sys.exit(2) if not said else _fail(f"{said.rstrip('.')}. See: credit --help", 2)
    sys.exit(status or 0)


def _say_no_more() -> None:
    """What standard output still holds goes nowhere: it would be refused again at the end of the
    process.
    """
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(text: str, status: int) -> NoReturn:
    with suppress(OSError):  # standard error may be on the disk that is full
        sys.stderr.write(f"error: {' '.join(text.split())}\n")
    sys.exit(status)
