"""The tokenizer files of a released checkpoint, rebuilt from the metadata of a GGUF file.

GGUF names the rule that splits a text before byte pairs are merged (`tokenizer.ggml.pre`) but does
not hold it. The rules here are those of the released tokenizer.json files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.errors import CheckpointError

# Values of `tokenizer.ggml.token_type`.
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5

_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class SplitRule:
    """How a text is split into words before bytes are merged.

    `pattern` is the regular expression of the words (empty: GPT-2's), `digits` splits off every
    digit first, `nfc` normalises the text, `whole_words` takes a word that is in the vocabulary as
    it is.
    """

    pattern: str = ""
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False


_LLAMA3_RULE = SplitRule(_LLAMA3, whole_words=True)

RULES: Mapping[str, SplitRule] = {
    "gpt-2": SplitRule(),
    "smollm": SplitRule(digits=True),
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "qwen2": SplitRule(_QWEN2, nfc=True),
}


def tokenizer_files(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json, from the `tokenizer.*` fields of a GGUF file.

    Raises `CheckpointError`.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in RULES:
        raise CheckpointError(
            "this GGUF file's tokenizer is not implemented",
            given=f"{kind}, {pre}",
            allowed=", ".join(f"gpt2, {name}" for name in RULES),
            hint="Use a safetensors release of the model.",
        )
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        if name not in metadata:
            raise CheckpointError(
                f"the GGUF file has no {name}", hint="Use a safetensors release of the model."
            )
    texts, types = _vocabulary(metadata)
    added = list(_added_tokens(texts, types))
    rule = RULES[str(pre)]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if rule.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(_split_steps(rule))},
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": _byte_pairs(texts, metadata["tokenizer.ggml.merges"], rule),
    }
    return tokenizer, _settings(metadata, texts, added)


def _vocabulary(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Texts and types of all ids, without the unused ids at the end that pad the embedding."""
    texts = list(metadata["tokenizer.ggml.tokens"])
    types = list(metadata.get("tokenizer.ggml.token_type") or [1] * len(texts))
    while types and types[-1] == UNUSED:
        types.pop()
    return texts[: len(types)], types


def _added_tokens(texts: Sequence[str], types: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The tokens that are looked for in a text before it is split."""
    for token_id, (text, token_type) in enumerate(zip(texts, types)):
        if token_type in (CONTROL, USER_DEFINED):
            special = token_type == CONTROL
            yield {"id": token_id, "content": text, **_FLAGS, "special": special}


def _split_steps(rule: SplitRule) -> Iterator[dict[str, Any]]:
    if rule.digits:
        yield {"type": "Digits", "individual_digits": True}
    if rule.pattern:
        pattern = {"Regex": rule.pattern}
        yield {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    yield _byte_level(use_regex=not rule.pattern)


def _byte_level(use_regex: bool) -> dict[str, Any]:
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel", **flags}


def _byte_pairs(texts: Sequence[str], merges: Sequence[str], rule: SplitRule) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": rule.whole_words,
        "vocab": {text: token_id for token_id, text in enumerate(texts)},
        "merges": [merge.split(" ", 1) for merge in merges],
    }


def _settings(
    metadata: Mapping[str, Any], texts: Sequence[str], added: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """tokenizer_config.json: added tokens, roles and the chat template."""
    settings: dict[str, Any] = {
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"}
            for token in added
        },
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for ours, role in _ROLES.items():
        token_id = metadata.get(f"tokenizer.ggml.{ours}_token_id")
        if token_id is not None and 0 <= token_id < len(texts):
            settings[role] = texts[token_id]
    if metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = metadata["tokenizer.chat_template"]
    return settings
