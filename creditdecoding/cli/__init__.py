"""The console script `credit`. Flags come from the option dataclasses (flags.py); heavy modules are imported inside the commands.

Leaves to others: everything but arguments, printing and exit codes.
"""

from creditdecoding.cli import analyse, ask, batch, compare, export, measure, pav, scaling, search, serve, show, train, tune
from creditdecoding.cli.app import main

__all__ = ["analyse", "ask", "batch", "compare", "export", "main", "measure", "pav", "scaling", "search", "serve", "show", "train", "tune"]
