"""The cost of a forward pass with each cache, on a LLaDA-like network of 20M weights.

One request, prompt 512, gen 256, blocks of 32, four tokens a pass, so eight passes a block. The
ideal is the time without a cache times the ratio of floating-point operations, counted from the
shapes of what was computed. Processor time of one thread, passes of the caches interleaved, medians
over passes of one size. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from creditdecoding.cli.render import show, table
from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.transformer import Transformer, init_weights

CASES = {"none": "none", "prefix": "prefix", "dual": "dual", "block-causal": "block"}
"""Name -> cache; the last one is of a network that is causal over blocks."""

VOCABULARY = SpecialTokens(2, (1,), 2048, lambda ids: "")
MAX_LENGTH = 4096
CPU = torch.device("cpu")


def network(causal_block: int | None, hidden_size: int = 384) -> Transformer:
    """Random weights; 20M parameters, 92M with a hidden size of 832."""
    config = ModelConfig(
        family="llada",
        hidden_size=hidden_size,
        num_layers=8,
        num_heads=hidden_size // 64,
        num_kv_heads=hidden_size // 64,
        head_dim=64,
        intermediate_size=4 * hidden_size,
        embedding_rows=2048,
        max_length=MAX_LENGTH,
        rope_theta=500_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=False,
        rope_full_precision=True,
        mask_token_id=2,
        stop_token_ids=(1,),
        pad_token_id=1,
        causal_block=causal_block,
    )
    model = Transformer(config).eval()
    init_weights(model, torch.Generator().manual_seed(0))
    return model


@dataclass(frozen=True)
class PassCost:
    """One forward pass: positions computed, floating-point operations, milliseconds."""

    computed: int
    operations: int
    ms: float


class CacheCase:
    """A request decoded pass by pass with one cache."""

    def __init__(self, name: str, prompt: Sequence[int], gen: int, block: int) -> None:
        self.model = network(block if name == "block-causal" else None)
        config = GenerationConfig(
            decoder="fixed:k=4",
            gen_length=gen,
            block_length=block,
            cache=CASES[name],
            early_stop=False,
        )
        self.request: Request = new_request(
            0, prompt, config, VOCABULARY, MAX_LENGTH, self.model.geometry
        )
        self.cache = self.model.new_cache()
        self.cache.reserve(1, len(self.request.canvas))
        self.passes: list[PassCost] = []

    def step(self) -> Request:
        """The request after one more pass; it is not kept."""
        requests, _ = denoise_step(self.model, [self.request], VOCABULARY, CPU, cache=self.cache)
        return requests[0]

    def timed_step(self) -> None:
        """Decode one pass and note its cost."""
        first, last = self.request.computed_span
        operations = self._operations(last - first)
        started_at = time.process_time()
        self.request = self.step()
        ms = 1000 * (time.process_time() - started_at)
        self.passes.append(PassCost(last - first, operations, ms))

    def _operations(self, computed: int) -> int:
        """Of the next pass: matrices over computed positions, attention to all that are visible,
        the head over masked positions.
        """
        config = self.model.config
        size = config.hidden_size
        visible = self.request.block_position.length
        masked = int(self.request.masked[slice(*self.request.block)].sum())
        matrices = 2 * computed * (4 * size**2 + 3 * size * config.intermediate_size)
        attention = 4 * computed * visible * config.num_heads * config.head_dim
        head = 2 * masked * size * config.embedding_rows
        return config.num_layers * (matrices + attention) + head

    def mean_ms(self) -> float:
        """Mean milliseconds of a pass, each counted as the median of those of the same size."""
        by_size: dict[int, list[float]] = defaultdict(list)
        for cost in self.passes:
            by_size[cost.computed].append(cost.ms)
        total = sum(statistics.median(times) * len(times) for times in by_size.values())
        return total / len(self.passes)

    def mean_operations(self) -> float:
        """Mean floating-point operations of a pass."""
        return statistics.fmean(cost.operations for cost in self.passes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=256)
    parser.add_argument("--block", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 2048, (args.prompt,), generator=generator).tolist()
    cases = {name: CacheCase(name, prompt, args.gen, args.block) for name in CASES}
    for case in cases.values():
        case.step()  # warm up
    while not all(case.request.is_decoded for case in cases.values()):
        for case in cases.values():
            case.timed_step()
    report(args, cases)


def report(args: argparse.Namespace, cases: dict[str, CacheCase]) -> None:
    """Print a table and one JSON line."""
    base = cases["none"]
    ms_per_operation = base.mean_ms() / base.mean_operations()
    rows = []
    record = {}
    for name, case in cases.items():
        ms = case.mean_ms()
        ideal = ms_per_operation * case.mean_operations()
        speedup = base.mean_ms() / ms
        record[name] = {
            "ms": round(ms, 1),
            "ideal_ms": round(ideal, 1),
            "ratio": round(ms / ideal, 3),
        }
        rows.append((name, f"{ms:.1f}", f"{ideal:.1f}", f"{ms / ideal:.2f}", f"{speedup:.1f}x"))
    columns = ("cache", "ms / forward", "ideal ms", "ratio to ideal", "speed-up")
    title = f"prompt {args.prompt}, gen {args.gen}, block {args.block}, one thread"
    show(table(columns, rows, title))
    parameters = sum(weight.numel() for weight in base.model.parameters())
    print(json.dumps({"bench": "caches", "parameters": parameters, **vars(args), **record}))


if __name__ == "__main__":
    main()
