"""The verifier: the base model's transformer with one number read at the end of a prefix, the
chance that the base policy ends it correctly.

    verifier = Verifier.load(Path("runs/verifier"), lm)
    q = verifier.q(states)                     # [n] on the CPU, between 0 and 1
    gain = advantage(q[0], q[1], k=4)          # of the step from state 0 to 1, prover best-of-4

One predictor of Q^pi serves every best-of-K prover: Q^BoK = 1 - (1 - Q^pi)^K (arXiv 2410.08146). A
verifier's folder holds `model.safetensors` and `verifier.json`: the model it belongs to, its
architecture, its settings and its metrics on held-out problems.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from creditdecoding.checkpoint import read_json
from creditdecoding.config import Llama3RopeScaling, ModelConfig, MoEConfig
from creditdecoding.errors import CheckpointError, CreditError, ModelError, OptionError
from creditdecoding.fingerprint import Identity, check_identity
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Rename, load_weights, save_weights
from creditdecoding.options import from_mapping
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import Packed, Suffix, pack, prefix_chains, row_width
from creditdecoding.pav.verifier.surprisal import surprisal_positions, token_surprisal
from creditdecoding.run_dir import write_atomically

ABOUT = "verifier.json"
WEIGHTS = "model.safetensors"
_ASSETS = Path(__file__).parents[2] / "assets"
EMBEDDED = {name: _ASSETS / f"{name}-verifier" for name in ("pocket", "pocket-v1")}
SURPRISAL_FEATURES = 2
Q = TypeVar("Q", float, Tensor, NDArray[np.float64])


def best_of(q: Q, k: float) -> Q:
    """The chance that one of `k` tries is correct, where each is with chance `q`.

    Raises `OptionError` for `k` below 1.
    """
    if not 1 <= k < float("inf"):
        raise OptionError(
            "best-of-K needs a K of 1 or more",
            given=k,
            allowed="1 <= K",
            hint="K = 1 is the base policy itself, 4 is usual.",
        )
    chance: Q = 1 - (1 - q) ** k
    return chance


def advantage(q_parent: Q, q_child: Q, k: float = 4.0) -> Q:
    """A^BoK of a step: what it adds to the chance of best-of-`k`, from Q^pi before and after it."""
    return best_of(q_child, k) - best_of(q_parent, k)


def effective_reward(q_parent: Q, q_child: Q, alpha: float, k: float = 4.0) -> Q:
    """The effective reward of a step, Q^pi + alpha A^BoK (Eq. 5)."""
    return q_child + alpha * advantage(q_parent, q_child, k)


def suffix_of(lm: LM, masks: int = 0) -> Suffix:
    """The suffix of states, with the last end token of the model (the end of a turn, if any)."""
    return Suffix(lm.vocab.mask_id, lm.vocab.stop_ids[-1], masks)


def network(lm: LM) -> Transformer:
    """The network of `lm`. Raises `OptionError` if it is external or quantised."""
    is_plain = isinstance(lm.model, Transformer) and all(
        weight.is_floating_point() for weight in lm.model.parameters()
    )
    if not is_plain or not isinstance(lm.model, Transformer):
        raise OptionError(
            "a verifier needs the plain weights of a checkpoint",
            given=type(lm.model).__name__,
            hint="Load a released checkpoint, without --quantize.",
        )
    return lm.model


class Scorer(nn.Module):
    """The transformer without its language-model head, and a number read for each state."""

    def __init__(self, config: ModelConfig, backend: str = "sdpa") -> None:
        super().__init__()
        self.trunk = Transformer(config, backend)
        self.trunk.head = None
        self.surprise = nn.Linear(SURPRISAL_FEATURES, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size + SURPRISAL_FEATURES, 1)

    @classmethod
    def begin(cls, lm: LM, backend: str = "sdpa") -> Scorer:
        """A float32 copy of the base model whose log-odds are 0 everywhere.

        Raises `OptionError` as `network` does.
        """
        base = network(lm)
        scorer = cls(base.config, backend).to(lm.device)
        trunk = {
            name: weight
            for name, weight in base.state_dict().items()
            if not name.startswith("head.")
        }
        scorer.trunk.load_state_dict(trunk)
        generator = torch.Generator(lm.device).manual_seed(0)
        nn.init.normal_(scorer.surprise.weight, std=0.02, generator=generator)
        nn.init.zeros_(scorer.value.weight)
        nn.init.zeros_(scorer.value.bias)
        return scorer

    def forward(self, packed: Packed) -> Float[Tensor, " states"]:
        """Log-odds of the packed states, row by row, in float32 whatever the trunk's type."""
        features = torch.stack((packed.surprise.clamp(max=1), packed.surprise.log1p() / 3), dim=-1)
        embeddings = self.surprise(features.to(self.surprise.weight.dtype))
        hidden = self.trunk.hidden_states(
            packed.tokens, packed.allowed, packed.positions, extra_embeddings=embeddings
        )[packed.read]
        rows, _ = packed.read
        sums = packed.allowed[packed.read].float()[:, None] @ features[rows]
        with torch.autocast(packed.tokens.device.type, enabled=False):
            inputs = (self.trunk.norm(hidden).float(), sums[:, 0].float())
            log_odds: Tensor = self.value(torch.cat(inputs, dim=-1))[:, 0]
        return log_odds


class Verifier:
    """Predicts Q^pi of states.

    `sequences` and `positions` count what it has run: for each state of a call that no other of the
    call continues, a row of the base model for the surprisal and a row of its own.
    """

    def __init__(
        self,
        base: Transformer,
        scorer: Scorer,
        suffix: Suffix,
        batch_size: int = 16,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.base = base
        self.scorer = scorer.eval()
        self.suffix = suffix
        self.batch_size = batch_size
        self.about: Mapping[str, Any] = about if about is not None else {}
        self.sequences = 0
        self.positions = 0

    @classmethod
    def load(
        cls, folder: Path | str, lm: LM, batch_size: int | None = None, compile: bool = False
    ) -> Verifier:
        """Load a verifier of `lm` to its device and type; "pocket" is the embedded one.

        Raises `CheckpointError` for files that are missing, broken or something else, `OptionError`
        if it belongs to another model or tokenizer.
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
        suffix = suffix_of(lm, about["settings"]["masks"])
        return cls(base, scorer, suffix, batch_size or lm.batch_size, about)

    @torch.no_grad()
    def q(self, states: Sequence[PartialAnswer]) -> Float[Tensor, " n"]:
        """Q^pi of each state [n], float32 on the CPU.

        Raises `ModelError` if the network returns NaN or infinity.
        """
        chains = prefix_chains(states)
        chains.sort(key=lambda chain: row_width(chain, self.suffix), reverse=True)
        values: dict[PartialAnswer, Tensor] = {}
        for start in range(0, len(chains), self.batch_size):
            batch = chains[start : start + self.batch_size]
            scored = (state for chain in batch for state in chain)
            values.update(zip(scored, self._score(batch)))
        q = torch.stack([values[state] for state in states]) if states else torch.zeros(0)
        if not q.isfinite().all():
            raise ModelError(
                "the verifier gives no number for some states",
                hint="Check its weights, or load it in float32.",
            )
        return q

    def _score(self, chains: Sequence[Sequence[PartialAnswer]]) -> Tensor:
        longest = [chain[-1] for chain in chains]
        surprisal = token_surprisal(self.base, longest, self.suffix.mask_id)
        packed = pack(chains, self.suffix, surprisal)
        self.sequences += 2 * len(chains)
        self.positions += sum(row_width(chain, self.suffix) for chain in chains)
        self.positions += sum(map(surprisal_positions, longest))
        log_odds: Tensor = self.scorer(packed.to(self.scorer.value.weight.device))
        return log_odds.sigmoid().cpu()


def verifier_folder(name: Path | str) -> Path:
    """The folder of a verifier; "pocket" is the embedded one."""
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
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a verifier, weights in bfloat16. A kill leaves whole files.

    `settings` needs `masks`; `metrics` are those on held-out problems.
    """
    rename: Rename = _SameNames()
    part = folder / "model.part"
    save_weights(scorer, part, rename, torch.bfloat16)
    part.replace(folder / WEIGHTS)
    about = {
        "kind": "verifier",
        "identity": dataclasses.asdict(identity),
        "architecture": dataclasses.asdict(scorer.trunk.config),
        "settings": dict(settings),
        "measures": dict(metrics or {}),
    }
    write_about(folder, about)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `verifier.json`."""
    write_atomically(folder / ABOUT, json.dumps(about, indent=1) + "\n")


def read_verifier(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Read `verifier.json` and the architecture in it. Raises `CheckpointError`."""
    hint = "Make one: credit pav train LABELS --out DIR."
    if not (folder / ABOUT).is_file():
        raise CheckpointError(f"no verifier here (no {ABOUT})", given=str(folder), hint=hint)
    about = read_json(folder / ABOUT)
    try:
        Identity(**about["identity"])
        architecture = dict(about["architecture"])
        architecture["stop_token_ids"] = tuple(architecture["stop_token_ids"])
        if architecture["moe"]:
            architecture["moe"] = from_mapping(MoEConfig, architecture["moe"])
        if architecture.get("rope_scaling"):
            scaling = from_mapping(Llama3RopeScaling, architecture["rope_scaling"])
            architecture["rope_scaling"] = scaling
        config = from_mapping(ModelConfig, architecture)
        if about["kind"] != "verifier" or type(about["settings"]["masks"]) is not int:
            raise KeyError("kind")
    except (KeyError, TypeError, ValueError, CreditError) as error:
        raise CheckpointError(
            f"{ABOUT} does not describe a verifier ({error})", given=str(folder), hint=hint
        ) from error
    return about, config
