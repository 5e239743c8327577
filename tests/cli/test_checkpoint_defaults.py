"""What generate, chat and Python take from a checkpoint's generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from creditdecoding.config import GenerationConfig
from creditdecoding.description import describe
from creditdecoding.errors import CheckpointError
from creditdecoding.lm import load
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that names a decoder and a length."""
    made = make("llada", tmp_path_factory.mktemp("own"))
    name_defaults(made, decoder="threshold:threshold=0.3", gen_length=12)
    return made


def name_defaults(folder: Path, **defaults: object) -> None:
    path = folder / "generation_config.json"
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, **defaults}))


def settings_of(folder: Path, *flags: str) -> dict[str, object]:
    result = run_credit(["generate", "hello", "--json", "--model", folder, *flags])
    assert result.status == 0, result.stderr
    answer = json.loads(result.stdout)
    return {**answer["decoder"], "gen_length": answer["generation"]["gen_length"]}


@pytest.mark.parametrize(
    ("flags", "name", "threshold", "length"),
    [
        ((), "threshold", 0.3, 12),
        (("--gen-length", "8"), "threshold", 0.3, 8),
        (("--threshold", "0.7"), "threshold", 0.7, 12),
        (("--decoder", "credit"), "credit", 0.9, 12),
        (("-d", "credit", "--threshold", "0.8"), "credit", 0.8, 12),
    ],
)
def test_flags_win_over_the_checkpoint(
    folder: Path, flags: tuple[str, ...], name: str, threshold: float, length: int
) -> None:
    settings = settings_of(folder, *flags)
    assert (settings["name"], settings["threshold"]) == (name, threshold)
    assert settings["gen_length"] == length


def test_python_and_info_follow_the_checkpoint_unless_told_otherwise(folder: Path) -> None:
    lm = load(str(folder))
    own = lm.generate("hello").trace.settings
    assert own["decoder"] == {"name": "threshold", "threshold": 0.3} and own["gen_length"] == 12
    assert lm.infill("a [MASK]").trace.settings["decoder"] == own["decoder"]
    assert lm.generate("hello", decoder="fixed").trace.settings["decoder"]["name"] == "fixed"
    plain = lm.generate("hello", GenerationConfig(gen_length=8)).trace.settings
    assert plain["decoder"]["name"] == "credit" and plain["gen_length"] == 8
    assert describe(str(folder))["defaults"]["decoder"] == own["decoder"]


def test_chat_follows_the_checkpoint(folder: Path) -> None:
    result = run_credit(["chat", "--model", folder], "hello\n")
    assert result.status == 0
    assert load(str(folder)).generate("hello").text in result.stdout


@pytest.mark.parametrize(
    ("decoder", "text"),
    [
        ("thrifty", "unknown decoder"),
        ("thrift:treshold=0.9", "unknown option of Thrift"),
        ("threshold:threshold=2", "out of range"),
        (7, "not a decoder"),
    ],
)
def test_a_decoder_that_is_none_is_refused_in_a_line(
    tmp_path: Path, decoder: object, text: str
) -> None:
    made = make("llada", tmp_path)
    name_defaults(made, decoder=decoder)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json .*{text}") as refused:
        load(str(made))
    assert "\n" not in str(refused.value)


def test_a_threshold_for_a_decoder_without_one_is_refused(tmp_path: Path) -> None:
    made = make("llada", tmp_path)
    name_defaults(made, decoder="fixed")
    result = run_credit(["generate", "hello", "--model", made, "--threshold", "0.8"])
    assert result.status == 2
    assert "the checkpoint's own decoder has no threshold; got 'fixed'" in result.stderr


def test_the_embedded_model_names_a_decoder_that_loses_nothing_measurable() -> None:
    """Chosen on dev, checked on test: its README and docs/research/results.md."""
    lm = load("pocket")
    own = lm.generate("Solve 3x+4=19 for x.").trace.settings["decoder"]
    assert own == {"name": "threshold", "threshold": 0.999}


@pytest.mark.parametrize("turns", [0, "2", 1.5])
def test_a_number_of_turns_that_is_none_is_refused(tmp_path: Path, turns: object) -> None:
    made = make("llada", tmp_path)
    name_defaults(made, max_turns=turns)
    with pytest.raises(CheckpointError, match="max_turns makes no sense"):
        load(str(made))
