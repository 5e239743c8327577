"""Options that a checkpoint's generation_config.json gives to requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from creditdecoding import decoders
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.options import from_mapping

NO_DEFAULTS = ("temperature", "top_k", "top_p", "seed", "stop")
"""Options that are never taken from a checkpoint: decoding is greedy unless the user asks."""


def max_turns(generation: Mapping[str, Any]) -> int | None:
    """Turns of a conversation that a checkpoint was trained on, if generation_config.json says so.
    Raises `CheckpointError`.
    """
    turns = generation.get("max_turns")
    if turns is None or (type(turns) is int and turns >= 1):
        return turns
    what, hint = "generation_config.json: max_turns makes no sense", "Correct the file."
    raise CheckpointError(what, given=turns, allowed="a whole number from 1", hint=hint)


def checkpoint_defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The options of generation_config.json that have our names. Raises `CheckpointError`."""
    names = {field.name for field in dataclasses.fields(GenerationConfig)} - {*NO_DEFAULTS}
    defaults = {name: generation[name] for name in names if generation.get(name) is not None}
    try:
        if "decoder" in defaults:
            defaults["decoder"] = decoders.resolve(defaults["decoder"])
        from_mapping(GenerationConfig, defaults)
    except OptionError as error:
        raise CheckpointError(
            f"generation_config.json has an option that is not allowed ({error.what})",
            given=error.given,
            allowed=error.allowed,
            hint="Correct the file.",
        ) from error
    return defaults
