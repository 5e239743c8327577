"""`make bench-peers`: our loop beside those of checkouts that you name, on one network.

    make bench-peers PEERS="--llada ~/LLaDA --fast-dllm ~/Fast-dLLM --dinfer ~/dInfer"

Runs code of these folders, so name only folders that you trust; nothing of theirs is in this
repository. Each loop runs over the embedded model: theirs gets its logits at every position, as
from their own networks, ours where it reads them. Answers are compared id by id, passes are
counted, times are processor time of one thread in interleaved pairs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.cli.render import show, table
from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, load
from creditdecoding.models.transformer import Transformer
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

GEN_LENGTH, BLOCK_LENGTH, THRESHOLD = 64, 32, 0.9


class PeerNetwork:
    """The network as the peers call it: ids [rows, length] in, logits at every position out."""

    def __init__(self, lm: LM) -> None:
        assert isinstance(lm.model, Transformer)
        self.model = lm.model
        self.size = lm.vocab.size
        self.mask_id = lm.vocab.mask_id
        self.device = lm.device
        self.passes = 0

    def __call__(self, ids: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
        self.passes += 1
        logits = self.model.logits(self.model.hidden_states(ids))
        logits[..., self.size :] = -torch.inf
        logits[..., self.mask_id] = -torch.inf
        return SimpleNamespace(logits=logits)


@dataclass(frozen=True)
class Rival:
    """A peer's loop, and the decoder of ours that does the same."""

    name: str
    generate: Callable[[PeerNetwork, Tensor], Tensor]
    decoder: str
    early_stop: bool


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"error: no such file: {path}. Name the folder of a checkout.")
    module = importlib.util.module_from_spec(spec)
    with importing(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def importing(path: Path) -> Iterator[None]:
    """Says in one line which package a peer's code lacks."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(
            f"error: {path} cannot be imported: {error}. Install what that checkout needs."
        ) from error


def llada_rivals(folder: Path, mask_id: int, stop_id: int) -> Iterator[Rival]:
    """LLaDA's generate.py: one token a step."""
    module = load_file(folder / "generate.py", "llada_generate")

    def generate(network: PeerNetwork, prompt: Tensor) -> Tensor:
        ids: Tensor = module.generate(
            network,
            prompt,
            steps=GEN_LENGTH,
            gen_length=GEN_LENGTH,
            block_length=BLOCK_LENGTH,
            mask_id=mask_id,
        )
        return ids

    yield Rival("LLaDA generate", generate, "fixed", early_stop=False)


def fast_dllm_rivals(folder: Path, mask_id: int, stop_id: int) -> Iterator[Rival]:
    """Fast-dLLM's generate.py without a cache: one token a step, and by threshold."""
    files = [
        path for part in ("llada", "v1/llada") if (path := folder / part / "generate.py").exists()
    ]
    path = files[0] if files else folder / "llada" / "generate.py"
    sys.path.insert(0, str(path.parent))
    module = load_file(path, "fast_dllm_generate")
    for decoder, threshold in (("fixed", None), (f"threshold:threshold={THRESHOLD}", THRESHOLD)):

        def generate(
            network: PeerNetwork, prompt: Tensor, threshold: float | None = threshold
        ) -> Tensor:
            ids: Tensor = module.generate(
                network,
                prompt,
                steps=GEN_LENGTH,
                gen_length=GEN_LENGTH,
                block_length=BLOCK_LENGTH,
                mask_id=mask_id,
                threshold=threshold,
            )[0]
            return ids

        yield Rival(f"Fast-dLLM {decoder}", generate, decoder, early_stop=False)


def dinfer_rivals(folder: Path, mask_id: int, stop_id: int) -> Iterator[Rival]:
    """dInfer's threshold and credit decoders, as shipped and without unrolling."""
    sys.path.insert(0, str(folder / "python"))
    with importing(folder):
        dinfer = importlib.import_module("dinfer.decoding")
    ids = {"temperature": 0.0, "mask_id": mask_id, "eos_id": stop_id}
    knobs = {"credit_alpha": 0.65, "decay_beta": 0.7, "boost_gamma": 0.2}
    threshold = dinfer.ThresholdParallelDecoder
    credit = dinfer.CreditThresholdParallelDecoder
    makers = {
        f"threshold:threshold={THRESHOLD}": lambda: threshold(threshold=THRESHOLD, **ids),
        f"credit:threshold={THRESHOLD}": lambda: credit(threshold=THRESHOLD, **ids, **knobs),
    }
    for decoder, make in makers.items():
        for unroll in (4, 1):

            def generate(
                network: PeerNetwork,
                prompt: Tensor,
                make: Callable[[], Any] = make,
                unroll: int = unroll,
            ) -> Tensor:
                runner = dinfer.BlockWiseDiffusionLLM(
                    network,
                    make(),
                    dinfer.BlockIteratorFactory(),
                    early_stop=True,
                    maximum_unroll=unroll,
                )
                answer: Tensor = runner.generate(
                    prompt, gen_length=GEN_LENGTH, block_length=BLOCK_LENGTH
                )
                return answer

            yield Rival(f"dInfer {decoder}, unroll {unroll}", generate, decoder, early_stop=True)


PEERS = {"llada": llada_rivals, "fast_dllm": fast_dllm_rivals, "dinfer": dinfer_rivals}


@dataclass(frozen=True)
class PeerResult:
    """A peer beside ours: equal answers, passes a question, and time theirs / ours (above 1: ours
    is faster).
    """

    name: str
    equal: str
    passes: float
    our_passes: float
    time_ratio: float


def answer_of(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids before the first end token."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))
    return list(ids[:end])


@torch.inference_mode()
def compare(lm: LM, rival: Rival, prompts: Sequence[Sequence[int]], pairs: int) -> PeerResult:
    """Both loops on each prompt, in turn."""
    network = PeerNetwork(lm)
    config = GenerationConfig(
        decoder=rival.decoder,
        gen_length=GEN_LENGTH,
        block_length=BLOCK_LENGTH,
        early_stop=rival.early_stop,
    )
    equal = passes = 0
    ratios = []
    for prompt in prompts:
        tensor = torch.tensor([list(prompt)])
        for pair in range(pairs):
            began = time.process_time()
            peer_ids = rival.generate(network, tensor)
            between = time.process_time()
            ours = lm.collect([lm.new_request(prompt, config)])[0]
            ratios.append((between - began) / (time.process_time() - between))
            if pair == 0:
                passes += ours.nfe
                ids = peer_ids[0].tolist()
                ids = ids[len(prompt) :] if ids[: len(prompt)] == list(prompt) else ids
                stop_ids = lm.vocab.stop_ids
                equal += answer_of(ids, stop_ids) == answer_of(ours.trace.tokens, stop_ids)
    return PeerResult(
        name=rival.name,
        equal=f"{equal} of {len(prompts)}",
        passes=round(network.passes / len(prompts) / pairs, 2),
        our_passes=round(passes / len(prompts), 2),
        time_ratio=round(statistics.median(ratios), 2),
    )


def main() -> None:
    """Compare with every peer that was named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    for name in PEERS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=Path, help="folder of a checkout")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench-peers.json"))
    args = parser.parse_args()
    folders = {name: getattr(args, name) for name in PEERS if getattr(args, name) is not None}
    if not folders:
        parser.error("no peer was named; give a folder, for example --llada ~/LLaDA")
    torch.set_num_threads(1)
    lm = load("pocket-v1", device="cpu", dtype="float32")
    items = [distinct_items(task, "test", 0, args.questions) for task in load_tasks("pocket")]
    prompts = [lm.encode(item.prompt) for one_of_each in zip(*items) for item in one_of_each]
    results = []
    for name, folder in folders.items():
        if not folder.is_dir():
            raise SystemExit(f"error: no such folder: {folder}. Name the folder of a checkout.")
        rivals = PEERS[name](folder.expanduser(), lm.vocab.mask_id, lm.vocab.stop_ids[0])
        results += [compare(lm, rival, prompts[: args.questions], args.pairs) for rival in rivals]
    cells = [
        (r.name, r.equal, f"{r.passes:g}", f"{r.our_passes:g}", f"{r.time_ratio:.2f}")
        for r in results
    ]
    columns = ("peer", "equal answers", "passes", "our passes", "time theirs / ours")
    show(table(columns, cells, f"pocket-v1, batch 1, one thread, {args.pairs} pairs a question"))
    args.out.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    print(f"also in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
