"""Keys of config.json that no reader asks for: the harmless ones pass, every other is refused by
name.

A reader takes what it knows of a network from config.json. A key that nothing reads may change the
forward pass (another mask,
a soft cap, experts chosen in another way), and a network computed without it is another network. So
a key passes only if it was
read, is known to be of training, generation or bookkeeping, or says nothing (null, false, 0,
empty).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from creditdecoding.errors import CheckpointError, OptionError

# What transformers writes into any config.json, and what is read by other parts of this package.
_BOOKKEEPING = """
    _attn_implementation _attn_implementation_autoset _auto_class _commit_hash _moe_implementation _name_or_path architectures
    attn_implementation auto_map bos_token_id custom_pipelines dtype ep_size eos_token_id finetuning_task id2label label2id
    mask_token mask_token_id max_window_layers model_type moe_implementation name_or_path num_labels output_attentions
    output_hidden_states output_router_logits output_scores pad_token_id pretraining_tp problem_type return_dict
    return_dict_in_generate sep_token_id task_specific_params tokenizer_class torch_dtype torchscript transformers_version
    unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
"""

# What older releases of transformers wrote of generation. Decoding has options of its own here.
_GENERATION = """
    alg alg_temp bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size eps exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
    max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix
    remove_invalid_values repetition_penalty steps suppress_tokens temperature top_k top_p typical_p
"""

# What only training looks at, beside the words below. Dropout does nothing where nothing is
# learned.
_TRAINING = """
    attn_pdrop aux_loss_alpha chunk_size_feed_forward conplemenrary_mask debug embd_pdrop flash_attention fuse_cross_entropy
    gradient_checkpointing micro_forward precision resid_pdrop router_aux_loss_coef router_jitter_noise router_z_loss_coef seq_aux
    skip_checkpoint use_deepep
"""

HARMLESS = frozenset(f"{_BOOKKEEPING} {_GENERATION} {_TRAINING}".split())
"""Keys that change no logit in any family."""

_WORDS = re.compile(
    r"(^|_)(train|training|optimizer|learning_rate|loss|dropout|init|initializer|dataset|wandb|seed|license|author|comment|notes?)(_|$)"
)

# Keys whose `false` (or null) is the unusual value: all families here have what they name.
_EXPECTED: Mapping[str, Any] = {
    "gated_mlp": True,
    "mlp_gated": True,
    "use_rms_norm": True,
    "use_rmsnorm": True,
    "use_rope": True,
    "use_rotary": True,
}

_SHOWN = 60
_NAMED = 5


class RecordedConfig(Mapping[str, Any]):
    """A config that remembers which of its keys were asked for."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self.raw[name]

    def __contains__(self, name: object) -> bool:
        return name in self.raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


def without_keys(raw: Mapping[str, Any], ignored: Iterable[str]) -> dict[str, Any]:
    """The config as if it had none of the `ignored` keys. Raises `OptionError` for one that it has
    not.
    """
    absent = [name for name in ignored if name not in raw]
    if absent:
        hint = "Leave it out; config.json is read key by key, and only its own keys can be ignored."
        raise OptionError(
            "ignore_config_keys names a key that config.json has not", given=absent[0], hint=hint
        )
    return {name: value for name, value in raw.items() if name not in ignored}


def check_unread_keys(config: RecordedConfig, family: str, unused: Iterable[str] = ()) -> None:
    """Refuse every key of `config` that was not read, is not harmless and says something. Raises
    `CheckpointError`.

    `unused` names keys that the released files of this family have and its network does not use.
    """
    for name, expected in _EXPECTED.items():
        if name in config and name not in config.read and config.raw[name] is not expected:
            raise _refusal({name: config.raw[name]}, family)
    known = config.read | HARMLESS | _EXPECTED.keys() | set(unused)
    unknown = {
        name: value
        for name, value in config.raw.items()
        if name not in known and not _harmless(name, value)
    }
    if unknown:
        raise _refusal(unknown, family)


def _harmless(name: str, value: Any) -> bool:
    """Whether a key says nothing, or its name says that it is of training or bookkeeping."""
    neutral = (
        value is None
        or value is False
        or (isinstance(value, (int, float, str, list, dict)) and not value)
    )
    return neutral or _WORDS.search(name) is not None


def _refusal(unknown: Mapping[str, Any], family: str) -> CheckpointError:
    shown = ", ".join(
        f"{name[:_SHOWN]} = {_short(value)}" for name, value in list(unknown.items())[:_NAMED]
    )
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    first = next(iter(unknown))[:_SHOWN]
    return CheckpointError(
        f"config.json has keys that may change the network and are not implemented: {shown}{more}",
        allowed=f"the keys of released {family} checkpoints",
        hint=f"Use a released checkpoint; if a key changes no logit, load with --ignore-config-keys {first}.",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
