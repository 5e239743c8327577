"""Keys of config.json that no reader uses: harmless ones pass, all others are refused by name.

A key that nothing reads may change the forward pass (another mask, a soft cap, other experts), and
ignoring it would compute another network. A key passes only if it was read, if it is known to
concern training, generation or bookkeeping, or if it says nothing (null, false, 0, empty).
"""

from __future__ import annotations

import re
from collections import UserDict
from collections.abc import Iterable, Mapping
from typing import Any

from creditdecoding.errors import CheckpointError, OptionError, short_repr

# What transformers writes into any config.json, and what other parts of this package read.
_BOOKKEEPING = """
    _attn_implementation _attn_implementation_autoset _auto_class _commit_hash
    _moe_implementation _name_or_path architectures attn_implementation auto_map bos_token_id
    custom_pipelines dtype ep_size eos_token_id finetuning_task id2label label2id mask_token
    mask_token_id max_window_layers model_type moe_implementation name_or_path num_labels
    output_attentions output_hidden_states output_router_logits output_scores pad_token_id
    pretraining_tp problem_type return_dict return_dict_in_generate sep_token_id
    task_specific_params tokenizer_class torch_dtype torchscript transformers_version
    unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
"""

# What older releases of transformers wrote about generation. Decoding has its own options here.
_GENERATION = """
    alg alg_temp bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty
    do_sample early_stopping encoder_no_repeat_ngram_size eps exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix
    remove_invalid_values repetition_penalty steps suppress_tokens temperature top_k top_p
    typical_p
"""

# What only training uses. Dropout does nothing at inference.
_TRAINING = """
    attn_pdrop aux_loss_alpha chunk_size_feed_forward conplemenrary_mask debug embd_pdrop
    flash_attention fuse_cross_entropy gradient_checkpointing micro_forward precision
    resid_pdrop router_aux_loss_coef router_jitter_noise router_z_loss_coef seq_aux
    skip_checkpoint use_deepep
"""

HARMLESS = frozenset(f"{_BOOKKEEPING} {_GENERATION} {_TRAINING}".split())
"""Keys that change no logit in any family."""

_HARMLESS_PART = re.compile(
    r"(^|_)(train|training|optimizer|learning_rate|loss|dropout|init|initializer|dataset|wandb"
    r"|seed|license|author|comment|notes?)(_|$)"
)
"""Parts of names that tell training and bookkeeping."""

# Keys whose `false` or null is the unusual value: all families here have what they name.
_EXPECTED: Mapping[str, Any] = {
    "gated_mlp": True,
    "mlp_gated": True,
    "use_rms_norm": True,
    "use_rmsnorm": True,
    "use_rope": True,
    "use_rotary": True,
}

MAX_SHOWN = 60
"""Characters of a key or value that an error shows."""

_MAX_NAMED = 5


class RecordedConfig(UserDict[str, Any]):
    """A config that records which of its keys were read."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self.data[name]


def without_keys(raw: Mapping[str, Any], ignored: Iterable[str]) -> dict[str, Any]:
    """The config without the `ignored` keys. Raises `OptionError` for one that it does not have."""
    for name in ignored:
        if name not in raw:
            raise OptionError(
                "ignore_config_keys names a key that is not in config.json",
                given=name,
                hint="Leave it out: only keys that are there can be ignored.",
            )
    return {name: value for name, value in raw.items() if name not in ignored}


def check_unread_keys(config: RecordedConfig, family: str, unused: Iterable[str] = ()) -> None:
    """Refuse every key of `config` that was not read and may change the network.

    `unused` are keys that released files of this family have and its network does not use. Raises
    `CheckpointError`.
    """
    for name, expected in _EXPECTED.items():
        if name in config and name not in config.read and config.data[name] is not expected:
            raise _refusal({name: config.data[name]}, family)
    known = config.read | HARMLESS | _EXPECTED.keys() | set(unused)
    unknown = {
        name: value
        for name, value in config.data.items()
        if name not in known and not _says_nothing(value) and not _HARMLESS_PART.search(name)
    }
    if unknown:
        raise _refusal(unknown, family)


def _says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, str, list, dict)) and not value)


def _refusal(unknown: Mapping[str, Any], family: str) -> CheckpointError:
    named = list(unknown)[:_MAX_NAMED]
    keys = ", ".join(
        f"{name[:MAX_SHOWN]} = {short_repr(unknown[name], MAX_SHOWN)}" for name in named
    )
    more = f" and {len(unknown) - _MAX_NAMED} more" if len(unknown) > _MAX_NAMED else ""
    return CheckpointError(
        f"config.json has keys that may change the network and are not implemented: {keys}{more}",
        allowed=f"the keys of released {family} checkpoints",
        hint="Use a released checkpoint; if a key changes no logit, load with "
        f"--ignore-config-keys {named[0][:MAX_SHOWN]}.",
    )
