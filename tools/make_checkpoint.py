"""Writes a tiny random checkpoint in a family's released format, to test loading without downloads.

    python -m tools.make_checkpoint FAMILY DIR [--bf16] [--shards 2] [--experts merged] [--seed 0]
        [--set num_key_value_heads=1]

FAMILY: llada, llada_moe, llada2, dream, sdar, sdar_moe, fast_dllm. Written from published facts; it
shares no code with the package that it tests. Any field of config.json can be changed; the tensors
follow it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.checkpoints import ling, llada, qwen
from tools.checkpoints.files import LAYOUTS, CheckpointSpec, write_json, write_weights
from tools.checkpoints.llada import (
    BOS,
    EOS,
    EOT,
    LLADA_8B,
    MASK,
    SPECIAL,
    llada_table,
    llada_tokenizer,
)

__all__ = [
    "BOS",
    "EOS",
    "EOT",
    "FAMILIES",
    "LLADA_8B",
    "MASK",
    "SPECIAL",
    "llada_table",
    "llada_tokenizer",
    "make",
    "write_json",
    "write_weights",
]

FAMILIES: dict[str, Callable[[Path, CheckpointSpec], None]] = {
    "llada": llada.write,
    "llada_moe": ling.write_llada_moe,
    "llada2": ling.write_llada2,
    "dream": qwen.write_dream,
    "sdar": qwen.write_sdar,
    "sdar_moe": qwen.write_sdar_moe,
    "fast_dllm": qwen.write_fast_dllm,
}


def make(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    bf16: bool = False,
    shards: int = 1,
    experts: str = "separate",
    **changes: Any,
) -> Path:
    """Write a tiny checkpoint of `family` to `folder` and return the folder.

    `changes` replace fields of its config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    FAMILIES[family](folder, CheckpointSpec(seed, bf16, shards, experts, changes))
    return folder


def _change(text: str) -> tuple[str, Any]:
    """FIELD=VALUE, the value in JSON."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FIELD=VALUE with a value in JSON"
        ) from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_checkpoint", description=__doc__.splitlines()[0]
    )
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16")
    parser.add_argument("--shards", type=int, default=1, help="weight files; above 1 with an index")
    parser.add_argument(
        "--experts", choices=LAYOUTS, default="separate", help="how the files hold the experts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set",
        type=_change,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of config.json",
    )
    arguments = parser.parse_args()
    folder = make(
        arguments.family,
        arguments.folder,
        seed=arguments.seed,
        bf16=arguments.bf16,
        shards=arguments.shards,
        experts=arguments.experts,
        **dict(arguments.set),
    )
    print(folder)


if __name__ == "__main__":
    main()
