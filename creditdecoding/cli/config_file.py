"""Options from a file: --config FILE.toml or FILE.yaml.

    model = "pocket"            # every command that has the option
    [generate]                  # this command alone; wins over the lines above
    decoder = "credit:threshold=0.95"
    gen-length = 64
    [pav.rl]
    steps = 100

The command line wins over the file, the file over a checkpoint's own defaults and the program's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.errors import OptionError, unknown_name

SUFFIXES = (".toml", ".yaml", ".yml")
OWN = ("config", "help_all", "help")
"""Options that a file cannot set."""


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the running command."""
    if path is not None and not context.resilient_parsing:
        names = _command_names(context)
        root = context.find_root().command
        context.default_map = _defaults(read_config(path), root, names, path)
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_use_config,
        metavar="FILE",
        help="Take options from a TOML or YAML file; those of the command line win.",
        show_default=False,
    ),
]


def read_config(path: Path) -> dict[str, Any]:
    """The values of a file. Raises `OptionError`."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(
            "a configuration is TOML or YAML",
            given=str(path),
            allowed=", ".join(SUFFIXES),
            hint="Rename the file.",
        )
    try:
        values = _parse(path.read_text(encoding="utf-8"), path.suffix.lower())
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"the configuration cannot be read ({error})", given=str(path), hint="Check the path."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise OptionError(
            "the configuration holds no options",
            given=str(path),
            allowed="lines such as gen_length = 64",
            hint="See docs/guide/command-line.md.",
        )
    return values


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".toml":
        return _parse_toml(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise _bad_syntax("YAML", f"line {mark.line + 1}" if mark else "") from error


def _parse_toml(text: str) -> Any:
    toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise _bad_syntax("TOML", str(error)) from error


def _bad_syntax(kind: str, where: str) -> OptionError:
    return OptionError(f"the configuration is not {kind}", given=where or None, hint="Mend it.")


def _command_names(context: typer.Context) -> list[str]:
    """The names of the running command, without that of the program."""
    names: list[str] = []
    current: Any = context
    while current.parent is not None:
        names.insert(0, current.info_name)
        current = current.parent
    return names


def _defaults(values: Mapping[str, Any], root: Any, names: list[str], path: Path) -> dict[str, Any]:
    """The values for the running command by parameter; every key of the file is checked."""
    _check_keys(values, root, str(path))
    command = root
    tables = [values]
    for name in names:
        command = command.commands[name]
        table = tables[-1].get(name) if tables else None
        tables.append(table if isinstance(table, Mapping) else {})
    parameters = option_parameters(command)
    defaults = {}
    for table in tables:
        for key, value in table.items():
            if not isinstance(value, Mapping) and _normal(key) in parameters:
                defaults[parameters[_normal(key)]] = value
    return defaults


def _check_keys(table: Mapping[str, Any], command: Any, where: str) -> None:
    """Refuse a key that is neither an option of the command, or of one below it, nor a table."""
    commands = getattr(command, "commands", {})
    options = set(_all_options(command))
    for key, value in table.items():
        if isinstance(value, Mapping) and key in commands:
            _check_keys(value, commands[key], f"{where}, [{key}]")
        elif isinstance(value, Mapping) or _normal(key) not in options:
            raise unknown_name(f"key in {where}", key, {*options, *commands})


def _all_options(command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            yield from _all_options(inner)
    else:
        yield from option_parameters(command)


def option_parameters(command: Any) -> dict[str, str]:
    """The parameter of each option of a command, by the option's long name as a key of a file."""
    names = {}
    for param in command.params:
        for option in param.opts:
            key = _normal(option[2:])
            if option.startswith("--") and key not in OWN:
                names[key] = param.name
    return names


def _normal(key: str) -> str:
    return key.replace("-", "_")
