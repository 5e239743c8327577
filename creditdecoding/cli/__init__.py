"""The console script `credit`. A module of this package is a command; `commands` names them all."""

from creditdecoding.cli.app import main

__all__ = ["main"]
