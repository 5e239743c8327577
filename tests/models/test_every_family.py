"""A tiny random checkpoint of every family through the command line: info, generate with every
cache that fits, chat.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.lm import load
from tests.helpers.cli import run_credit
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow

SHIFTED = {"dream", "fast_dllm"}
BLOCKS = {"llada2": 32, "sdar": 4, "sdar_moe": 4, "fast_dllm": 32}
EXPERTS = {"llada_moe", "llada2", "sdar_moe"}
FULL_CACHES = ["none", "prefix", "dual", "every", "vicinity"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {family: str(make(family, tmp_path_factory.mktemp(family))) for family in FAMILIES}


def run_json(*arguments: str) -> Any:
    """The output of a command with --json."""
    done = run_credit([*arguments, "--json"])
    assert done.status == 0, done.stderr
    return json.loads(done.stdout)


def run_refused(*arguments: str) -> str:
    """The one line with which a command is refused."""
    done = run_credit(arguments)
    assert done.status == 2 and done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_info(family: str, folders: dict[str, str]) -> None:
    info = run_json("info", "-m", folders[family])
    assert info["block length"] == BLOCKS.get(family, "any")
    assert ("i-1" in info["logits of position i"]) == (family in SHIFTED)
    assert (info["experts"] is not None) == (family in EXPERTS)
    assert (info["attention"] == "full") == (family not in BLOCKS)
    assert info["caches"] == (["none", "block"] if family in BLOCKS else FULL_CACHES)
    assert "mask" in info["mask token"].lower() and info["chat template"] == "yes"
    assert info["parameters"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_with_every_cache(family: str, folders: dict[str, str]) -> None:
    """The exact caches give what no cache gives, and the command too; every answer is within its
    length.
    """
    lm = load(folders[family])
    exact = "block" if family in BLOCKS else "every:n=1"
    completions = {}
    for cache in dict.fromkeys(["none", *supported_policies(lm.geometry), exact]):
        completion = lm.generate("How are you?", cache=cache, gen_length=36)
        assert 0 <= completion.trace.token_count <= 36 and completion.nfe >= 1
        completions[cache] = (completion.text, completion.nfe)
    printed = run_json("generate", "How are you?", "-m", folders[family], "--gen-length", "36")
    assert printed["generation"]["block_length"] == BLOCKS.get(family, 32)
    command = (printed["text"], printed["nfe"])
    assert command == completions[exact] == completions["none"]


@pytest.mark.parametrize("family", FAMILIES)
def test_chat(family: str, folders: dict[str, str]) -> None:
    command = ["chat", "-m", folders[family], "--gen-length", "16", "--no-early-stop"]
    done = run_credit(command, stdin="hello\nand you?\n/exit\n")
    assert done.status == 0 and done.stdout.count("\n") >= 2


@pytest.mark.parametrize(
    ("family", "cache"), [("llada", "block"), ("sdar", "dual"), ("dream", "duel")]
)
def test_a_cache_that_does_not_fit(family: str, cache: str, folders: dict[str, str]) -> None:
    assert cache in run_refused("generate", "Hi", "-m", folders[family], "--cache", cache)


def test_the_block_length_of_a_checkpoint_can_be_given(folders: dict[str, str]) -> None:
    """SDAR -b8: the files do not say it, the user does. Shorter blocks may be decoded in it."""
    sdar = ["generate", "Hi", "-m", folders["sdar"], "--gen-length", "20"]
    wider = run_json(*sdar, "--causal-block", "8")
    assert wider["generation"]["block_length"] == 8
    shorter = run_json(*sdar, "--causal-block", "8", "--block-length", "2")
    assert shorter["generation"]["block_length"] == 2
    assert "4 or a divisor of it" in run_refused(*sdar, "--block-length", "8")
    llada = ["generate", "Hi", "-m", folders["llada"], "--causal-block", "8"]
    assert "no blocks" in run_refused(*llada)
