"""What the commands share: the app, common arguments, reading prompts, loading models, exit codes.

Errors meant for the user are one line on standard error and exit status 2.
"""

from __future__ import annotations

import inspect
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
    from creditdecoding.config import EngineConfig
    from creditdecoding.lm import LM

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
    """The prompt from the command line, a file, or standard input. Raises `OptionError`."""
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
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise OptionError(
            "no prompt",
            hint='Give it as an argument, with --file, or on standard input: credit generate "..."',
        )
    return sys.stdin.read()


def load_lm(model: str, engine: EngineConfig) -> LM:
    """Load a model, showing progress if it takes long."""
    from creditdecoding.cli.loading import loading_progress
    from creditdecoding.lm import load

    with loading_progress() as on_progress:
        return load(model, engine, on_progress)


def fold_help(commands: typer.Typer) -> None:
    """Put each paragraph of a help text on one line; Typer keeps the breaks of docstrings."""
    for command in commands.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            fold_help(group.typer_instance)


def main(commands: typer.Typer = app) -> None:
    """Run the command line and exit with its status."""
    try:
        prepare_streams()
        fold_help(commands)
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
        _discard_stdout()
        sys.exit(1)
    except OSError as error:
        _discard_stdout()
        reason = error.strerror or error
        name = str(error.filename or "output")
        _fail(f"the system refused ({reason}); got {name!r}. Make room, or check the path.", 2)
    except Exception as error:
        _fail_on_usage(error)
    sys.exit(status or 0)


def _discard_stdout() -> None:
    """Send what standard output still buffers to nowhere; flushing it at exit would fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail_on_usage(error: Exception) -> NoReturn:
    """Report a usage error of the option parser; raise any other error again.

    Releases of Typer raise classes of their own or of click, so the method tells them apart. The
    message is empty if help was printed.
    """
    if not hasattr(error, "format_message"):
        raise error
    message = error.format_message().rstrip(".")
    if not message:
        sys.exit(2)
    _fail(f"{message}. See: credit --help", 2)


def _fail(message: str, status: int) -> NoReturn:
    with suppress(OSError):  # standard error may be on a full disk
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(status)
