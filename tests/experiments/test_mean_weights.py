"""`python -m experiments.mean_weights`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from creditdecoding import load
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.errors import OptionError
from creditdecoding.train.checkpoint import export_checkpoint
from experiments.mean_weights import mean_weights
from experiments.mean_weights.__main__ import command
from tests.helpers.cli import Result, run_credit


def test_each_counts_by_its_share() -> None:
    states = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([5.0, 10.0])}]
    torch.testing.assert_close(mean_weights(states, [1, 3])["a"], torch.tensor([4.0, 8.0]))


@pytest.mark.parametrize("other", [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}])
def test_networks_of_unlike_shape_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(OptionError, match="unlike shape"):
        mean_weights([{"a": torch.zeros(2)}, other], [1, 1])


def write_run(folder: Path, add: float) -> Path:
    """What `credit train` leaves in its folder, with `add` on every weight of pocket-v1."""
    source = resolve_checkpoint("pocket-v1")
    lm = load(source, device="cpu", dtype="float32")
    weights = {name: weight + add for name, weight in lm.model.state_dict().items()}
    folder.mkdir()
    torch.save({"model": weights, "step": 1}, folder / "state.pt")
    export_checkpoint(lm.model, lm.tokenizer, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def run_mean(*arguments: str | Path) -> Result:
    return run_credit(arguments, commands=command)


def test_the_mean_is_a_checkpoint(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", 0.0)
    second = write_run(tmp_path / "second", 0.5)
    result = run_mean(tmp_path / "mean", first, f"{second}@3")
    assert result.status == 0, result.stderr
    before = load(first, device="cpu", dtype="float32").model.state_dict()
    after = load(tmp_path / "mean", device="cpu", dtype="float32").model.state_dict()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight + 0.375, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("share", ["x", "0", "-1", "inf"])
def test_a_wrong_share_is_refused(tmp_path: Path, share: str) -> None:
    result = run_mean(tmp_path / "mean", f"run@{share}")
    assert result.status != 0
    assert f"no weight after @; got 'run@{share}'" in result.stderr
    assert not (tmp_path / "mean").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    result = run_mean(tmp_path / "mean", tmp_path)
    assert result.status != 0
    assert "no training run" in result.stderr


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"cut short")
    result = run_mean(tmp_path / "mean", tmp_path)
    assert result.status != 0
    assert "the state of this run cannot be read" in result.stderr
