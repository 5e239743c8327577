"""The verifier: the base model's transformer with one number read at the end of a prefix, the
chance that the base policy ends it right.

    verifier = Verifier.load(Path("runs/verifier"), lm)
    q = verifier.q(states)                                  # [n] on the CPU, between 0 and 1
    gain = advantage(q[0], q[1], k=4)                       # of a step from state 0 to state 1,
    under the prover best-of-4

One predictor of Q^pi serves every best-of-K prover: Q^BoK = 1 - (1 - Q^pi)^K (arXiv 2410.08146). In
a folder a verifier is
`model.safetensors` and `verifier.json`: whose states it judges, its architecture, how it was
trained, how good it was on problems held out.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from creditdecoding.checkpoint import read_json
from creditdecoding.config import ModelConfig, MoEConfig
from creditdecoding.errors import CheckpointError, CreditError, ModelError, OptionError
from creditdecoding.fingerprint import Identity, check_identity
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Rename, load_weights, save_weights
from creditdecoding.options import from_mapping
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import Packed, Suffix, pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import length, token_surprisal

ABOUT, WEIGHTS = "verifier.json", "model.safetensors"
EMBEDDED = {"pocket": Path(__file__).parents[2] / "assets" / "pocket-verifier"}
MARKS = 2  # numbers that the network is shown of the surprise at a token
Q = TypeVar("Q", float, Tensor, NDArray[np.float64])


def best_of(q: Q, k: float) -> Q:
    """The chance that one of `k` tries is right, where each is with chance `q`. Raises
    `OptionError` for `k` below 1.
    """
    if not 1 <= k < float("inf"):
        raise OptionError(
            "best-of-K needs a K of 1 or more",
            given=k,
            allowed="1 <= K",
            hint="K = 1 is the base policy itself, 4 is usual.",
        )
    found: Q = 1 - (1 - q) ** k
    return found


def advantage(q_parent: Q, q_child: Q, k: float = 4.0) -> Q:
    """A^BoK of a step: what it adds to the best-of-`k` prover's chance, from Q^pi before and after
    it.
    """
    return best_of(q_child, k) - best_of(q_parent, k)


def effective_reward(q_parent: Q, q_child: Q, alpha: float, k: float = 4.0) -> Q:
    """The effective reward of a step, Q^pi + alpha A^BoK (Eq. 5)."""
    return q_child + alpha * advantage(q_parent, q_child, k)


def suffix_of(lm: LM, masks: int = 0) -> Suffix:
    """What stands behind states: ids of the model's tokenizer, the last of its end tokens (the end
    of a turn where it has both).
    """
    return Suffix(lm.vocab.mask_id, lm.vocab.stop_ids[-1], masks)


def network(lm: LM) -> Transformer:
    """The network of `lm`. Raises `OptionError` if it is none of this package, or quantised."""
    if not isinstance(lm.model, Transformer) or any(
        not weight.is_floating_point() for weight in lm.model.parameters()
    ):
        hint = "Load a released checkpoint, without --quantize."
        raise OptionError(
            "a verifier wants the plain weights of a checkpoint",
            given=type(lm.model).__name__,
            hint=hint,
        )
    return lm.model


class Scorer(nn.Module):
    """The transformer without its language-model head, and a number for one position of each row."""

    def __init__(self, config: ModelConfig, backend: str = "sdpa") -> None:
        super().__init__()
        self.trunk = Transformer(config, backend)
        self.trunk.head = None
        self.surprise = nn.Linear(MARKS, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size + MARKS, 1)

    @classmethod
    def begin(cls, lm: LM, backend: str = "sdpa") -> Scorer:
        """A float32 copy of the base model whose number is 0 everywhere. Raises `OptionError` if it
        is no network of this package.
        """
        base = network(lm)
        scorer = cls(base.config, backend).to(lm.device)
        scorer.trunk.load_state_dict(
            {
                name: weight
                for name, weight in base.state_dict().items()
                if not name.startswith("head.")
            }
        )
        nn.init.normal_(
            scorer.surprise.weight, std=0.02, generator=torch.Generator(lm.device).manual_seed(0)
        )
        nn.init.zeros_(scorer.value.weight)
        nn.init.zeros_(scorer.value.bias)
        return scorer

    def forward(self, packed: Packed) -> Float[Tensor, " states"]:
        """Log-odds of the packed states, row by row, in float32 whatever the trunk's type."""
        marks = torch.stack((packed.surprise.clamp(max=1), packed.surprise.log1p() / 3), dim=-1)
        added = self.surprise(marks.to(self.surprise.weight.dtype))
        hidden = self.trunk.hidden_states(
            packed.tokens, packed.allowed, packed.positions, extra_embeddings=added
        )[packed.read]
        seen = (
            packed.allowed[packed.read].float()[:, None] @ marks[packed.read[0]]
        )  # sums over what each state has written
        with torch.autocast(packed.tokens.device.type, enabled=False):
            found: Tensor = self.value(
                torch.cat((self.trunk.norm(hidden).float(), seen[:, 0].float()), dim=-1)
            )[:, 0]
        return found


class Verifier:
    """Predicts Q^pi of states. `sequences` and `positions` count what it has run: for each state of
    a call that no other of it continues,
    a row of the base model, for its surprise, and one of its own.
    """

    def __init__(
        self,
        base: Transformer,
        scorer: Scorer,
        feed: Suffix,
        batch_size: int = 16,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.base, self.scorer, self.feed, self.batch_size = base, scorer.eval(), feed, batch_size
        self.about: Mapping[str, Any] = about if about is not None else {}
        self.sequences = self.positions = 0

    @classmethod
    def load(
        cls, folder: Path | str, lm: LM, batch_size: int | None = None, compile: bool = False
    ) -> Verifier:
        """Read a verifier of `lm` to where that is, in its type; "pocket" is the embedded one, of
        the embedded model.

        Raises `CheckpointError` for files that are missing, broken or another thing's,
        `OptionError` for another model or tokenizer.
        """
        folder = verifier_folder(folder)
        about, config = read_verifier(folder)
        check_identity(Identity(**about["identity"]), lm, f"the verifier in {folder}")
        base = network(lm)
        with torch.device("meta"):
            scorer = Scorer(config)
        load_weights(scorer, folder, _SameNames(), lm.device, base.norm.weight.dtype)
        scorer.value.float()
        if compile:
            scorer.trunk.compile_layers(dynamic=True)
        return cls(
            base,
            scorer,
            suffix_of(lm, about["settings"]["masks"]),
            batch_size or lm.batch_size,
            about,
        )

    @torch.no_grad()
    def q(self, states: Sequence[PartialAnswer]) -> Float[Tensor, " n"]:
        """Q^pi of each state [n], float32 on the CPU. Raises `ModelError` if the network gives no
        number.
        """
        rows = sorted(
            prefix_chains(states), key=lambda chain: row_width(chain, self.feed), reverse=True
        )
        found: dict[PartialAnswer, Tensor] = {}
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            ends = [chain[-1] for chain in part]
            packed = pack(part, self.feed, token_surprisal(self.base, ends, self.feed.mask_id))
            odds = self.scorer(packed.to(self.scorer.value.weight.device))
            found.update(zip((state for chain in part for state in chain), odds.sigmoid().cpu()))
            self.sequences += 2 * len(part)
            self.positions += sum(row_width(chain, self.feed) + length(chain[-1]) for chain in part)
        values = torch.stack([found[state] for state in states]) if states else torch.zeros(0)
        if not values.isfinite().all():
            raise ModelError(
                "the verifier gives no number for some states",
                hint="Check its weights, or load it in float32.",
            )
        return values


def verifier_folder(name: Path | str) -> Path:
    """The folder of a verifier: "pocket" is the embedded one."""
    return EMBEDDED.get(str(name), Path(name))


class _SameNames(dict[str, Any]):
    """A rename table under which every tensor keeps its name."""

    def __missing__(self, name: str) -> str:
        return name


def write_verifier(
    folder: Path,
    scorer: Scorer,
    identity: Identity,
    settings: Mapping[str, Any],
    measures: Mapping[str, Any] | None = None,
) -> None:
    """Write a verifier, weights in bfloat16; `settings` has at least `masks`. A kill leaves whole
    files.
    """
    rename: Rename = _SameNames()
    part = folder / "model.part"
    save_weights(scorer, part, rename, torch.bfloat16)
    os.replace(part, folder / WEIGHTS)
    about = {
        "kind": "verifier",
        "identity": dataclasses.asdict(identity),
        "architecture": dataclasses.asdict(scorer.trunk.config),
        "settings": dict(settings),
        "measures": dict(measures or {}),
    }
    write_about(folder, about)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what is known of the verifier in `folder`."""
    part = folder / "verifier.part"
    part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(part, folder / ABOUT)


def read_verifier(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """`verifier.json` and the architecture in it. Raises `CheckpointError`."""
    hint = "Make one: credit pav train LABELS --out DIR."
    if not (folder / ABOUT).is_file():
        raise CheckpointError(f"no verifier here (no {ABOUT})", given=str(folder), hint=hint)
    about = read_json(folder / ABOUT)
    try:
        Identity(**about["identity"])
        shape = {
            **about["architecture"],
            "stop_token_ids": tuple(about["architecture"]["stop_token_ids"]),
        }
        config = from_mapping(
            ModelConfig, {**shape, "moe": shape["moe"] and from_mapping(MoEConfig, shape["moe"])}
        )
        if about["kind"] != "verifier" or type(about["settings"]["masks"]) is not int:
            raise KeyError("kind")
    except (KeyError, TypeError, ValueError, CreditError) as error:
        raise CheckpointError(
            f"{ABOUT} does not describe a verifier ({error})", given=str(folder), hint=hint
        ) from error
    return about, config
