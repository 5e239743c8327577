"""Training runs: resuming, learning, starting from a checkpoint, and the checkpoint they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from creditdecoding.errors import OptionError
from creditdecoding.lm import load
from creditdecoding.train.checkpoint import start_from_checkpoint
from creditdecoding.train.objective import MaskedBatch
from creditdecoding.train.options import TrainConfig
from tests.train.conftest import MakeRun

MASK = 2


def test_resuming_gives_the_weights_of_an_undisturbed_run(
    make_run: MakeRun, tmp_path: Path
) -> None:
    undisturbed = make_run(tmp_path / "undisturbed", steps=6)
    list(undisturbed.run())
    stopped = make_run(tmp_path / "stopped", steps=6)
    for record in stopped.run():
        if record["step"] == 4:  # stopped after step 5: the state of step 4 was saved
            break
    resumed = make_run(tmp_path / "stopped", steps=6)
    assert resumed.step == 4
    list(resumed.run())
    for name, weight in undisturbed.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert [record["step"] for record in resumed.records()] == list(range(6))
    assert resumed.tokens == undisturbed.tokens


def test_the_log_has_the_mean_loss_of_all_parts(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", drill_steps=1, parts=2)
    compute_loss = run.loss
    losses = []

    def loss(batch: MaskedBatch) -> torch.Tensor:
        losses.append(compute_loss(batch))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "loss", loss)
        record = run.train_step()
    first, second = (part.item() for part in losses)
    assert record["drill"] == pytest.approx((first + second) / 2, abs=1e-4)
    assert record["drill"] != pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize(("batch_size", "parts"), [(2, 4), (64, 3)])
def test_parts_that_leave_rows_out_are_refused(batch_size: int, parts: int) -> None:
    with pytest.raises(OptionError, match="parts must divide batch_size"):
        TrainConfig(batch_size=batch_size, parts=parts)


@pytest.mark.slow
def test_learns_and_exports_a_checkpoint_that_loads(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=60, next_token_until=1.0, lr=0.03)
    records = list(run.run(lambda path: {"score": 1.0, "path": str(path)}))
    losses = [record["next_token"] for record in records]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert records[-1]["eval"]["path"] == str(run.folder)
    lm = load(str(run.folder))
    assert lm.max_turns == 1 and lm.vocab.mask_id == MASK
    assert isinstance(lm.generate("What is 2+2?", gen_length=8).text, str)
    config = json.loads((run.folder / "config.json").read_text())
    assert config["architectures"] == ["LLaDAModelLM"] and config["model_type"] == "llada"


def test_a_run_can_start_from_a_checkpoint(make_run: MakeRun, tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", steps=2)
    list(first.run())
    (tmp_path / "second").mkdir()
    start_from_checkpoint(str(first.folder), tmp_path / "second")
    second = make_run(tmp_path / "second", steps=2)
    assert second.step == 0
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight.bfloat16().float(), second.model.state_dict()[name]), name
    list(second.run())
    start_from_checkpoint(str(first.folder), tmp_path / "second")  # the same command again
    with pytest.raises(OptionError, match="begun already"):
        start_from_checkpoint(str(second.folder), tmp_path / "second")


def test_more_layers_than_the_start_has_change_nothing_at_first(
    make_run: MakeRun, tmp_path: Path
) -> None:
    first = make_run(tmp_path / "first", steps=2)
    list(first.run())
    start_from_checkpoint(str(first.folder), tmp_path / "deeper")
    layers = first.model.config.num_layers + 1
    deeper = make_run(tmp_path / "deeper", steps=2, num_layers=layers)
    start_from_checkpoint(str(first.folder), tmp_path / "same")
    same = make_run(tmp_path / "same", steps=2)
    tokens = torch.arange(3, 20)[None]
    expected = same.model.logits(same.model.hidden_states(tokens))
    assert torch.equal(deeper.model.logits(deeper.model.hidden_states(tokens)), expected)
    list(deeper.run())
    assert all(layer.o.weight.any() for layer in deeper.model.layers)  # the new one is trained
    start_from_checkpoint(str(deeper.folder), tmp_path / "fewer")
    with pytest.raises(OptionError, match="fewer layers"):
        make_run(tmp_path / "fewer", steps=2)


def test_another_shape_in_the_same_folder_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    list(make_run(tmp_path / "run", steps=2).run())
    with pytest.raises(OptionError, match="hidden_size"):
        make_run(tmp_path / "run", steps=2, hidden_size=64)
