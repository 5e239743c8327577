"""The verifier: what it is shown, and that it loads only where it belongs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from creditdecoding import load
from creditdecoding.config import Llama3RopeScaling
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.lm import LM
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import (
    Verifier,
    advantage,
    best_of,
    effective_reward,
    network,
    read_verifier,
    suffix_of,
)
from creditdecoding.pav.verifier.packing import Suffix, pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import token_surprisal
from tests.helpers.verifiers import some_states, written_verifier
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A tiny random checkpoint."""
    return load(str(make("llada", tmp_path_factory.mktemp("tiny"))), batch_size=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verifier_of_every_family_gives_each_state_what_it_gets_alone(
    family: str, tmp_path: Path
) -> None:
    model = load(str(make(family, tmp_path / "base")), batch_size=4)
    for masks in (0, 3):
        scorer = written_verifier(model, tmp_path / "verifier", masks)
        verifier = Verifier.load(tmp_path / "verifier", model)
        states = some_states()
        q = verifier.q([*states, *states[::-1]])
        assert q.shape == (16,) and bool(((q > 0) & (q < 1)).all()) and verifier.sequences == 4
        assert torch.equal(q[:8], q[8:].flip(0)) and len(set(q[:8].tolist())) == 8
        assert torch.allclose(
            q[:8], torch.cat([verifier.q([state]) for state in states]), atol=1e-5
        )
        assert torch.allclose(
            q[:8],
            Verifier(network(model), scorer, suffix_of(model, masks)).q(states),
            atol=0.02,
        )  # weights lie in bfloat16


def test_what_the_network_is_shown() -> None:
    whole = PartialAnswer((1, 2), (3, 4, 5), (1, 3), True, "stop")
    (chain,) = prefix_chains([whole, *whole.prefixes])
    assert (
        chain == tuple(whole.prefixes)
        and row_width(chain, Suffix(9, 8, 1)) == 8
        and row_width(chain, Suffix(9, 8)) == 6
    )
    packed = pack(
        [chain, chain[:1]],
        Suffix(9, 8, 1),
        [torch.tensor([0.5, 0.25, 0.125]), torch.zeros(0)],
        multiple=5,
    )
    assert packed.surprise.tolist() == [[0, 0, 0.5, 0.25, 0.125, 0, 0, 0, 0, 0], [0] * 10]
    assert packed.tokens[0].tolist() == [1, 2, 3, 4, 5, 9, 9, 8, 9, 9] and packed.positions[
        0, :8
    ].tolist() == [0, 1, 2, 3, 4, 2, 3, 5]
    assert [(int(a), int(b)) for a, b in zip(*packed.read)] == [(0, 5), (0, 6), (0, 7), (1, 2)]
    sees = [packed.allowed[0, i].nonzero()[:, 0].tolist() for i in range(8)]
    assert sees == [
        [0, 1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 1, 5],
        [0, 1, 2, 6],
        [0, 1, 2, 3, 4, 7],
    ]
    assert (
        pack([chain], Suffix(9, 8), [torch.zeros(3)]).read[1].tolist() == [1, 2, 5]
        and packed.allowed.any(2).all()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_surprise_looks_at_nothing_but_what_stands_before(family: str, tmp_path: Path) -> None:
    model = load(str(make(family, tmp_path)))
    whole = PartialAnswer((7, 8, 9), (20, 21, 22, 23), (2, 4))
    base = network(model)
    surprisal, short, other, none = token_surprisal(
        base,
        [whole, whole.prefix(1), PartialAnswer((7, 8, 9), (20, 21, 22, 60)), PartialAnswer((7, 8))],
        model.vocab.mask_id,
    )
    assert surprisal.shape == (4,) and bool((surprisal > 0).all()) and none.shape == (0,)
    assert (
        torch.allclose(surprisal[:2], short, atol=1e-5)
        and torch.allclose(surprisal[:3], other[:3], atol=1e-5)
        and abs(surprisal[3] - other[3]) > 1e-4
    )
    (alone,) = token_surprisal(base, [whole], model.vocab.mask_id)
    assert torch.allclose(surprisal, alone, atol=1e-5)


def test_surprise_is_what_the_model_says(tiny: LM) -> None:
    """At the first token: the log-probability at one mask behind a prompt that does not see it."""
    base, state = network(tiny), PartialAnswer((7, 8, 9), (20,), (1,))
    allowed = torch.ones(1, 4, 4, dtype=torch.bool)
    allowed[:, :3, 3] = False
    logits = base(
        torch.tensor([[7, 8, 9, tiny.vocab.mask_id]]),
        (torch.tensor([0]), torch.tensor([3])),
        allowed,
    )
    (surprisal,) = token_surprisal(base, [state], tiny.vocab.mask_id)
    assert surprisal[0].item() == pytest.approx(-logits.log_softmax(-1)[0, 20].item(), abs=1e-4)


def test_rewards() -> None:
    assert best_of(0.5, 1) == 0.5 and best_of(0.5, 2) == 0.75 and best_of(1.0, 7) == 1.0
    assert advantage(0.2, 0.5, 1) == pytest.approx(0.3) and advantage(0.5, 0.5, 4) == 0
    assert effective_reward(0.2, 0.5, 2.0, 2) == pytest.approx(0.5 + 2 * (0.75 - 0.36))
    assert best_of(torch.tensor([0.0, 0.5]), 4).tolist() == [0.0, 0.9375]
    for k in (0, 0.99, -3, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="K of 1 or more"):
            best_of(0.5, k)


def test_a_verifier_keeps_the_rotary_embedding_of_its_model(lm: LM, tmp_path: Path) -> None:
    written_verifier(lm, tmp_path)
    about = json.loads((tmp_path / "verifier.json").read_text())
    _, config = read_verifier(tmp_path)
    assert config.rope_scaling is None
    scaling = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
    about["architecture"]["rope_scaling"] = dataclasses.asdict(scaling)
    (tmp_path / "verifier.json").write_text(json.dumps(about))
    _, config = read_verifier(tmp_path)
    assert config.rope_scaling == scaling


def test_a_verifier_of_something_else_is_refused(lm: LM, tmp_path: Path) -> None:
    def refused(kind: type[Exception], text: str, model: LM = lm) -> None:
        with pytest.raises(kind, match=text) as caught:
            Verifier.load(folder, model)
        assert "\n" not in str(caught.value)

    folder = tmp_path / "verifier"
    refused(CheckpointError, "no verifier here")
    written_verifier(lm, folder)
    about = json.loads((folder / "verifier.json").read_text())
    other = load(str(make("llada", tmp_path / "other")))
    refused(OptionError, "another tokenizer", other)
    (folder / "verifier.json").write_text(
        json.dumps({**about, "identity": {**about["identity"], "model": "0"}})
    )
    refused(OptionError, "another model")
    for text, match in (
        ('{"kind"', "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"kind": "verifier"}', "does not describe"),
    ):
        (folder / "verifier.json").write_text(text)
        refused(CheckpointError, match)
    for change in (
        {"architecture": {**about["architecture"], "depth": 3}},
        {"identity": {}},
        {"settings": {}},
        {"kind": "policy"},
    ):
        (folder / "verifier.json").write_text(json.dumps({**about, **change}))
        refused(CheckpointError, "does not describe")
    (folder / "verifier.json").write_text(json.dumps(about))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(CheckpointError, "truncated")
    (folder / "model.safetensors").unlink()
    refused(CheckpointError, "safetensors")
