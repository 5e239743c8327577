"""The commands `credit pav ...`: process advantage verifiers (docs/research/verifiers.md)."""

from creditdecoding.cli.pav import collect, compare, measure, provers, rl, train

__all__ = ["collect", "compare", "measure", "provers", "rl", "train"]
