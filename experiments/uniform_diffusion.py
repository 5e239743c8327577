"""Does trace credit help where there is no mask token? A small uniform-diffusion model, trained
here, decoded with and without it.

    python -m experiments.uniform_diffusion train --out runs/uniform --seconds 900
    python -m experiments.uniform_diffusion compare --out runs/uniform --dev 50 --test 120

Uniform diffusion as DiffusionGemma decodes it: the canvas begins as random ids; every pass predicts
all of it; the positions of least
entropy are accepted while the sum of their entropies but the largest stays below a bound, the
others get fresh random ids. Nothing is
committed, the answer is the last pass's likeliest ids. A pass also sees what the last one predicted
(self-conditioning). The model begins
as the embedded one; training and comparing can be killed at any time and go on. Figures:
docs/research/log.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from creditdecoding.eval.compare_report import BASELINE, compare_report
from creditdecoding.eval.sweep import REFERENCE, CurvePoint, DecoderCurve
from creditdecoding.lm import LM, load
from creditdecoding.models.moe import SwiGLU
from creditdecoding.models.transformer import Transformer
from creditdecoding.tasks.base import Item, Split, distinct_items
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS

CANVAS = 64
ASKED = ("facts", "discrete", "program", "arithmetic")  # the families whose answers fit


class Denoiser(nn.Module):
    """The embedded network with self-conditioning: what the last pass expected is added to what a
    position holds.
    """

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.trunk = trunk
        self.mix = SwiGLU(trunk.config.hidden_size, trunk.config.hidden_size)
        nn.init.zeros_(self.mix.down.weight)

    def forward(
        self, tokens: Tensor, answer: Tensor, seen: Tensor, last: Tensor | None = None
    ) -> Tensor:
        """Logits [rows, CANVAS, vocab] of rows [rows, length] with their canvas from `answer`
        [rows] on; `last` the logits of the pass before.
        """
        columns = answer[:, None] + torch.arange(CANVAS)
        line = torch.arange(len(tokens))[:, None]

        def add(module: nn.Module, inputs: object, embedded: Tensor) -> Tensor:
            if last is None:
                return embedded
            expected = self.mix(
                F.rms_norm(last.softmax(-1) @ self.trunk.embed.weight, embedded.shape[-1:])
            )
            return embedded.index_put((line, columns), expected.to(embedded.dtype), accumulate=True)

        hook = self.trunk.embed.register_forward_hook(add)
        try:
            hidden = self.trunk.hidden_states(tokens, seen[:, None])
        finally:
            hook.remove()
        logits: Tensor = self.trunk.logits(hidden[line, columns].flatten(0, 1))
        scores: Tensor = logits.unflatten(0, columns.shape)
        return scores.float()


def rows_of(lm: LM, items: list[Item]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompts [rows, longest + CANVAS], where each canvas begins, which positions are seen, and the
    clean canvases.
    """
    end = int(lm.tokenizer.backend.eos_token_id)
    stop = next(i for i in lm.vocab.stop_ids if i != end)
    prompts = [lm.encode(item.prompt) for item in items]
    answer = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.full((len(items), int(answer.max()) + CANVAS), end)
    clean = torch.full((len(items), CANVAS), end)
    for i, (prompt, item) in enumerate(zip(prompts, items)):
        ids = [*lm.tokenizer.encode(item.answer), stop][:CANVAS]
        tokens[i, : len(prompt)] = torch.tensor(prompt)
        clean[i, : len(ids)] = torch.tensor(ids)
    return tokens, answer, torch.arange(tokens.shape[1]) < answer[:, None] + CANVAS, clean


def placed(tokens: Tensor, answer: Tensor, canvas: Tensor) -> Tensor:
    """The rows with their canvases written in."""
    return tokens.scatter(1, answer[:, None] + torch.arange(CANVAS), canvas)


def train(out: Path, seconds: float, batch: int = 32, rate: float = 2e-3) -> None:
    """Cross-entropy of all clean ids, each replaced by a random one with probability t; every other
    step self-conditioned.
    """
    lm = load("pocket")
    assert isinstance(lm.model, Transformer)
    lm.model.attention_backend = "math"  # the faster one in a bfloat16 backward pass
    net = Denoiser(lm.model)
    net.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    step, spent = 0, 0.0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=True)
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    while spent < seconds:
        began = time.perf_counter()
        rng = random.Random(step)
        noise = torch.Generator().manual_seed(step)
        drawn = (
            SYNTHETIC_TASKS[ASKED[rng.randrange(len(ASKED))]].make(rng) for _ in itertools.count()
        )
        tokens, answer, seen, clean = rows_of(
            lm, list(itertools.islice((item for item in drawn if item.split == "train"), batch))
        )
        t = (torch.arange(batch) + torch.rand(batch, generator=noise))[:, None] / batch
        random_ids = torch.randint(lm.vocab.size, clean.shape, generator=noise)
        noisy = placed(
            tokens,
            answer,
            torch.where(torch.rand(clean.shape, generator=noise) < t, random_ids, clean),
        )
        with torch.autocast("cpu", torch.bfloat16):
            last = None
            if step % 2:
                with torch.no_grad():
                    last = net(noisy, answer, seen)
            loss = F.cross_entropy(net(noisy, answer, seen, last).flatten(0, 1), clean.flatten())
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.02, 1 - spent / seconds)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, spent = step + 1, spent + time.perf_counter() - began
        if step % 50 == 0 or spent >= seconds:
            part = out / "state.part"
            torch.save(
                {
                    "model": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": spent,
                },
                part,
            )
            os.replace(part, out / "state.pt")
            print(
                json.dumps({"step": step, "seconds": round(spent), "loss": round(loss.item(), 4)}),
                flush=True,
            )


def accepted(entropy: Tensor, bound: float) -> Tensor:
    """The positions of least entropy [rows, CANVAS] whose sum without the largest stays below
    `bound`; never none.
    """
    ordered, order = entropy.sort(-1)
    return torch.zeros_like(order, dtype=torch.bool).scatter(
        1, order, ordered.cumsum(-1) - ordered <= bound
    )


@dataclass(frozen=True)
class Sampler:
    """DiffusionGemma's entropy-bound sampler; `alpha` > 0 fuses trace credit into the logits before
    entropies, draws and acceptance.

    Credit of (position, id): decays by `beta` a pass, and the likeliest id gains its probability to
    the power `gamma` (arXiv 2510.06133,
    Eq. 6); the logits get alpha * log(1 + credit) (Eq. 7). `raw`: the next pass sees the model's
    own logits, not the fused ones.
    A row ends when its likeliest ids stay the same from one pass to the next and their mean entropy
    is below `sure`.
    """

    bound: float = 0.1
    alpha: float = 0.0
    beta: float = 0.7
    gamma: float = 0.2
    raw: bool = False
    conditioned: bool = True
    steps: int = 48
    hot: float = 0.8
    cold: float = 0.4
    sure: float = 0.005

    def step(
        self, logits: Tensor, credit: Tensor, left: int, noise: list[torch.Generator]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next canvas, the likeliest ids, entropies and the processed logits, all of [rows,
        CANVAS]; `credit` changes in place.
        """
        top, ids = logits.max(-1, keepdim=True)
        chance = (top - logits.logsumexp(-1, keepdim=True)).exp()
        credit.mul_(self.beta).scatter_add_(2, ids, chance.pow(self.gamma))
        fused = logits + self.alpha * credit.log1p() if self.alpha else logits
        processed = fused / (self.cold + (self.hot - self.cold) * left / self.steps)
        logp = processed.log_softmax(-1)
        share = logp.exp()
        entropy = -(share * logp).sum(-1)
        uniform = torch.stack([torch.rand(CANVAS, 1, generator=generator) for generator in noise])
        drawn = torch.searchsorted(share.cumsum(-1), uniform)[..., 0].clamp(max=logits.shape[2] - 1)
        fresh = torch.stack(
            [torch.randint(logits.shape[2], (CANVAS,), generator=generator) for generator in noise]
        )
        return (
            torch.where(accepted(entropy, self.bound), drawn, fresh),
            processed.argmax(-1),
            entropy,
            processed,
        )


@torch.inference_mode()
def decode(
    net: Denoiser, size: int, rows: tuple[Tensor, Tensor, Tensor], sampler: Sampler, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The canvases [rows, CANVAS] and the passes [rows] of prompts; a row's draws do not depend on
    its neighbours.
    """
    tokens, answer, seen = rows
    noise = [torch.Generator().manual_seed(seed * 100_003 + i) for i in range(len(tokens))]
    canvas = torch.stack(
        [torch.randint(size, (CANVAS,), generator=generator) for generator in noise]
    )
    best, last = torch.full_like(canvas, -1), torch.zeros(len(tokens), CANVAS, size)
    credit, passes, open_ = (
        torch.zeros_like(last),
        torch.zeros(len(tokens), dtype=torch.long),
        torch.arange(len(tokens)),
    )
    for left in range(sampler.steps, 0, -1):
        state = (
            F.pad(last[open_], (0, net.trunk.embed.num_embeddings - size), value=-1e9)
            if sampler.conditioned and left < sampler.steps
            else None
        )
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(
                placed(tokens[open_], answer[open_], canvas[open_]),
                answer[open_],
                seen[open_],
                state,
            )[..., :size]
        credit_here = credit[open_]
        canvas[open_], drawn, entropy, processed = sampler.step(
            logits, credit_here, left, [noise[i] for i in open_]
        )
        credit[open_], last[open_] = credit_here, logits if sampler.raw else processed
        ended = (drawn == best[open_]).all(-1) & (entropy.mean(-1) < sampler.sure)
        best[open_] = drawn
        passes[open_] += 1
        open_ = open_[~ended]
        if not len(open_):
            break
    return best, passes


CURVES = {
    BASELINE: Sampler(),  # the sampler as it is
    "credit": Sampler(alpha=0.65),
    "credit, raw logits fed back": Sampler(alpha=0.65, raw=True),
    "credit without memory": Sampler(alpha=0.65, beta=0.0),
    "colder by a third": Sampler(hot=0.8 * 2 / 3, cold=0.4 * 2 / 3),
    "no self-conditioning": Sampler(conditioned=False),
    "no self-conditioning, credit": Sampler(conditioned=False, alpha=0.65),
}
SURE = (0.005, 0.02, 0.05)
HARD = ("discrete", "arithmetic")  # the two that the model does not answer without fail


def compare(out: Path, dev: int, held_out: int) -> None:
    """Score and passes of every curve over `SURE`; what is measured already is kept."""
    lm = load("pocket")
    assert isinstance(lm.model, Transformer)
    net = Denoiser(lm.model)
    net.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
    net.eval()
    items_by_split = {
        split: [
            (f, i, item)
            for f in HARD
            for i, item in enumerate(distinct_items(SYNTHETIC_TASKS[f], cast(Split, split), 0, n))
        ]
        for split, n in (("dev", dev), ("test", held_out))
    }
    rows_by_split = {
        split: rows_of(lm, [item for *_, item in split_items])[:3]
        for split, split_items in items_by_split.items()
    }
    file = out / "samples.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(record["split"], record["decoder"]) for record in records}
    for sure, (name, sampler), split in itertools.product(SURE, CURVES.items(), items_by_split):
        spec = spec_of(name, sure)
        if (split, spec) in known:
            continue
        best, passes = decode(net, lm.vocab.size, rows_by_split[split], replace(sampler, sure=sure))
        fresh = []
        for (family, i, item), ids, nfe in zip(
            items_by_split[split], best.tolist(), passes.tolist()
        ):
            end = next(
                (position for position, token in enumerate(ids) if token in lm.vocab.stop_ids),
                CANVAS,
            )
            right = SYNTHETIC_TASKS[family].score(lm.tokenizer.decode(ids[:end]), item)
            counts = {"nfe": nfe, "sequence_forwards": nfe, "tokens": end}
            fresh.append(
                {
                    "split": split,
                    "template": "plain",
                    "decoder": spec,
                    "family": family,
                    "item": i,
                    "right": right,
                    **counts,
                }
            )
        with file.open("a") as sink:
            sink.write("".join(json.dumps(record) + "\n" for record in fresh))
        records += fresh
    curves = [
        DecoderCurve(
            name, "sure", tuple(CurvePoint(str(sure), spec_of(name, sure)) for sure in SURE)
        )
        for name in CURVES
    ]
    report = compare_report(records, curves)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    for curve in report["curves"]:
        print(
            f"\n{curve['name']}: area {curve['area']}, beside {BASELINE} {curve['area_difference']}"
        )
        for point in curve["points"]:
            print(
                f"  sure {point['value']:>6}: {point['test']['score']} "
                f"{point['test']['nfe']} passes"
            )
        if curve["chosen"]:
            test = curve["chosen"]["test"]
            print(f"  chosen on dev: {curve['chosen']['value']}, {test['nfe']} passes")
            print(f"  difference {test['difference']}, times fewer {test['speedup']}")


def spec_of(name: str, sure: float) -> str:
    """How a setting is named in the samples; the sampler as it is, at its strictest, is what all
    are held to.
    """
    return REFERENCE if (name, sure) == (BASELINE, SURE[0]) else f"{name}: {sure}"


def main() -> None:
    """Train or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", choices=("train", "compare"))
    parser.add_argument("--out", type=Path, default=Path("runs/uniform"))
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--dev", type=int, default=50)
    parser.add_argument("--test", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.task == "train":
        train(args.out, args.seconds)
    else:
        compare(args.out, args.dev, args.test)


if __name__ == "__main__":
    main()
