"""An operator's defaults, for requests that leave an option open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import load
from creditdecoding.lm import LM
from creditdecoding.options import from_mapping
from creditdecoding.server.parse import check_runnable, no_room


def resolve_defaults(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the decoder made from its name or file. Raises `OptionError`."""
    if "decoder" not in defaults:
        return dict(defaults)
    decoder, block_length = load(defaults["decoder"], controls=False)
    from_file = {} if block_length is None else {"block_length": block_length}
    return {**from_file, **defaults, "decoder": decoder}


def apply_defaults(lm: LM, defaults: Mapping[str, Any]) -> None:
    """Let the defaults override the checkpoint's. Raises `OptionError` for what the model cannot
    run.
    """
    values = {**lm.defaults, **defaults}
    config = from_mapping(GenerationConfig, values)
    check_runnable(lm, config)
    if config.gen_length >= lm.max_length:
        raise no_room(lm, "gen_length", config.gen_length)
    lm.defaults = values
