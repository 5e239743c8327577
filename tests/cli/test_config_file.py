"""Options from a file: what it may hold, what wins, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import run_credit
from tests.helpers.outside import write

TOML = """
gen_length = 16
temperature = 0.5
[generate]
gen-length = 24
stop = ["x", "y"]
early_stop = false
[pav.rl]
alpha = 2.0
"""
YAML = """
gen_length: 16
temperature: 0.5
generate: {gen-length: 24, stop: [x, y], early_stop: false}
pav: {rl: {alpha: 2.0}}
"""


def generation(*arguments: str) -> dict[str, Any]:
    result = run_credit(["generate", "hi", "--json", *arguments])
    assert result.status == 0, result.stderr
    options: dict[str, Any] = json.loads(result.stdout)["generation"]
    return options


@pytest.mark.parametrize(("name", "text"), [("c.toml", TOML), ("c.yaml", YAML)])
def test_a_table_wins_over_the_top_and_the_command_line_over_both(
    tmp_path: Path, name: str, text: str
) -> None:
    path = str(write(tmp_path, name, text))
    options = generation("--config", path)
    expected = {"gen_length": 24, "temperature": 0.5, "stop": ["x", "y"], "early_stop": False}
    assert {key: options[key] for key in expected} == expected
    options = generation("--gen-length", "8", "--config", path, "--temperature", "0")
    assert (options["gen_length"], options["temperature"]) == (8, 0.0)


def test_options_of_a_file_count_as_given(tmp_path: Path) -> None:
    path = write(tmp_path, "c.toml", '[compare]\ndecoder = "fixed"\n')
    result = run_credit(["compare", "--config", path])
    assert result.status == 2 and "Name them with --decoders" in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "gen_lenght = 3", r"unknown key in .*c.toml; got 'gen_lenght'.*'gen_length'"),
        ("c.toml", "[generate]\nport = 3", "unknown key in .*c.toml, [generate]; got 'port'"),
        ("c.toml", "[generat]\nseed = 3", "unknown key in .*; got 'generat'"),
        ("c.toml", 'config = "d.toml"', "unknown key in .*; got 'config'"),
        ("c.toml", "seed = ", "the configuration is not TOML; got "),
        ("c.yaml", "a: [", "the configuration is not YAML; got 'line 1'"),
        ("c.yaml", "- 3", "holds no options"),
        ("c.json", "{}", "a configuration is TOML or YAML"),
        ("c.toml", 'gen_length = "many"', "Invalid value for '--gen-length'"),
        ("c.toml", "gen_length = 0", "gen_length is out of range"),
    ],
)
def test_what_no_command_knows_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = write(tmp_path, name, text)
    result = run_credit(["generate", "hi", "--config", path])
    assert result.status == 2 and result.stderr.count("\n") == 1
    parts = message.split(".*")
    assert all(part in result.stderr for part in parts), result.stderr


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    result = run_credit(["generate", "hi", "--config", tmp_path / "none.toml"])
    assert result.status == 2 and "the configuration cannot be read" in result.stderr
