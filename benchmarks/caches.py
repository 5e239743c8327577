"""`make bench`: what a forward pass costs with each cache, on a LLaDA-shaped network of 20M
parameters.

One row, prompt 512, gen 256, blocks of 32, four tokens a pass, so that a block has eight passes.
The ideal is the time without a
cache times the ratio of floating-point operations, counted from the shapes of what was computed.
One thread, its processor time (a busy
machine matters less), passes of the caches interleaved, medians over passes of one size; prints a
table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict

import torch
from rich.console import Console
from rich.table import Table

from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.transformer import Transformer, init_weights

CASES = ("none", "prefix", "dual", "block-causal")


def network(causal_block: int | None) -> Transformer:
    """Random weights, 20M parameters."""
    config = ModelConfig(
        "llada",
        384,
        8,
        6,
        6,
        64,
        1536,
        2048,
        4096,
        500_000.0,
        1e-5,
        False,
        True,
        2,
        (1,),
        1,
        causal_block=causal_block,
    )
    model = Transformer(config).eval()
    init_weights(model, torch.Generator().manual_seed(0))
    return model


def operations(config: ModelConfig, computed: int, seen: int, read: int) -> int:
    """Floating-point operations of one pass: matrices over computed positions, attention over what
    is seen, head over read positions.
    """
    layer = (
        2
        * computed
        * (4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    )
    attention = 4 * computed * seen * config.num_heads * config.head_dim
    return (
        config.num_layers * (layer + attention)
        + 2 * read * config.hidden_size * config.embedding_rows
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=256)
    parser.add_argument("--block", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = SpecialTokens(2, (1,), 2048, lambda ids: "")
    prompt = torch.randint(
        3, 2048, (args.prompt,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    models, rows, stores = {}, {}, {}
    for case in CASES:
        model = models[case] = network(args.block if case == "block-causal" else None)
        cache = "block" if case == "block-causal" else case
        config = GenerationConfig(
            decoder="fixed:k=4",
            gen_length=args.gen,
            block_length=args.block,
            cache=cache,
            early_stop=False,
        )
        rows[case] = new_request(0, prompt, config, words, 4096, model.geometry)
        stores[case] = model.new_cache()
        stores[case].reserve(1, len(rows[case].canvas))
    passes: dict[str, list[tuple[int, int, float]]] = {case: [] for case in CASES}
    for case in CASES:  # warm up
        denoise_step(models[case], [rows[case]], words, torch.device("cpu"), cache=stores[case])
    while any(row.span < len(row.spans) for row in rows.values()):
        for case in CASES:
            row: Request = rows[case]
            first, last = row.computed_span
            work = operations(
                models[case].config,
                last - first,
                row.block_position.length,
                int(row.masked[slice(*row.block)].sum()),
            )
            began = time.process_time()
            (rows[case],), _ = denoise_step(
                models[case], [row], words, torch.device("cpu"), cache=stores[case]
            )
            passes[case].append((last - first, work, 1000 * (time.process_time() - began)))
    _print(args, passes, sum(w.numel() for w in models["none"].parameters()))


def _mean(each: list[tuple[int, int, float]]) -> float:
    """Mean milliseconds of a pass, each pass counted as the median of those that computed as many
    positions.
    """
    sizes: dict[int, list[float]] = defaultdict(list)
    for computed, _, ms in each:
        sizes[computed].append(ms)
    return sum(statistics.median(times) * len(times) for times in sizes.values()) / len(each)


def _print(
    args: argparse.Namespace, passes: dict[str, list[tuple[int, int, float]]], parameters: int
) -> None:
    means = {case: _mean(each) for case, each in passes.items()}
    rate = means["none"] / statistics.fmean(work for _, work, _ in passes["none"])
    table = Table(
        "cache",
        "ms / forward",
        "ideal ms",
        "ratio to ideal",
        "speed-up",
        title=f"prompt {args.prompt}, gen {args.gen}, block {args.block}, one thread",
    )
    found = {}
    for case, each in passes.items():
        mean, ideal = means[case], rate * statistics.fmean(work for _, work, _ in each)
        found[case] = {
            "ms": round(mean, 1),
            "ideal_ms": round(ideal, 1),
            "ratio": round(mean / ideal, 3),
        }
        table.add_row(
            case,
            f"{mean:.1f}",
            f"{ideal:.1f}",
            f"{mean / ideal:.2f}",
            f"{means['none'] / mean:.1f}x",
        )
    Console().print(table)
    print(json.dumps({"bench": "caches", "parameters": parameters, **vars(args), **found}))


if __name__ == "__main__":
    main()
