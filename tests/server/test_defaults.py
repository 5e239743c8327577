"""Whose default holds: the request's option, the operator's, the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from creditdecoding.cli import serve as command
from creditdecoding.errors import CheckpointError
from creditdecoding.lm import LM, load
from creditdecoding.server import serve as serve_module
from tests.helpers.cli import run_credit
from tests.helpers.serving import (
    serving,
)
from tools.make_checkpoint import make


def test_requests_override_the_operator_who_overrides_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("llada", tmp_path)
    path = folder / "generation_config.json"
    defaults = json.loads(path.read_text()) if path.exists() else {}
    ours = {"decoder": "fixed:k=2", "gen_length": 24, "cache": "dual", "temperature": 0.7}
    path.write_text(json.dumps({**defaults, **ours}))
    served_with: list[LM] = []
    monkeypatch.setattr(serve_module, "serve", lambda lm, *_: served_with.append(lm))
    command = ["serve", "--port", "0", "--gen-length", "20", "--block-length", "10", "--model"]
    assert run_credit([*command, folder]).status == 0
    (lm,) = served_with
    assert (lm.defaults["gen_length"], lm.defaults["block_length"]) == (20, 10)
    with serving(lm, name="llada") as served:
        fixed = {"ignore_eos": True}
        usage = served.chat(**fixed).json()["usage"]
        assert (usage["completion_tokens"], usage["nfe"]) == (20, 10), "fixed:k=2 for 20 tokens"
        usage = served.chat(max_tokens=6, decoder="fixed", **fixed).json()["usage"]
        assert (usage["completion_tokens"], usage["nfe"]) == (6, 6)
        assert served.text() == served.text(), "a checkpoint does not make answers random"


def test_without_a_model_the_pulled_one_is_served(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the disk is asked which: loading, which is replaced, is all that could use a network."""
    loaded: list[str] = []
    served_as: list[str] = []
    monkeypatch.setattr(command, "load_lm", lambda model, _: loaded.append(model) or lm)
    monkeypatch.setattr(serve_module, "serve", lambda lm, name, *_: served_as.append(name))
    monkeypatch.setenv("CREDITDECODING_CACHE", str(tmp_path))

    def first_line(*flags: str) -> str:
        result = run_credit(["serve", "--port", "0", *flags])
        assert result.status == 0, result.stderr
        return result.stderr.splitlines()[0] if result.stderr else ""

    assert "pocket" in first_line() and "credit pull smol" in first_line()
    base = tmp_path / "smollm2-135m-instruct"
    base.mkdir()
    assert "serving pocket" in first_line(), "a download that is not complete does not count"
    (base / "config.json").write_text("{}")
    assert "serving smol" in first_line() and "--model pocket" in first_line()
    assert first_line("--model", "pocket") == ""
    assert loaded == served_as == ["pocket"] * 3 + ["smol"] * 2 + ["pocket"]
    assert "smol if it was pulled" in run_credit(["serve", "--help"]).stdout


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--decoder", "nonsense"], "unknown decoder"),
        (["--temperature", "-1"], "temperature is out of range"),
        (["--cache", "block"], "block"),
        (["--gen-length", "512"], "512 together"),
    ],
)
def test_defaults_that_cannot_be_served_end_the_command(flags: list[str], text: str) -> None:
    result = run_credit(["serve", "--port", "0", *flags])
    assert result.status == 2
    assert text in result.stderr


def test_a_checkpoint_with_a_bad_default_is_named(tmp_path: Path) -> None:
    folder = make("llada", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"decoder": "nonsense"}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json has an option"):
        load(str(folder))
