"""Wrap any network as an `LM`: a transformers model, a fine-tune, one in PEFT, or a function.

lm = wrap(model, tokenizer)
print(lm.generate("The capital of Peru is", raw=True).text)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.integrations.external_denoiser import (
    check_mask_id,
    find_denoiser,
    float_parameter,
)
from creditdecoding.lm import LM
from creditdecoding.models import known_config
from creditdecoding.models.transformer import Transformer
from creditdecoding.text.tokenizer import (
    Tokenizer,
    checkpoint_control_ids,
    declared_control_ids,
    from_backend,
)

_LENGTH_NAMES = ("max_position_embeddings", "max_sequence_length", "n_positions", "max_seq_len")
_TOKENIZER_METHODS = ("encode", "decode", "get_vocab", "get_added_vocab")


def wrap(
    model: Any,
    tokenizer: Any = None,
    *,
    mask_token_id: int | None = None,
    stop_token_ids: Sequence[int] | None = None,
    control_token_ids: Sequence[int] = (),
    logit_shift: bool | None = None,
    causal_block: int | None = None,
    mask_kind: str = "auto",
    max_length: int | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
) -> LM:
    """An `LM` over a network from ids [rows, length], and an attention mask if it takes one, to
    logits [rows, length, vocab].

    `tokenizer` is a transformers tokenizer, one of ours, or None for a model of ids alone (the `LM`
    then takes and gives ids and events, no text). What is not given is read from the model's config
    and the tokenizer. `control_token_ids` are never written, as the control tokens of the tokenizer
    are not. `logit_shift`: logits for position i are at i-1 (Dream). `causal_block`: attention is
    two-way inside blocks of this length and causal between them. `mask_kind`: see
    `ExternalDenoiser`. `device` is where a function takes its ids; a module decides itself. Raises
    `OptionError` and `ModelError`.
    """
    facts = _Facts.read(model, mask_token_id)
    words = _tokenizer(tokenizer, facts, stop_token_ids)
    if mask_token_id is not None and mask_token_id != words.mask_id:
        raise OptionError(
            "mask_token_id is not the tokenizer's",
            given=mask_token_id,
            allowed=words.mask_id,
            hint="Leave mask_token_id out, or give the tokenizer that belongs to it.",
        )
    where = float_parameter(model).device if device is None else torch.device(device)
    net: Any = model
    if isinstance(model, Transformer):
        _check_own_model(model.config, words.mask_id, logit_shift, causal_block, mask_kind)
        size = model.config.embedding_rows
    else:
        net, size = find_denoiser(
            model,
            words.mask_id,
            mask_kind=mask_kind,
            logit_shift=facts.logit_shift if logit_shift is None else logit_shift,
            causal_block=facts.causal_block if causal_block is None else causal_block,
            device=where,
        )
    words = _fit_to_logits(words, size, stop_token_ids)
    words = _add_control_ids(words, (*control_token_ids, *facts.control_ids(tokenizer)))
    longest = max_length or _max_length(model, facts, words.backend)
    return LM(net, words, max_length=longest, device=where, batch_size=batch_size)


@dataclass(frozen=True)
class _Facts:
    """What a network's config says: as one of our families (`known`), or in its raw fields."""

    config: Any
    known: ModelConfig | None
    mask_id: int | None

    @classmethod
    def read(cls, model: Any, mask_id: int | None) -> _Facts:
        """Read a network's config; `mask_id` replaces that of the config."""
        config = getattr(model, "config", None)
        if isinstance(model, Transformer):
            known: ModelConfig | None = model.config
        else:
            to_dict = getattr(config, "to_dict", None)
            raw = to_dict() if callable(to_dict) else {}
            known = known_config(raw if isinstance(raw, Mapping) else {})
        if mask_id is None and known is not None:
            mask_id = known.mask_token_id
        if mask_id is None:
            mask_id = getattr(config, "mask_token_id", None)
        return cls(config, known, mask_id)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        if self.known is not None:
            return self.known.stop_token_ids
        stops = getattr(self.config, "stop_token_ids", None)
        if stops is None:
            stops = getattr(self.config, "eos_token_id", None)
        if stops is None:
            return ()
        return (stops,) if isinstance(stops, int) else tuple(stops)

    @property
    def logit_shift(self) -> bool:
        """Whether logits for position i are at i-1."""
        return self.known is not None and self.known.logit_shift

    @property
    def causal_block(self) -> int | None:
        """The length of the blocks of a block-causal network."""
        return None if self.known is None else self.known.causal_block

    def control_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Control tokens that the config names; without a tokenizer also those of the checkpoint's
        files, if they are on this machine.
        """
        declared = declared_control_ids(self.config)
        name = getattr(self.config, "_name_or_path", "")
        if tokenizer is not None or not name or not isinstance(name, str):
            return declared
        return (*declared, *checkpoint_control_ids(name))


def _tokenizer(backend: Any, facts: _Facts, stop_ids: Sequence[int] | None) -> Tokenizer:
    """A tokenizer with the ids that decoding needs. Without one its size stays 0 until the logits
    are seen.
    """
    if isinstance(backend, Tokenizer):
        tokenizer = backend
    elif backend is None:
        if facts.mask_id is None:
            raise OptionError(
                "this model does not say what its mask is",
                hint="Give the mask's id (mask_token_id; mask_id in LLaDA's generate).",
            )
        tokenizer = Tokenizer(None, facts.mask_id, tuple(sorted(facts.stop_ids)), 0)
    else:
        tokenizer = _adopt_tokenizer(backend, facts)
    if stop_ids is None:
        return tokenizer
    return replace(tokenizer, stop_ids=tuple(sorted(stop_ids)))


def _adopt_tokenizer(backend: Any, facts: _Facts) -> Tokenizer:
    if not all(callable(getattr(backend, name, None)) for name in _TOKENIZER_METHODS):
        raise OptionError(
            "not a tokenizer",
            given=type(backend).__name__,
            allowed="a transformers tokenizer",
            hint="See docs/guide/your-model.md.",
        )
    try:
        return from_backend(backend, facts.mask_id, facts.stop_ids)
    except CheckpointError as error:
        raise OptionError(
            error.what,
            given=error.given,
            allowed=error.allowed,
            hint="Give mask_token_id, an id that the tokenizer has.",
        ) from error


def _check_own_model(
    config: ModelConfig,
    mask_id: int,
    logit_shift: bool | None,
    causal_block: int | None,
    mask_kind: str,
) -> None:
    """Raise `OptionError` for what contradicts the config of a network of this package."""
    if mask_kind != "auto":
        raise OptionError(
            "mask_kind is not chosen for a network of this package",
            given=mask_kind,
            allowed="auto",
            hint="Leave mask_kind out.",
        )
    arguments = {"logit_shift": logit_shift, "causal_block": causal_block}
    if config.mask_token_id is not None:
        arguments["mask_token_id"] = mask_id
    for name, value in arguments.items():
        expected = getattr(config, name)
        if value is not None and value != expected:
            raise OptionError(
                f"{name} is not this model's",
                given=value,
                allowed=expected,
                hint=f"Leave {name} out.",
            )


def _fit_to_logits(words: Tokenizer, size: int, stop_ids: Sequence[int] | None) -> Tokenizer:
    """The tokenizer of a network whose logits have `size` ids. End tokens outside are left out,
    since defaults of a config may be outside.
    """
    words = replace(words, size=words.size or size)
    if words.size > size:
        raise OptionError(
            "the tokenizer has more ids than the model's logits",
            given=words.size,
            allowed=f"at most {size}",
            hint="Check the two.",
        )
    check_mask_id(words.mask_id, words.size)
    if stop_ids is not None and not all(0 <= i < size for i in stop_ids):
        raise OptionError(
            "stop_token_ids outside the vocabulary",
            given=tuple(stop_ids),
            allowed=f"below {size}",
            hint="Correct them.",
        )
    return replace(words, stop_ids=tuple(i for i in words.stop_ids if i < size))


def _add_control_ids(words: Tokenizer, control_ids: Sequence[int]) -> Tokenizer:
    control = {*words.control_ids, *control_ids} - {words.mask_id, *words.stop_ids}
    known = sorted(i for i in control if 0 <= i < words.size)
    return replace(words, control_ids=tuple(known))


def _max_length(model: Any, facts: _Facts, backend: Any) -> int:
    """The positions that config, tokenizer and table of positions allow; no limit if none says."""
    if facts.known is not None:
        limits: list[Any] = [facts.known.max_length]
    else:
        limits = [getattr(facts.config, name, None) for name in _LENGTH_NAMES]
    limits.append(getattr(backend, "model_max_length", None))
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:
            # RoBERTa counts positions from its padding id on.
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min([n for n in limits if isinstance(n, int) and n > 0], default=sys.maxsize)
