"""The verifier: what it is shown, that it loads only where it belongs, that it learns from labels and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from creditdecoding import load
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.lm import LM
from creditdecoding.verifier.identity import identity
from creditdecoding.verifier.model import Feed, Scorer, Verifier, advantage, best_of, effective, write
from creditdecoding.verifier.steps import State
from tests.make_checkpoint import FAMILIES, make


def some_states(count: int = 6) -> list[State]:
    """Prefixes of several lengths and a complete answer."""
    written = tuple(range(20, 20 + count))
    return [State((7, 8, 9), written[:i], tuple(range(1, i + 1))) for i in range(count)] + [State((7, 8, 9), written, (count,), True, "stop")]


def written_verifier(lm: LM, folder: Path, masks: int = 0) -> Scorer:
    """A verifier of random judgement in `folder`."""
    scorer = Scorer.begin(lm)
    torch.nn.init.normal_(scorer.value.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    folder.mkdir(exist_ok=True)
    write(folder, scorer, identity(lm), {"masks": masks})
    return scorer


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verifier_of_every_family_gives_each_state_what_it_gets_alone(family: str, tmp_path: Path) -> None:
    model = load(str(make(family, tmp_path / "base")), batch_size=4)
    for masks in (0, 3):
        scorer = written_verifier(model, tmp_path / "verifier", masks)
        verifier = Verifier.load(tmp_path / "verifier", model)
        states = some_states()
        found = verifier.q([*states, *states[::-1]])
        assert found.shape == (14,) and bool(((found > 0) & (found < 1)).all()) and verifier.sequences == 7
        assert torch.equal(found[:7], found[7:].flip(0)) and len(set(found[:7].tolist())) == 7
        assert torch.allclose(found[:7], torch.cat([verifier.q([state]) for state in states]), atol=1e-5)
        assert torch.allclose(found[:7], Verifier(scorer, Feed.of(model, masks)).q(states), atol=0.02)  # weights lie in bfloat16


def test_what_the_network_is_shown() -> None:
    open_, done = State((1, 2), (3,), (1,)), State((1, 2), (3,), (1,), True, "stop")
    assert Feed(9, 8).ids(open_) == (1, 2, 3) and Feed(9, 8).place(open_) == 2
    assert Feed(9, 8, 2).ids(open_) == (1, 2, 3, 9, 9) and Feed(9, 8, 2).place(open_) == 3
    assert Feed(9, 8).ids(done) == Feed(9, 8, 2).ids(done) == (1, 2, 3, 8) and Feed(9, 8).place(done) == 3


def test_rewards() -> None:
    assert best_of(0.5, 1) == 0.5 and best_of(0.5, 2) == 0.75 and best_of(1.0, 7) == 1.0
    assert advantage(0.2, 0.5, 1) == pytest.approx(0.3) and advantage(0.5, 0.5, 4) == 0
    assert effective(0.2, 0.5, 2.0, 2) == pytest.approx(0.5 + 2 * (0.75 - 0.36))
    assert best_of(torch.tensor([0.0, 0.5]), 4).tolist() == [0.0, 0.9375]
    for k in (0, 0.99, -3, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="K of 1 or more"):
            best_of(0.5, k)


def test_a_verifier_of_something_else_is_refused(lm: LM, tmp_path: Path) -> None:
    def refused(kind: type[Exception], text: str, model: LM = lm, **options: bool) -> None:
        with pytest.raises(kind, match=text) as caught:
            Verifier.load(folder, model, **options)
        assert "\n" not in str(caught.value)

    folder = tmp_path / "verifier"
    refused(CheckpointError, "no verifier here")
    written_verifier(lm, folder)
    about = json.loads((folder / "verifier.json").read_text())
    other = load(str(make("llada", tmp_path / "other")))
    refused(OptionError, "another tokenizer", other)
    refused(OptionError, "another tokenizer", other, any_model=True)
    (folder / "verifier.json").write_text(json.dumps({**about, "identity": {**about["identity"], "model": "0"}}))
    refused(OptionError, "another model")
    assert Verifier.load(folder, lm, any_model=True).q(some_states()).shape == (7,)
    for text, match in (('{"kind"', "not valid JSON"), ("[]", "not a JSON object"), ('{"kind": "verifier"}', "does not describe")):
        (folder / "verifier.json").write_text(text)
        refused(CheckpointError, match)
    for change in ({"architecture": {**about["architecture"], "depth": 3}}, {"identity": {}}, {"settings": {}}, {"kind": "policy"}):
        (folder / "verifier.json").write_text(json.dumps({**about, **change}))
        refused(CheckpointError, "does not describe")
    (folder / "verifier.json").write_text(json.dumps(about))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(CheckpointError, "truncated")
    (folder / "model.safetensors").unlink()
    refused(CheckpointError, "safetensors")
