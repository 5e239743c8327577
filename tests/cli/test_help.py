"""Help pages: quick, grouped, with examples that parse, in 80 and in 120 columns."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.commands import GROUPS, SECTIONS, load_commands
from creditdecoding.cli.help import examples, summary
from tests.helpers.cli import run_credit

HEAVY = {"torch", "transformers", "numpy", "pydantic", "fastapi", "matplotlib", "rich", "yaml"}


def all_commands() -> Iterator[tuple[list[str], Any]]:
    """The words and the object of every command that the help lists."""
    load_commands()
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from (([name, inner], leaf) for inner, leaf in command.commands.items())
        else:
            yield [name], command


COMMANDS = list(all_commands())
every_command = pytest.mark.parametrize(
    ("words", "command"), COMMANDS, ids=["-".join(words) for words, _ in COMMANDS]
)


def imported_by(*arguments: str) -> set[str]:
    """The modules that a command line imports, in a process of its own."""
    code = (
        "import json, sys\n"
        "from creditdecoding.cli import main\n"
        f"sys.argv = {['credit', *arguments]!r}\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy_and_no_command() -> None:
    modules = imported_by("--help")
    assert not HEAVY & modules
    assert "creditdecoding.cli.generate" not in modules and "creditdecoding.config" not in modules


def test_help_of_a_command_imports_nothing_heavy_and_no_other_command() -> None:
    modules = imported_by("generate", "--help")
    assert not HEAVY & modules
    assert "creditdecoding.cli.serve" not in modules


def test_the_list_of_commands_is_the_commands() -> None:
    listed = {name: text for commands in SECTIONS.values() for name, text in commands.items()}
    load_commands()
    root: Any = typer.main.get_command(app)
    real = {name: entry for name, entry in root.commands.items() if not entry.hidden}
    assert {name: summary(command.help) for name, command in real.items()} == listed
    assert next(iter(SECTIONS["Use a model"])) == "generate"
    for group, names in GROUPS.items():
        assert set(names) == set(real[group].commands)


@pytest.mark.parametrize("columns", (80, 120))
def test_the_list_has_a_line_a_command(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run_credit(["--help"])
    assert shown.status == 0 and run_credit([]).stdout == shown.stdout
    for commands in SECTIONS.values():
        for name, text in commands.items():
            assert any(line.split(None, 1) == [name, text] for line in shown.stdout.splitlines()), (
                name
            )
    assert max(map(len, shown.stdout.splitlines())) < columns


@every_command
def test_a_page_fits_and_has_examples_that_parse(
    words: list[str], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run_credit([*words, "--help"])
    assert shown.status == 0, shown.stderr
    lines = shown.stdout.splitlines()
    lines_of_examples = examples(command.help)
    assert lines_of_examples and all(f"  {line}" in lines for line in lines_of_examples)
    assert all(len(line) < 80 for line in set(lines) - {f"  {x}" for x in lines_of_examples})
    assert len(lines) < 95, "rare options belong behind --help-all: option(..., rare=True)"
    for line in lines_of_examples:
        assert len(line) <= 92
        program, *arguments = shlex.split(line)
        assert [program, *arguments[: len(words)]] == ["credit", *words]
        command.make_context(" ".join(words), arguments[len(words) :])


def test_rare_options_are_shown_on_demand_and_always_work() -> None:
    assert "--top-k" not in run_credit(["generate", "--help"]).stdout
    assert "credit generate --help-all" in run_credit(["generate", "--help"]).stdout
    everything = run_credit(["generate", "--help-all"])
    assert everything.status == 0 and "--top-k" in everything.stdout
    assert "Less common" not in run_credit(["decoders", "--help"]).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "No such command 'generat'. Did you mean 'generate'? See: credit --help"),
        (["pav", "colect"], "Did you mean 'collect'? See: credit pav --help"),
        (
            ["generate", "--treshold", "1"],
            "No such option: --treshold. Did you mean --threshold? See: credit generate --help",
        ),
        (["eval", "--xyz"], "No such option: --xyz. See: credit eval --help"),
        (["generate", "a", "b"], "See: credit generate --help"),
    ],
)
def test_mistyped_words_get_a_suggestion(arguments: list[str], message: str) -> None:
    result = run_credit(arguments)
    assert result.status == 2 and result.stderr.startswith("error: ")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_version() -> None:
    assert run_credit(["--version"]).stdout.startswith("creditdecoding ")


@pytest.mark.parametrize("words", ["credit gen", "credit generate --thr"])
def test_completion(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CREDIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    completed = {"credit gen": "generate", "credit generate --thr": "--threshold"}[words]
    assert completed in run_credit([]).stdout.split()
