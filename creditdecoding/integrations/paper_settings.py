"""Settings of papers on diffusion language models for lm-eval, by name.

    python -m creditdecoding.integrations.lm_eval --list-settings
    python -m creditdecoding.integrations.lm_eval --settings fast-dllm-llada-parallel-gsm8k

A name stands for tasks, shots, chat template and `--model_args`; what the command line gives
itself goes before it. The numbers are in paper_settings.yaml, each group with its source.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from creditdecoding.errors import OptionError

TABLE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class PaperSetting:
    """What a paper ran: lm-eval's tasks (None if it does not say), shots (None: the task's own),
    chat template, and the arguments of the model class.
    """

    group: str
    name: str
    model: str
    source: str
    note: str
    tasks: str | None
    num_fewshot: int | None
    apply_chat_template: bool
    options: Mapping[str, str]

    def command(self, typed: argparse.Namespace, rest: Sequence[str]) -> list[str]:
        """The arguments of lm-eval's command. Raises `OptionError` if nothing names the tasks."""
        tasks = typed.tasks or (self.tasks and [self.tasks])
        if not tasks:
            raise OptionError(
                "this paper does not say which tasks of lm-eval",
                given=self.name,
                hint="Add --tasks and --num_fewshot.",
            )
        options = {"pretrained": self.model, **self.options, **_pairs(typed.model_args)}
        command = [*rest, "--model", typed.model or "creditdecoding", "--tasks", *tasks]
        command += ["--model_args", ",".join(f"{name}={value}" for name, value in options.items())]
        shots = self.num_fewshot if typed.num_fewshot is None else typed.num_fewshot
        if shots is not None:
            command += ["--num_fewshot", str(shots)]
        template = typed.apply_chat_template or ("" if self.apply_chat_template else None)
        if template is not None:
            command += ["--apply_chat_template", *([template] if template else [])]
        if typed.output_path is not None:
            command += ["--output_path", str(Path(typed.output_path, self.name))]
        return command


@functools.cache
def paper_settings() -> dict[str, PaperSetting]:
    """All settings by name."""
    settings = {}
    for group, entry in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items():
        for row, values in entry["rows"].items():
            name = f"{group}-{row}"
            settings[name] = PaperSetting(
                group=group,
                name=name,
                model=entry["model"],
                source=entry["source"],
                note=entry.get("note", ""),
                tasks=values.get("tasks"),
                num_fewshot=values.get("num_fewshot"),
                apply_chat_template=entry.get("apply_chat_template", False),
                options={name: _text(value) for name, value in values["options"].items()},
            )
    return settings


def settings_named(names: str) -> list[PaperSetting]:
    """The settings of some names, separated by commas.

    A group's name, or the beginning of names up to a dash, stands for all of them. Raises
    `OptionError` for an unknown one.
    """
    settings = paper_settings()
    matching = []
    for name in names.split(","):
        group = [one for one in settings.values() if one.group == name]
        alike = [one for one in settings.values() if one.name.startswith(f"{name}-")]
        rows = [settings[name]] if name in settings else group or alike
        if not rows:
            raise _unknown(name)
        matching += rows
    return matching


def _unknown(name: str) -> OptionError:
    groups = dict.fromkeys(one.group for one in paper_settings().values())
    near = difflib.get_close_matches(name, [*paper_settings(), *groups], n=1)
    return OptionError(
        "unknown settings",
        given=name,
        allowed=", ".join(groups),
        hint=f"Did you mean {near[0]}?" if near else "--list-settings prints every name.",
    )


def expand_command(arguments: Sequence[str]) -> list[list[str]]:
    """lm-eval's arguments, once for each of `--settings`; without that option as they are.

    `--list-settings [NAMES]` prints what they stand for, and nothing is left to run. Raises
    `OptionError`.
    """
    typed, rest = _parser().parse_known_args(list(arguments))
    if typed.list_settings is not None:
        names = typed.list_settings
        listed = settings_named(names) if names else list(paper_settings().values())
        sys.stdout.write(listing(listed))
        return []
    if typed.settings is None:
        return [list(arguments)]
    return [setting.command(typed, rest) for setting in settings_named(typed.settings)]


def listing(settings: Sequence[PaperSetting]) -> str:
    """The settings as text: source and note of each group, and what each name stands for."""
    lines = []
    source = None
    for setting in settings:
        if setting.source != source:
            source = setting.source
            lines += ["", f"# {setting.source}", *([f"# {setting.note}"] if setting.note else [])]
        typed = _parser().parse_args([] if setting.tasks else ["--tasks", "..."])
        command = setting.command(typed, [])[2:]
        lines.append(f"{setting.name}: {shlex.join(command)}")
    return "\n".join(lines[1:]) + "\n"


def _parser() -> argparse.ArgumentParser:
    """The options of lm-eval that a name also sets; all others are passed on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--list-settings", nargs="?", const="")
    parser.add_argument("--model", "-M")
    parser.add_argument("--model_args", "-a", nargs="+", default=[])
    parser.add_argument("--tasks", "-t", nargs="+")
    parser.add_argument("--num_fewshot", "-f")
    parser.add_argument("--apply_chat_template", nargs="?", const="")
    parser.add_argument("--output_path", "-o")
    return parser


def _pairs(arguments: Sequence[str]) -> dict[str, str]:
    """`name=value,...` as lm-eval takes it."""
    parts = [part for argument in arguments for part in argument.split(",") if part]
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


def _text(value: Any) -> str:
    """A value as a person types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
