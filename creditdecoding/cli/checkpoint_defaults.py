"""Options that a user left open, as the checkpoint's generation_config.json has them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from creditdecoding.cli.flags import typed_options
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.lm import LM


def with_checkpoint_defaults(lm: LM, generation: GenerationConfig) -> GenerationConfig:
    """`generation` with the checkpoint's options where the user typed none. A threshold alone
    changes that of the checkpoint's decoder. Raises `OptionError` if it has none.
    """
    typed = typed_options()
    values = {name: value for name, value in lm.defaults.items() if name not in typed}
    if "decoder" in values and "threshold" in typed:
        values["decoder"] = _with_threshold(values["decoder"], generation.decoder)
    return dataclasses.replace(generation, **values)


def _with_threshold(decoder: Any, typed: Any) -> Any:
    """The checkpoint's decoder with the threshold of the one that was typed."""
    from creditdecoding import decoders

    settings = decoders.settings(decoder)
    if "threshold" not in settings:
        raise OptionError(
            "the checkpoint's own decoder has no threshold",
            given=settings["name"],
            hint="Name one that has: --decoder credit --threshold VALUE.",
        )
    threshold = decoders.settings(decoders.resolve(typed))["threshold"]
    return decoders.create(**{**settings, "threshold": threshold})
