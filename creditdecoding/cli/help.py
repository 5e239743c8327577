"""Help pages: plain text with examples, common commands first, rare options by --help-all."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from creditdecoding.cli.commands import GROUPS, SECTIONS
from creditdecoding.cli.config_file import ConfigFile

MAX_WIDTH = 120
EXAMPLES = "Examples:"

SHOW_ALL = "--help-all"
HELP_OPTIONS = ("--help", "-h", SHOW_ALL)

FIRST_PANELS = ("Arguments", "Options")

Function = Callable[..., Any]


def paragraphs(text: str | None) -> list[str]:
    """The paragraphs of a help text, each on one line, without the examples."""
    parts = [" ".join(part.split()) for part in (text or "").split("\n\n")]
    return [part for part in parts if part and not part.startswith(EXAMPLES)]


def examples(text: str | None) -> list[str]:
    """The command lines of a help text, one each."""
    parts = [part.strip() for part in (text or "").split("\n\n")]
    lines = [part.splitlines()[1:] for part in parts if part.startswith(EXAMPLES)]
    return [line.strip() for part in lines for line in part]


def summary(text: str | None) -> str:
    """The first sentence of a help text."""
    first = next(iter(paragraphs(text)), "")
    return first.partition(". ")[0].rstrip(".")


def _wants_help(args: list[str]) -> bool:
    options = args[: args.index("--")] if "--" in args else args
    return not set(HELP_OPTIONS).isdisjoint(options)


class CreditCommand(TyperCommand):
    """A command with our help page."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in `TyperCommand`, but help is shown before Typer loads what parses values."""
        if not _wants_help(args) or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if SHOW_ALL in args:
            for param in self.params:
                if hasattr(param, "hidden"):
                    param.hidden = False
        typer.echo(ctx.get_help())
        raise typer.Exit

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, text, examples, arguments and the common options."""
        _write_head(self, ctx, formatter)
        has_rare = _write_options(self, ctx, formatter)
        if has_rare:
            formatter.write_paragraph()
            formatter.write_text(f"Less common options: {ctx.command_path} --help-all")


class CreditGroup(TyperGroup):
    """A group whose commands are listed in sections."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in `TyperGroup`, but a command shows its help at once."""
        command = self.commands.get(args[0]) if args else None
        if command is not None and _wants_help(args) and not ctx.resilient_parsing:
            command.make_context(args[0], args[1:], parent=ctx)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, text, and a line for each command."""
        _write_head(self, ctx, formatter)
        sections = SECTIONS if ctx.parent is None else {"Commands": self._summaries(ctx.info_name)}
        for title, summaries in sections.items():
            with formatter.section(title):
                formatter.write_dl(list(summaries.items()))
        _write_options(self, ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(f"More about a command: {ctx.command_path} COMMAND --help")

    def _summaries(self, group: str) -> dict[str, str]:
        names = dict.fromkeys((*GROUPS.get(group, ()), *self.commands))
        return {name: summary(self.commands[name].help) for name in names}


def _write_head(command: Any, ctx: Any, formatter: Any) -> None:
    formatter.write_usage(ctx.command_path, " ".join(command.collect_usage_pieces(ctx)))
    for paragraph in paragraphs(command.help):
        formatter.write_paragraph()
        formatter.write_text(paragraph)
    if lines := examples(command.help):
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in lines))


def _write_options(command: Any, ctx: Any, formatter: Any) -> bool:
    """Arguments and options by panel, without hidden ones. Returns whether there are any."""
    has_hidden = False
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        has_hidden = has_hidden or getattr(param, "hidden", False)
        record = param.get_help_record(ctx)
        if record is not None:
            is_option = param.param_type_name == "option"
            panel = getattr(param, "rich_help_panel", None)
            title = panel or ("Options" if is_option else "Arguments")
            panels.setdefault(title, []).append(record)
    for title in sorted(panels, key=lambda title: title not in FIRST_PANELS):
        with formatter.section(title):
            formatter.write_dl(panels[title])
    return has_hidden


HelpAll = Annotated[
    bool,
    typer.Option(
        SHOW_ALL,
        help="Show all options, also the less common ones.",
        show_default=False,
    ),
]


def with_common_options(command: Function) -> Function:
    """Give a command the options --config and --help-all."""
    signature = inspect.signature(command, eval_str=True)
    common = {"config_file": (ConfigFile, None), "help_all": (HelpAll, False)}
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]
    parameters = [*signature.parameters.values(), *added]

    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        return command(**{name: v for name, v in arguments.items() if name not in common})

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


class CreditTyper(typer.Typer):
    """An app whose commands have our help pages and common options."""

    def command(  # type: ignore[override]
        self, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """As in `typer.Typer`."""
        options.setdefault("cls", CreditCommand)
        register = super().command(name, **options)

        def decorate(function: Function) -> Function:
            register(with_common_options(function))
            return function

        return decorate
