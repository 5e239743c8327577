"""Writes a tiny random checkpoint in a family's released file format, so that loaders are tested
without any download.

    python -m tools.make_checkpoint FAMILY DIR [--bf16] [--shards 2] [--experts merged] [--seed 0]
    [--set num_key_value_heads=1]

FAMILY: llada, llada_moe, llada2, dream, sdar, sdar_moe, fast_dllm. Written from the published facts
alone: it shares no code
with the package, which it tests. A field of the released config.json can be changed by name; the
tensor table follows it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.checkpoints import ling, llada, qwen
from tools.checkpoints.files import LAYOUTS, Request, write_json, write_weights
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

FAMILIES: dict[str, Callable[[Path, Request], None]] = {
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
    """Write a tiny checkpoint of `family` into `folder`, fields of its config.json changed by
    `changes`; returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    FAMILIES[family](folder, Request(seed, bf16, shards, experts, changes))
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
        "--experts", choices=LAYOUTS, default="separate", help="how the experts lie in the files"
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
    given = parser.parse_args()
    folder = make(
        given.family,
        given.folder,
        seed=given.seed,
        bf16=given.bf16,
        shards=given.shards,
        experts=given.experts,
        **dict(given.set),
    )
    print(folder)


if __name__ == "__main__":
    main()
