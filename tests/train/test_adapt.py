"""`credit adapt`'s training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from creditdecoding.config import EngineConfig
from creditdecoding.errors import TooLongError
from creditdecoding.train import adapt
from creditdecoding.train.adapt import check_held_out, decode_held_out
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.adapter_files import merged_model
from tests.helpers.adaptations import small_run


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path) -> None:
    records = list(small_run(tmp_path, tokens=3000).run())
    first, last = records[0]["loss"], records[-1]["loss"]
    assert last < 0.7 * first


def test_a_record_says_how_many_masked_tokens_are_right(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    batch = run.next_batch().masked
    with torch.no_grad():
        guesses = run.logits(batch).argmax(-1)
    answer = [i for i, weight in enumerate(batch.weight.tolist()) if weight == 1]
    right = [i for i in answer if guesses[i] == batch.target[i]]
    assert run.train_step()["right"] == pytest.approx(100 * len(right) / len(answer), abs=0.01)


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    whole = small_run(tmp_path / "whole")
    records = list(whole.run(lambda run: decode_held_out(run, 16)))
    for stop in (3, 5, 8, None):
        run = small_run(tmp_path / "killed")
        for record in run.run(lambda run: decode_held_out(run, 16)):
            if stop is not None and record["step"] >= stop:
                break
    assert _without_seconds(run.records()) == _without_seconds(records)
    expected = load_file(tmp_path / "whole/run/adapter_model.safetensors")
    adapter = load_file(tmp_path / "killed/run/adapter_model.safetensors")
    assert all(torch.equal(adapter[name], expected[name]) for name in expected)


def test_all_weights_train_the_mask_that_is_exported(tmp_path: Path) -> None:
    run = small_run(tmp_path, rank=0)
    before = run.mask_embedding.row.detach().clone()
    for _ in range(2):
        run.train_step()
    assert not torch.equal(run.mask_embedding.row, before)
    tokens = torch.tensor([[3, run.mask_id, 5, run.mask_id]])
    with torch.no_grad():
        extra = run.mask_embedding(tokens == run.mask_id, run.model.embed.weight[run.mask_id])
        trained = run.model.hidden_states(tokens, extra_embeddings=extra)
        merged = merged_model(run.model, run.mask_embedding, run.base, torch.float32)
        torch.testing.assert_close(merged.hidden_states(tokens), trained)


def test_a_smaller_budget_ends_a_run_that_was_killed(tmp_path: Path) -> None:
    next(iter(small_run(tmp_path, save_every=1).run()))  # killed before anything was exported
    scores = {"score": 1.0, "nfe": 2.0, "sources": {}}
    run = small_run(tmp_path, tokens=1)
    (step,) = run.run(lambda run: scores)
    assert step["eval"] == scores
    names = {path.name for path in run.folder.iterdir()}
    assert {"adapter_model.safetensors", "config.json", "README.md"} <= names
    (again,) = small_run(tmp_path, tokens=1).run(lambda run: {"score": 2.0})
    assert again["eval"] == scores  # it had ended


def test_held_out_answers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    check_held_out(run, 16)
    with pytest.raises(TooLongError, match=r"held-out example 1 of .*allowed: 256 together"):
        check_held_out(run, 250)


def _without_seconds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left_out = ("seconds", "eval")
    return [{name: r[name] for name in r if name not in left_out} for r in records]


def test_of_several_processes_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def resolve(engine: EngineConfig) -> torch.device:
        tried.append(engine.device)
        return torch.device(engine.device)

    monkeypatch.setattr(adapt, "resolve_device", resolve)
    config = AdaptConfig(tokens=1, device="cuda", processes=3)
    assert adapt._device(config, 1) == torch.device("cuda:1")
    assert "cuda:2" in tried  # the last one is there, too
    assert adapt._device(AdaptConfig(tokens=1, device="cuda"), 0) == torch.device("cuda")
    assert adapt._device(AdaptConfig(tokens=1, processes=3), 1) == torch.device("cpu")
