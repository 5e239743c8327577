"""What decoding costs on a GPU: time outside of the model, waits for the device, and the head.

    python -m benchmarks.device [--device cuda] [--sizes 1B,8B] [--batches 1,8,32] [--out FILE]

Random networks with LLaDA's shapes, in bfloat16. Prints four tables and writes JSON with the name
of the device:

- the share of the wall clock outside of forward passes, for each size, batch and decoder, with and
  without CUDA graphs;
- whether a step of each decoder waits for the device more than once, as CUDA itself counts;
- the statistics of logits that are never written beside the bare product of the same size;
- a layer of experts (LLaDA-MoE's: 64, of which 8 are chosen) in each way to compute it.

`--sizes tiny --device cpu` runs the same code on any machine, in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F

from creditdecoding.cli.render import show, table
from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.eval.model_timer import ModelTimer
from creditdecoding.models.moe import has_grouped_product, in_blocks, looped, multiplied
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.ops.head_logits import HeadLogits

PROMPT_LENGTH = 128
GEN_LENGTH = 64
LLADA_IDS = 126_464
HEAD_POSITIONS = (512, 2_048)
EXPERT_POSITIONS = (32, 512, 2_048)


@dataclass(frozen=True)
class NetworkSize:
    """Width, layers, width of the feed-forward part, and ids of a network."""

    hidden: int
    layers: int
    intermediate: int
    ids: int = LLADA_IDS


SIZES = {
    "tiny": NetworkSize(64, 2, 128, 1_152),
    "1B": NetworkSize(2_048, 16, 5_504),
    "8B": NetworkSize(4_096, 32, 12_288),
}
"""8B has LLaDA-8B's shape; 1B half its width and layers."""
DECODERS = ("fixed", "threshold", "credit")


@dataclass(frozen=True)
class ExpertSize:
    """Width of a layer of experts, and how many there are and are chosen."""

    hidden: int
    intermediate: int
    experts: int
    chosen: int


EXPERTS = {"tiny": ExpertSize(64, 32, 8, 2), "LLaDA-MoE": ExpertSize(2_048, 1_024, 64, 8)}


@dataclass(frozen=True)
class LoopShare:
    """One row of the first table; seconds are of a whole run, a pass is one of its forwards."""

    size: str
    batch: int
    decoder: str
    graphs: bool
    outside_share: float
    seconds: float


@dataclass(frozen=True)
class StepWaits:
    """How often one step of a decoder made the host wait, as CUDA reports it."""

    decoder: str
    waits: int


@dataclass(frozen=True)
class HeadTime:
    """Milliseconds of the head's statistics and of the bare product, medians of pairs."""

    positions: int
    statistics_ms: float
    product_ms: float

    @property
    def speed(self) -> float:
        """The product's time over ours: 1 is as fast."""
        return self.product_ms / self.statistics_ms


@dataclass(frozen=True)
class ExpertTime:
    """Milliseconds of a layer of experts, the median of some calls."""

    positions: int
    way: str
    ms: float


def random_network(size: NetworkSize, device: torch.device) -> Transformer:
    """A network with random weights, made on the device."""
    config = ModelConfig(
        family="llada",
        hidden_size=size.hidden,
        num_layers=size.layers,
        num_heads=max(1, size.hidden // 128),
        num_kv_heads=max(1, size.hidden // 128),
        head_dim=min(128, size.hidden),
        intermediate_size=size.intermediate,
        embedding_rows=size.ids,
        max_length=4_096,
        rope_theta=500_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=False,
        rope_full_precision=True,
        mask_token_id=size.ids - 1,
        stop_token_ids=(size.ids - 2,),
        pad_token_id=size.ids - 2,
    )
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(torch.bfloat16).to_empty(device=device).eval()
    with torch.inference_mode():
        init_weights(model, torch.Generator(device).manual_seed(0))
    return model


@dataclass(frozen=True)
class PlacedModel:
    """A network, and the device that it is on."""

    model: Transformer
    device: torch.device

    @property
    def words(self) -> SpecialTokens:
        """The ids that the loop has to know."""
        config = self.model.config
        assert config.mask_token_id is not None
        return SpecialTokens(
            config.mask_token_id, config.stop_token_ids, config.embedding_rows, str
        )

    def requests(self, batch: int, decoder: str) -> list[Request]:
        """Requests with random prompts."""
        config = GenerationConfig(decoder=decoder, gen_length=GEN_LENGTH, early_stop=False)
        generator = torch.Generator().manual_seed(0)
        most = self.model.config.embedding_rows - 2
        prompts = torch.randint(3, most, (batch, PROMPT_LENGTH), generator=generator).tolist()
        limit = self.model.config.max_length
        geometry = self.model.geometry
        return [
            new_request(number, prompt, config, self.words, limit, geometry)
            for number, prompt in enumerate(prompts)
        ]

    def events(self, batch: int, decoder: str) -> Iterator[object]:
        """What decoding such requests yields."""
        requests = self.requests(batch, decoder)
        return denoise(self.model, requests, self.words, self.device, batch)


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def loop_share(placed: PlacedModel, batch: int, decoder: str) -> tuple[float, float]:
    """The share of the wall clock outside of forward passes, and seconds, of a second run."""
    for _ in placed.events(batch, decoder):
        pass
    events = placed.events(batch, decoder)
    synchronize(placed.device)
    began = time.perf_counter()
    with ModelTimer(placed) as timer:
        for _ in timer.over(events):
            pass
        synchronize(placed.device)
        seconds = time.perf_counter() - began
        share = timer.outside_share
    assert share is not None
    return share, seconds


def loop_shares(
    device: torch.device,
    sizes: Sequence[str],
    batches: Sequence[int],
    graphs: Sequence[bool],
) -> Iterator[LoopShare]:
    """The rows of the first table."""
    for name, with_graphs in product(sizes, graphs):
        placed = PlacedModel(random_network(SIZES[name], device), device)
        if with_graphs:
            placed.model.compile_layers(dynamic=False, pads_passes=True)
        for batch, decoder in product(batches, DECODERS):
            share, seconds = loop_share(placed, batch, decoder)
            yield LoopShare(name, batch, decoder, with_graphs, round(share, 4), round(seconds, 4))


@torch.inference_mode()
def step_waits(placed: PlacedModel, decoder: str) -> StepWaits:
    """Count the waits of the second step, by CUDA's own warnings."""
    requests = placed.requests(4, decoder)
    requests, _ = denoise_step(placed.model, requests, placed.words, placed.device)
    synchronize(placed.device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            denoise_step(placed.model, requests, placed.words, placed.device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return StepWaits(decoder, len(waits))


@torch.inference_mode()
def head_time(size: NetworkSize, positions: int, device: torch.device, pairs: int) -> HeadTime:
    """Time the statistics of unwritten logits and the product that would write them, in turn."""
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(positions, size.hidden, generator=generator, device=device)
    weight = torch.randn(size.ids, size.hidden, generator=generator, device=device)
    hidden, weight = hidden.bfloat16(), (0.02 * weight).bfloat16()
    head = HeadLogits(hidden, weight)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(pairs + 1):
        ours.append(_milliseconds(head.mass, device))
        bare.append(_milliseconds(lambda: F.linear(hidden, weight), device))
    return HeadTime(positions, statistics.median(ours[1:]), statistics.median(bare[1:]))


@torch.inference_mode()
def expert_times(
    size: ExpertSize, positions: int, device: torch.device, repeats: int
) -> Iterator[ExpertTime]:
    """Time each way to compute experts on the same inputs. The host waits in `looped` alone."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (size.experts, 2 * size.intermediate, size.hidden)
    gate_up = 0.02 * torch.randn(shape, generator=generator, device=device)
    down = 0.02 * torch.randn(
        size.experts, size.hidden, size.intermediate, generator=generator, device=device
    )
    rows = positions * size.chosen
    inputs = torch.randn(rows, size.hidden, generator=generator, device=device)
    expert = torch.randint(size.experts, (rows,), generator=generator, device=device).sort().values
    weights = gate_up.bfloat16(), down.bfloat16()
    ways = {"looped": looped, "in_blocks": in_blocks}
    if has_grouped_product(weights[0]):
        ways["multiplied"] = multiplied
    for name, way in ways.items():
        call = partial(way, inputs.bfloat16(), expert, *weights)
        times = [_milliseconds(call, device) for _ in range(repeats + 1)]
        yield ExpertTime(positions, name, statistics.median(times[1:]))


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The wall clock of a call, to the end of its work on the device."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return 1000 * (time.perf_counter() - began)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def show_all(
    shares: list[LoopShare],
    waits: list[StepWaits],
    heads: list[HeadTime],
    experts: list[ExpertTime],
) -> None:
    """Print the tables."""
    cells = [
        (
            row.size,
            str(row.batch),
            row.decoder,
            "yes" if row.graphs else "no",
            f"{row.outside_share:.1%}",
            f"{row.seconds:.2f}",
        )
        for row in shares
    ]
    columns = ("network", "batch", "decoder", "graphs", "outside of the model", "s")
    show(table(columns, cells, f"{PROMPT_LENGTH} + {GEN_LENGTH} positions"))
    if waits:
        show(table(("decoder", "waits a step"), [(w.decoder, str(w.waits)) for w in waits]))
    times = [
        (str(h.positions), f"{h.statistics_ms:.3f}", f"{h.product_ms:.3f}", f"{h.speed:.2f}")
        for h in heads
    ]
    show(table(("positions", "statistics ms", "product ms", "product / statistics"), times))
    rows = [(str(e.positions), e.way, f"{e.ms:.3f}") for e in experts]
    show(table(("positions", "experts", "ms"), rows))


def _numbers(text: str) -> list[int]:
    """Numbers above 0, separated by commas."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: numbers above 0, with commas")
    return [int(part) for part in parts]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", default="1B,8B", help="of tiny, 1B, 8B, with commas")
    parser.add_argument("--batches", type=_numbers, default="1,8,32")
    parser.add_argument("--graphs", choices=("both", "without", "with"), default="both")
    parser.add_argument("--pairs", type=int, default=20, help="of the head's times")
    parser.add_argument("--out", type=Path, default=Path("device.json"))
    args = parser.parse_args()
    sizes = args.sizes.split(",")
    if unknown := [name for name in sizes if name not in SIZES]:
        parser.error(f"no such size: {unknown[0]}; allowed: {', '.join(SIZES)}")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu --sizes tiny tries the code")
    graphs = {"both": (False, True), "without": (False,), "with": (True,)}[args.graphs]
    shares = list(loop_shares(device, sizes, args.batches, graphs))
    waits: list[StepWaits] = []
    if device.type == "cuda":
        placed = PlacedModel(random_network(SIZES["tiny"], device), device)
        waits = [step_waits(placed, decoder) for decoder in DECODERS]
    largest = max((SIZES[name] for name in sizes), key=lambda size: size.hidden)
    heads = [head_time(largest, count, device, args.pairs) for count in HEAD_POSITIONS]
    expert_size = EXPERTS["tiny" if sizes == ["tiny"] else "LLaDA-MoE"]
    experts = [
        row
        for count in EXPERT_POSITIONS
        for row in expert_times(expert_size, count, device, args.pairs)
    ]
    show_all(shares, waits, heads, experts)
    record = {
        "device": device_name(device),
        "torch": torch.__version__,
        "shares": [asdict(row) for row in shares],
        "waits": [asdict(row) for row in waits],
        "heads": [asdict(row) for row in heads],
        "experts": [asdict(row) for row in experts],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
