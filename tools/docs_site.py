"""MkDocs hook: pages made from the program, equations, and links to files of the repository.

- `reference/cli.md` and `reference/configuration.md` come from the commands and the option classes,
  `reference/python.md` lists the public names for mkdocstrings, and `project/` has CONTRIBUTING and
  CHANGELOG. The notebooks become pages with their stored outputs.
- A fenced block in the language `math` becomes MathML, so a page needs no script to show it.
- Links to files outside of `docs/` go to the repository.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import latex2mathml.converter
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import creditdecoding
from creditdecoding.cli.app import app
from creditdecoding.cli.commands import load_commands
from creditdecoding.cli.help import examples, paragraphs
from creditdecoding.options import type_names

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
CONFIGURATIONS = {
    "Engine": ("EngineConfig", "options of a process: where the model runs and how"),
    "Generation": ("GenerationConfig", "options of a request"),
    "Server": ("ServeConfig", "options of `credit serve`"),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Register the fence for equations."""
    fences = [{"name": "math", "class": "math", "format": math_fence}]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config


def math_fence(source: str, *_: Any, **__: Any) -> str:
    """LaTeX as MathML, one equation a line."""
    lines = filter(None, map(str.strip, source.splitlines()))
    return "".join(latex2mathml.converter.convert(line, display="block") for line in lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {
        "reference/cli.md": command_line_page(),
        "reference/configuration.md": configuration_page(),
        "reference/python.md": python_page(),
        "project/contributing.md": root_page("CONTRIBUTING.md"),
        "project/changelog.md": root_page("CHANGELOG.md"),
    }
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook_page(path)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links to files of the repository that are not pages lead to where they are published."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent

    def published(match: re.Match[str]) -> str:
        target = os.path.relpath(os.path.normpath(folder / match[2]), ROOT)
        if target.startswith("docs" + os.sep) and not target.endswith("results"):
            return match[0]
        return f"{match[1]}{config.repo_url}/blob/main/{target}{match[3]}"

    return LINK.sub(published, markdown)


def root_page(name: str) -> str:
    """A file of the repository's root as a page of `project/`."""

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{os.path.relpath(ROOT / match[2], ROOT / 'docs/project')}{match[3]}"

    return LINK.sub(moved, (ROOT / name).read_text(encoding="utf-8"))


def notebook_page(path: Path) -> str:
    """A notebook as a page: texts, code, and the outputs that are stored in it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [text for cell in cells for text in cell_parts(cell)]
    parts.insert(1, f"[The notebook]({path.name}) to download and run.")
    return "\n\n".join(parts) + "\n"


def cell_parts(cell: Any) -> Iterator[str]:
    """The Markdown of a cell."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
    if printed:
        yield f"```text\n{printed.rstrip()}\n```"
    for data in (output["data"] for output in cell["outputs"] if "data" in output):
        yield shown(data)


def shown(data: Any) -> str:
    """An output that a cell displayed: its HTML in one line, or its text."""
    if "text/html" in data:
        return " ".join("".join(data["text/html"]).split("\n"))
    return f"```text\n{''.join(data['text/plain'])}\n```"


def command_line_page() -> str:
    """Every command with its arguments and options."""
    load_commands()
    lines = [
        "# Command line",
        "",
        "This page is made from the program. `credit COMMAND --help-all` prints the same.",
        "",
    ]
    for path, command in commands(typer.main.get_command(app), "credit"):
        lines += command_section(path, command)
    return "\n".join(lines)


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, without hidden ones."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def command_section(path: str, command: Any) -> list[str]:
    """A heading, the help text and a table of options."""
    arguments = [parameter for parameter in command.params if not is_option(parameter)]
    options = [parameter for parameter in command.params if is_option(parameter)]
    lines = [f"## {path}", ""]
    for paragraph in paragraphs(command.help):
        lines += [paragraph, ""]
    usage = " ".join([path, *map(argument_name, arguments), "[OPTIONS]"])
    lines += ["```text", usage, "```", ""]
    if shown := examples(command.help):
        lines += ["```bash", *shown, "```", ""]
    if arguments:
        lines += ["| argument | |", "|---|---|"]
        lines += [
            f"| `{argument_name(argument)}` | {cell(argument.help)} |" for argument in arguments
        ]
        lines.append("")
    lines += ["| option | default | |", "|---|---|---|"]
    lines += [option_row(option) for option in options]
    return [*lines, ""]


def is_option(parameter: Any) -> bool:
    return parameter.opts[0].startswith("-")


def argument_name(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    several = "..." if argument.nargs == -1 else ""
    return f"{name}{several}" if argument.required else f"[{name}{several}]"


def option_row(option: Any) -> str:
    """Names, default and help of an option."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    default = "required" if option.required else shown_value(option.default)
    return f"| {names} | {default} | {cell(option.help)} |"


def shown_value(value: Any) -> str:
    """A default as it would be typed, empty if there is none."""
    if value in (None, (), [], "") or callable(value):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return cell(" ".join(map(str, value)))
    return f"`{cell(value)}`"


def cell(text: Any) -> str:
    """A text in a cell of a table: one line, no column marks."""
    return " ".join(str(text or "").split()).replace("|", "\\|")


def configuration_page() -> str:
    """Every field of the option classes: default, allowed values, help."""
    lines = [
        "# Configuration",
        "",
        "This page is made from the option classes.",
        "A field is an argument in Python, a flag of the same name on the command line "
        "(`gen_length`: `--gen-length`), and a field of a request to the server.",
        "",
    ]
    for title, (name, use) in CONFIGURATIONS.items():
        lines += [f"## {title}", "", f"`creditdecoding.{name}`: {use}.", ""]
        lines += ["| field | type | default | allowed | |", "|---|---|---|---|---|"]
        lines += map(field_row, dataclasses.fields(getattr(creditdecoding, name)))
        lines.append("")
    return "\n".join(lines)


def field_row(field: dataclasses.Field[Any]) -> str:
    """A row of the table of an option class."""
    types = cell(" or ".join(type_names(field)))
    default = "none" if field.default is None else shown_value(field.default)
    default = field.metadata["default_help"] or default
    allowed = cell(allowed_values(field.metadata))
    return f"| `{field.name}` | {types} | {default} | {allowed} | {cell(field.metadata['help'])} |"


def allowed_values(metadata: Any) -> str:
    """Choices or bounds of an option, in words."""
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    bounds = {"ge": "at least", "gt": "above", "le": "at most"}
    return ", ".join(
        f"{words} {metadata[key]}" for key, words in bounds.items() if metadata[key] is not None
    )


FURTHER = {
    "decoders.base": ("BaseDecoder", "Capabilities", "Sweep", "THRESHOLD_SWEEP"),
    "options": ("option",),
    "tasks": ("load_tasks",),
    "tasks.base": ("Item", "Task", "distinct_items", "same_answer"),
    "checkpoint": ("resolve_checkpoint",),
    "decoders.credit": ("Credit",),
    "models.adapter": ("base_fingerprint",),
    "eval.compare": ("compare",),
    "likelihood": ("log_likelihood", "log_likelihoods", "rescore"),
    "constraints.constraint": ("choice", "json_schema", "regex"),
    "pav.problems": ("Problem",),
    "pav.sampler": ("Sampler",),
    "pav.search.answer": ("SearchAnswer",),
    "pav.search.methods": ("SearchConfig", "search"),
    "pav.verifier.model": ("Verifier",),
    "batch.job": ("plan_job", "run_job"),
    "batch.options": ("BatchConfig",),
    "batch.processor": ("BatchProcessor",),
}
"""Names that are imported from their modules, in code for decoders, tasks and studies."""


def python_page() -> str:
    """The public names, grouped by the module that defines them."""
    by_module: dict[str, list[str]] = {}
    for name in creditdecoding.__all__:
        by_module.setdefault(home(getattr(creditdecoding, name)), []).append(name)
    lines = [
        "# Python",
        "",
        "Everything here can be imported from `creditdecoding`: `import creditdecoding as cd`.",
        "After these come names that decoders, tasks and studies import from their modules.",
        "Those of `creditdecoding.integrations` are in the guides; all else may change without "
        "notice.",
        "",
    ]
    for module in sorted(by_module, key=lambda name: name != "creditdecoding.lm"):
        summary = (importlib.import_module(module).__doc__ or module).strip().split("\n\n")[0]
        lines += [f"## {module}", "", " ".join(summary.split()), ""]
        for name in by_module[module]:
            lines += [f"::: creditdecoding.{name}", ""]
    for module, names in FURTHER.items():
        lines += [f"## from creditdecoding.{module}", ""]
        lines += [f"::: creditdecoding.{module}.{name}\n" for name in names]
    return "\n".join(lines)


def home(public: Any) -> str:
    """The module of a public object; type aliases have none of ours and belong to the decoders."""
    module = str(getattr(public, "__module__", ""))
    return module if module.startswith("creditdecoding") else "creditdecoding.decoders.base"
