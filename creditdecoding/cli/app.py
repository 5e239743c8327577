"""What the commands share: the app, common arguments, reading prompts, loading models, exit codes.

Errors meant for the user are one line on standard error and exit status 2.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from creditdecoding.cli.commands import load_commands
from creditdecoding.cli.help import MAX_WIDTH, CreditGroup, CreditTyper
from creditdecoding.cli.signals import Stopped, restore_default_signals, signals_as_exceptions
from creditdecoding.cli.streams import prepare_streams
from creditdecoding.errors import CreditError, OptionError

if TYPE_CHECKING:
    from creditdecoding.config import EngineConfig
    from creditdecoding.lm import LM

app = CreditTyper(
    name="credit",
    cls=CreditGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)


def _print_version(is_given: bool) -> None:
    from creditdecoding.version import installed_version

    if is_given:
        typer.echo(f"creditdecoding {installed_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
            show_default=False,
        ),
    ] = False,
) -> None:
    """Diffusion language models decoded in few forward passes.

    Examples:
        credit generate "Solve 3x+4=19 for x."
        credit chat
        credit demo
    """


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


def main(commands: typer.Typer = app) -> None:
    """Run the command line and exit with its status."""
    try:
        prepare_streams()
        with signals_as_exceptions():
            status = _run(commands, sys.argv[1:])
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


def _run(commands: typer.Typer, arguments: list[str]) -> Any:
    """Run a command line; the status of a command that ended with one."""
    if commands is not app:  # an experiment's
        return commands(args=arguments, standalone_mode=False)
    arguments = arguments or ["--help"]
    load_commands(arguments)
    return commands(args=arguments, prog_name="credit", standalone_mode=False)


def _discard_stdout() -> None:
    """Send what standard output still buffers to nowhere; flushing it at exit would fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail_on_usage(error: Any) -> NoReturn:
    """Report a usage error of the option parser; raise any other error again.

    Releases of Typer raise classes of their own or of click, so names tell them apart.
    """
    if not hasattr(error, "format_message"):
        raise error
    kind = type(error).__name__
    message = error.format_message()
    if kind == "NoArgsIsHelpError":
        typer.echo(message)
        sys.exit(2)
    if kind == "NoSuchOption":
        near = get_close_matches(error.option_name, error.possibilities or (), n=1)
        suggestion = f" Did you mean {near[0]}?" if near else ""
        message = f"No such option: {error.option_name}.{suggestion}"
    # Typer and click may both add a suggestion.
    message = re.sub(r"(Did you mean [^?]*\?) Did you mean .*", r"\1", message)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "credit"
    end = "" if message.endswith(("?", ".")) else "."
    _fail(f"{message}{end} See: {command} --help", 2)


def _fail(message: str, status: int) -> NoReturn:
    with suppress(OSError):  # standard error may be on a full disk
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(status)
