"""`make bench-peers` with loops of our own in place of the peers': `stand_ins/` holds checkouts with
their files, functions and calls of the network, and none of their code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.peer_loops import NEVER_USED, PEERS, SpecialIds, standing_in
from benchmarks.peer_network import PeerNetwork
from benchmarks.peers import main
from creditdecoding.lm import LM, load

STAND_INS = Path(__file__).parent / "stand_ins"
IDS = SpecialIds(mask=0, stop=1)
CACHES = ("", ", prefix", ", dual")


@pytest.fixture(autouse=True)
def no_dinfer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package stays imported in a run of the command; here it goes."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "dinfer"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket-v1", device="cpu", dtype="float32")


def stand_in(peer: str) -> list[str]:
    return [f"--{peer.replace('_', '-')}", str(STAND_INS / peer)]


def rows(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    out = tmp_path / "rows.json"
    main([*arguments, "--questions", "1", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["questions"] == 1
    return record["rows"]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that the command leaves behind."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = str(stopped.value) if isinstance(stopped.value.code, str) else capsys.readouterr().err
    line = printed.splitlines()[-1]
    assert "error: " in line
    return line


@pytest.mark.parametrize(("peer", "count"), [("llada", 1), ("fast_dllm", 6), ("dinfer", 18)])
def test_the_same_ids_in_every_row(peer: str, count: int, tmp_path: Path) -> None:
    results = rows(tmp_path, *stand_in(peer), "--pairs", "0")
    assert len(results) == count
    for row in results:
        assert row["equal"] == row["answers"] == 1, row
        assert row["time_ratio"] is None
        if "unroll 4" not in row["name"]:
            assert row["equal_passes"] == 1, row


def test_passes_of_an_unrolled_loop_are_counted(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, *stand_in("dinfer"), "--pairs", "0", "--only", "credit, unroll 4")
    assert row["passes"] > row["our_passes"]
    assert row["equal_passes"] == 0


def test_a_ratio_of_time_is_measured_in_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = rows(tmp_path, *stand_in("fast_dllm"), "--pairs", "1", "--only", "threshold, dual")
    assert row["time_ratio"] > 0
    printed = capsys.readouterr().out
    assert "Fast-dLLM threshold, dual" in printed
    assert f"{row['time_ratio']:.2f}" in printed


def test_our_side_of_each_row_has_the_same_rule_and_cache() -> None:
    fast_dllm = PEERS["fast_dllm"]
    rivals = list(fast_dllm.rivals(fast_dllm.find(STAND_INS / "fast_dllm"), IDS))
    assert [(rival.name, rival.decoder, rival.cache) for rival in rivals] == [
        ("Fast-dLLM fixed", "fixed", "none"),
        ("Fast-dLLM threshold", "threshold:threshold=0.9", "none"),
        ("Fast-dLLM fixed, prefix", "fixed", "prefix"),
        ("Fast-dLLM threshold, prefix", "threshold:threshold=0.9", "prefix"),
        ("Fast-dLLM fixed, dual", "fixed", "dual"),
        ("Fast-dLLM threshold, dual", "threshold:threshold=0.9", "dual"),
    ]


def test_rows_of_dinfer_are_every_rule_cache_and_unrolling() -> None:
    dinfer = PEERS["dinfer"]
    rivals = list(dinfer.rivals(dinfer.find(STAND_INS / "dinfer"), IDS))
    assert [rival.name for rival in rivals] == [
        f"dInfer {rule}{cache}, unroll {unroll}"
        for rule in ("threshold", "credit", "hierarchy")
        for cache in CACHES
        for unroll in (4, 1)
    ]
    assert all(rival.early_stop and rival.has_flat_cache for rival in rivals)


def test_a_newer_checkout_of_fast_dllm_has_its_loops_below_v1(tmp_path: Path) -> None:
    newer = tmp_path / "v1" / "llada" / "generate.py"
    newer.parent.mkdir(parents=True)
    newer.touch()
    assert PEERS["fast_dllm"].find(tmp_path) == newer


def test_modules_that_stand_in_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ModuleType("model")
    monkeypatch.setitem(sys.modules, "model", before)
    there = NEVER_USED.keys() & sys.modules.keys()
    with standing_in():
        assert sys.modules["model"] is not before
        assert sys.modules["model.modeling_llada"].LLaDAModelLM is None
    assert sys.modules["model"] is before
    assert NEVER_USED.keys() & sys.modules.keys() == there


@torch.inference_mode()
def test_cached_passes_see_what_was_kept(lm: LM) -> None:
    """Over unchanged ids a pass with kept keys and values has the logits of a whole pass."""
    prompt = torch.tensor([lm.encode("Solve 3x+4=19 for x.") + [lm.vocab.mask_id] * 8])
    start, end, last = 4, 12, prompt.shape[1]
    network = PeerNetwork(lm)
    whole = network(prompt, use_cache=True)
    logits = network(prompt).logits
    assert torch.equal(whole.logits, logits)
    assert torch.isneginf(logits[..., lm.vocab.mask_id]).all()

    cut = [(keys[:, :, :start], values[:, :, :start]) for keys, values in whole.past_key_values]
    behind = network(prompt[:, start:], past_key_values=cut, use_cache=True)
    torch.testing.assert_close(behind.logits, logits[:, start:])
    assert all(keys.shape[2] == last for keys, _ in behind.past_key_values)

    covered = torch.zeros_like(prompt, dtype=torch.bool)
    covered[:, start:end] = True
    inside = network(
        prompt[:, start:end],
        past_key_values=whole.past_key_values,
        use_cache=True,
        replace_position=covered,
    )
    torch.testing.assert_close(inside.logits, logits[:, start:end])
    assert network.passes == 4


def test_what_is_kept_is_written_over(lm: LM) -> None:
    with torch.inference_mode():
        network = PeerNetwork(lm)
        ids = torch.tensor([lm.encode("Solve 3x+4=19 for x.")])
        kept = network(ids, use_cache=True).past_key_values
        before = [keys.clone() for keys, _ in kept]
        covered = torch.zeros_like(ids, dtype=torch.bool)
        covered[:, 2:4] = True
        network(ids[:, 5:7], past_key_values=kept, use_cache=True, replace_position=covered)
        changed = [(keys != old).any(-1).any(1)[0] for (keys, _), old in zip(kept, before)]
    for columns in changed:
        assert torch.equal(columns.nonzero()[:, 0], torch.tensor([2, 3]))


def test_a_folder_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "--llada", "no/such/folder")
    assert line == (
        "error: no such folder: no/such/folder. Name the folder of a checkout, or a git URL"
        " (https://..., ssh://..., file://..., user@host:...)."
    )


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_a_folder_without_the_peer(
    peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, f"--{peer.replace('_', '-')}", str(tmp_path))
    assert line.startswith(f"error: {tmp_path} holds no {PEERS[peer].title}: there is no ")
    assert PEERS[peer].repository in line


def test_a_loop_that_a_checkout_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "generate.py"
    path.write_text("", encoding="utf-8")
    line = error_of(capsys, "--llada", str(tmp_path))
    assert line == (
        f"error: {path} has no generate, which this comparison runs."
        " Check out a commit that has it, or leave this peer out."
    )


def test_a_package_that_a_checkout_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "generate.py"
    path.write_text("import no_such_package", encoding="utf-8")
    line = error_of(capsys, "--llada", str(tmp_path))
    assert line == (
        f"error: {path} cannot be imported: No module named 'no_such_package'."
        " Install what that checkout needs."
    )


def test_no_compiler_for_dinfer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    monkeypatch.setenv("PATH", "")
    line = error_of(capsys, *stand_in("dinfer"))
    assert "no C++ compiler was found (g++, c++, clang++)" in line
    assert "TORCHDYNAMO_DISABLE=1 make bench-peers" in line


def test_rows_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, *stand_in("llada"), "--only", "dual")
    assert line == "error: no row has 'dual' in its name. There are: LLaDA fixed."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no peer was named; give a folder or a git URL, for example --llada ~/LLaDA"),
        (("--questions", "0"), "argument --questions: 0 is not allowed; give 1 or more"),
        (("--pairs", "-1"), "argument --pairs: -1 is not allowed; give 0 or more"),
    ],
)
def test_arguments_that_are_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, *arguments).endswith(f"error: {message}")
