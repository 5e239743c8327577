"""Peak memory of a step whose logits are never written, and of the same step that writes them.

    python -m benchmarks.fused_head [--dtype bfloat16] [--modes on,off] [--decoder margin]

Peaks are those of what a step allocates, by torch's own accounting, weights not counted. The
network is small, because its activations count too; its own peak, up to the hidden states, stands
beside.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch

from benchmarks.decoder_step import peak_bytes
from creditdecoding.cli.render import show, table
from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.transformer import Transformer, init_weights

CPU = torch.device("cpu")
POSITIONS, IDS = 2_048, 126_464
"""The case of the table: LLaDA's vocabulary, every position of one long block."""
PROMPT = list(range(10, 26))


@dataclass(frozen=True)
class StepPeak:
    """Bytes at the peak of a step and of the network alone, bytes of the logits, seconds of the
    processor.
    """

    step: int
    network: int
    logits: int
    seconds: float

    @property
    def share(self) -> float:
        """The peak in per cent of the logits."""
        return 100 * self.step / self.logits


@dataclass(frozen=True)
class HeadCase:
    """A request of one block of masks before a random network of one layer."""

    model: Transformer
    words: SpecialTokens
    decoder: str

    def request(self, mode: str) -> Request:
        """The request; `mode` is the engine's `fused_head`."""
        self.model.fused_head = mode
        config = GenerationConfig(
            decoder=self.decoder, gen_length=POSITIONS, block_length=POSITIONS
        )
        limit = self.model.config.max_length
        return new_request(0, PROMPT, config, self.words, limit, self.model.geometry)

    def peak(self, mode: str) -> StepPeak:
        """Measure the first step, in which credit's slots are read too."""
        model, request = self.model, self.request(mode)
        with torch.inference_mode():
            network = peak_bytes(lambda: model.hidden_states(request.canvas[None]))
        began = time.process_time()
        step = peak_bytes(lambda: denoise_step(model, [request], self.words, CPU))
        seconds = time.process_time() - began
        return StepPeak(step, network, POSITIONS * model.geometry.line_bytes, seconds)


def head_case(dtype: torch.dtype, decoder: str, hidden: int = 64) -> HeadCase:
    """A case with decided predictions."""
    config = ModelConfig(
        family="llada",
        hidden_size=hidden,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=hidden,
        intermediate_size=2 * hidden,
        embedding_rows=IDS,
        max_length=POSITIONS + len(PROMPT),
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        rope_full_precision=True,
        mask_token_id=IDS - 1,
        stop_token_ids=(IDS - 2,),
        pad_token_id=IDS - 2,
    )
    model = Transformer(config).eval()
    init_weights(model, torch.Generator().manual_seed(0))
    return HeadCase(model.to(dtype), SpecialTokens(IDS - 1, (IDS - 2,), IDS, str), decoder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--modes", default="on,off")
    parser.add_argument("--decoder", default="credit")
    parser.add_argument("--hidden", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    case = head_case(getattr(torch, args.dtype), args.decoder, args.hidden)
    rows = []
    for mode in args.modes.split(","):
        peak = case.peak(mode)
        sizes = [f"{size / 2**20:.1f}" for size in (peak.step, peak.network, peak.logits)]
        rows.append((mode, *sizes, f"{peak.share:.1f} %", f"{peak.seconds:.1f}"))
    columns = ("fused_head", "peak MiB", "network alone", "logits", "peak / logits", "s")
    title = f"{args.decoder}, {args.dtype}, {POSITIONS:,} positions, {IDS:,} ids"
    show(table(columns, rows, title))


if __name__ == "__main__":
    main()
