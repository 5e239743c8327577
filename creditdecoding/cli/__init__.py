"""The console script `credit`. Flags come from the option dataclasses (flags.py); heavy modules are
imported inside the commands.
"""

from creditdecoding.cli import batch, compare, export, pav, search, serve, train, tune
from creditdecoding.cli import eval as measure
from creditdecoding.cli import generate as ask
from creditdecoding.cli import info as show
from creditdecoding.cli import speedups as scaling
from creditdecoding.cli import trace_analyse as analyse
from creditdecoding.cli.app import main

__all__ = [
    "analyse",
    "ask",
    "batch",
    "compare",
    "export",
    "main",
    "measure",
    "pav",
    "scaling",
    "search",
    "serve",
    "show",
    "train",
    "tune",
]
