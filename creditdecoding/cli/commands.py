"""The commands by section, with a line each. A command's module is imported when it is needed, so
that `credit --help` imports none.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

SECTIONS = {
    "Use a model": {
        "generate": "Answer one prompt",
        "chat": "Talk to a model",
        "demo": "See several decoders answer the same questions",
        "serve": "Serve a model to OpenAI clients, with a live page at /",
        "batch": "Answer a file of requests",
        "pull": "Fetch a model by name, or unpack a GGUF file",
        "info": "Show a checkpoint without loading its weights",
    },
    "Measure": {
        "eval": "Score a model with a decoder on tasks",
        "compare": "Compare decoders over sweeps of their knobs",
        "tune": "Find a decoder's fastest setting that loses at most a bound",
        "trace": "Show which pass wrote which token of an answer",
        "decoders": "List the decoders, their rules and their knobs",
        "check-decoder": "Check the laws that every decoder keeps, for one of your own",
        "export": "Write a decoder with all its knobs to a file",
    },
    "Research": {
        "train": "Train a masked-diffusion model on tasks",
        "adapt": "Make a diffusion language model of a causal one",
        "search": "Search for an answer step by step under a verifier",
        "pav": "Process advantage verifiers: what a step of an answer is worth",
        "analyse": "Analyse traces: wasted work, wrong tokens, calibration",
        "lengths": "Measure how passes and score change with lengths",
        "speedups": "Measure what caches and compilation add to a decoder",
        "leaderboard": "Merge curves of methods and print AUP, the area under each",
    },
}
"""Title of a section -> command -> the first sentence of its help, the common commands first."""

GROUPS = {"pav": ("collect", "train", "measure", "provers", "compare", "rl")}
"""The commands of a group in the order in which they are used."""

WITHOUT_COMMAND = {"--help", "-h", "--version"}
NAMES = [name for commands in SECTIONS.values() for name in commands]
FORMER = "renamed"
"""The module of commands that are now called otherwise."""


def load_commands(arguments: Sequence[str] = ()) -> None:
    """Import the module of the command that the arguments name.

    All of them are imported where that is not enough: for suggestions, completion, and the file of
    --config, which may have options of every command.
    """
    needs_all = "_CREDIT_COMPLETE" in os.environ
    needs_all = needs_all or any(word.startswith("--config") for word in arguments)
    first = arguments[0] if arguments and not needs_all else ""
    if first in WITHOUT_COMMAND:
        return
    for name in [first] if first in NAMES else [*NAMES, FORMER]:
        importlib.import_module(f"creditdecoding.cli.{name.replace('-', '_')}")
