"""The console script `credit`. Importing this package registers every command.

Commands import heavy modules inside their functions, so that `credit --help` is fast.
"""

from creditdecoding.cli import (
    analyse,
    batch,
    chat,
    check_decoder,
    compare,
    decoders,
    demo,
    eval,
    export,
    generate,
    info,
    leaderboard,
    lengths,
    pav,
    renamed,
    search,
    serve,
    speedups,
    trace,
    train,
    tune,
)
from creditdecoding.cli.app import main

__all__ = [
    "analyse",
    "batch",
    "chat",
    "check_decoder",
    "compare",
    "decoders",
    "demo",
    "eval",
    "export",
    "generate",
    "info",
    "leaderboard",
    "lengths",
    "main",
    "pav",
    "renamed",
    "search",
    "serve",
    "speedups",
    "trace",
    "train",
    "tune",
]
