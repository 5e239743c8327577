"""A tiny random checkpoint of every family through the command line: info, generate with every
cache that fits, chat, drift.
"""

from __future__ import annotations

import io
import json
import sys

import pytest

from creditdecoding.cli import main
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.lm import load
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow

SHIFTED, BLOCKS = {"dream", "fast_dllm"}, {"llada2": 32, "sdar": 4, "sdar_moe": 4, "fast_dllm": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {family: str(make(family, tmp_path_factory.mktemp(family))) for family in FAMILIES}


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["credit", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_info(
    family: str,
    folders: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(["info", "-m", folders[family], "--json"], monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["block length"] == BLOCKS.get(family, "any") and (
        "i-1" in found["logits of position i"]
    ) == (family in SHIFTED)
    assert (found["experts"] is not None) == (family in ("llada_moe", "llada2", "sdar_moe")) and (
        "two-way inside" in found["attention"]
    ) == (family in BLOCKS)
    assert found["caches"] == (
        ["none", "block"] if family in BLOCKS else ["none", "prefix", "dual", "every", "vicinity"]
    )
    assert (
        "mask" in found["mask token"].lower()
        and found["chat template"] == "yes"
        and found["parameters"] > 0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_with_every_cache(
    family: str,
    folders: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exact caches give what no cache gives; every answer is within its length and of the words
    of the tokenizer.
    """
    layout = load(folders[family]).geometry
    assert supported_policies(layout) == (
        ["none", "block"] if family in BLOCKS else ["none", "prefix", "dual", "every", "vicinity"]
    )
    found = {}
    for cache in ["auto", *supported_policies(layout), "every:n=1"][
        : None if layout.causal_block is None else -1
    ]:
        assert (
            call(
                [
                    "generate",
                    "How are you?",
                    "-m",
                    folders[family],
                    "--cache",
                    cache,
                    "--gen-length",
                    "40",
                    "--json",
                ],
                monkeypatch,
            )
            == 0
        )
        found[cache] = json.loads(capsys.readouterr().out)
        assert 0 <= found[cache]["tokens"] <= 40 and found[cache]["nfe"] >= 1
        assert found[cache]["generation"]["block_length"] == BLOCKS.get(family, 32)
    exact = "block" if family in BLOCKS else "every:n=1"
    for same in ("auto", exact):
        assert (found[same]["text"], found[same]["nfe"]) == (
            found["none"]["text"],
            found["none"]["nfe"],
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_chat(
    family: str,
    folders: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nand you?\n/exit\n"))
    assert (
        call(["chat", "-m", folders[family], "--gen-length", "16", "--no-early-stop"], monkeypatch)
        == 0
    )
    assert capsys.readouterr().out.count("\n") >= 2


def test_drift(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "drift",
        "-m",
        folders["llada"],
        "--limit",
        "1",
        "--tasks",
        "facts",
        "--gen-length",
        "12",
        "--block-length",
        "4",
        "--json",
    ]
    assert call([*options, "--caches", "every:n=1 dual", "--no-early-stop"], monkeypatch) == 0
    none, each, dual = json.loads(capsys.readouterr().out)
    assert (none["cache"], none["agreement"], none["computed"]) == ("none", 100.0, 1.0)
    assert (each["agreement"], each["same"], each["nfe"], each["computed"]) == (
        100.0,
        100.0,
        none["nfe"],
        1.0,
    )
    assert dual["cache"] == "dual" and dual["computed"] < 1 and dual["items"] == 1
    assert call([*options, "--cache", "dual"], monkeypatch) == 2
    assert "--caches" in capsys.readouterr().err


def test_a_cache_that_does_not_fit(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for family, cache in (("llada", "block"), ("sdar", "dual"), ("dream", "duel")):
        assert call(["generate", "Hi", "-m", folders[family], "--cache", cache], monkeypatch) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and cache in said


def test_a_block_length_of_ones_own(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SDAR -b8: the files do not say it, the user does; within the model's blocks, shorter ones may
    be decoded.
    """
    common = ["generate", "Hi", "-m", folders["sdar"], "--gen-length", "20", "--json"]
    assert call([*common, "--causal-block", "8"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["generation"]["block_length"] == 8
    assert call([*common, "--causal-block", "8", "--block-length", "2"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["generation"]["block_length"] == 2
    assert call([*common, "--block-length", "8"], monkeypatch) == 2
    assert "4 or a divisor of it" in capsys.readouterr().err
    assert call(["generate", "Hi", "-m", folders["llada"], "--causal-block", "8"], monkeypatch) == 2
    assert "no blocks" in capsys.readouterr().err
