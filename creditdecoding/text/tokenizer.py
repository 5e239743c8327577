"""Text <-> ids through transformers, never with remote code; special ids are read from the
checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import (
    AddedToken,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from creditdecoding.checkpoint import check_file, read_json, read_optional, read_text
from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.text.chat_template import LimitError, render
from creditdecoding.text.prompts import Message, require_valid_unicode
from creditdecoding.text.special_names import PlainTextEncoder, SpecialNames

# Tokens with which some models change the length of a text (LLaDA2.2, DreamOn), and further masks:
# orders to a
# decoding loop, in brackets of any kind. `_MARKED` tells them from words where a vocabulary has no
# list of added tokens.
_CONTROL = re.compile(
    r"[\W_]+(mask|mdm_mask|delete|split|expand|insert)([\W_]?token)?[\W_]+", re.IGNORECASE
)
_MARKED = re.compile("<[|\uff5c].*[|\uff5c]>")


@dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer with the ids that decoding needs.

    `mask_id` fills the canvas; `stop_ids` end an answer (end of text, end of turn); `size` counts
    the ids that mean
    something: rows of the embedding from there on are padding and never written. `control_ids` are
    orders to a decoding
    loop (delete, split, expand) and never text.
    """

    backend: Any
    mask_id: int
    stop_ids: tuple[int, ...]
    size: int
    control_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is added. Special tokens written out in it become their ids: for
        text of our own.
        """
        return list(self._known.encode(require_valid_unicode(text), add_special_tokens=False))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text that somebody typed: the name of a special token is letters like any
        others.

        Raises `OptionError` for tokenizers that cannot read such a name as letters.
        """
        ids = self._letters.encode(text) if self._names.inside(text) else self.encode(text)
        wrong = next((i for i in ids if i in self._orders), None)
        if wrong is not None:
            what = "this tokenizer does not read the name of a special token as plain text"
            raise OptionError(what, given=self.token_text(wrong), hint="Take it out of the text.")
        return ids

    def encode_chat(self, messages: Sequence[Message], parse_special: bool = False) -> list[int]:
        """Ids of a conversation in the checkpoint's chat template, ready for the answer.

        What the messages say is plain text, as `plain` reads it, unless `parse_special`; the
        template's own special tokens are special. Raises `OptionError` if there is no template or
        it refuses.
        """
        if parse_special:
            return self.encode(self._rendered(messages))
        return self.encode_marked(self.render_marked(messages))

    def render_marked(self, messages: Sequence[Message], **options: bool) -> str:
        """The text of a conversation, for `mixed`: names of special tokens that the messages hold
        are broken by a sign.

        `options` of the template; raises `OptionError` if there is none or it refuses.
        """
        text, broken = self._rendered(messages, **options), self._names.broken(messages)
        if broken is None:
            return text
        apart = self._rendered(broken, **options)
        if self._names.joined(apart) != text:
            what = (
                "the chat template does not keep the name of a special token that a message holds"
            )
            raise OptionError(what, hint="Take it out of the message.")
        return apart

    def mark(self, text: str) -> str:
        """A text that somebody typed, for `mixed`: the names of special tokens in it are broken by
        a sign.
        """
        broken = self._names.broken(text)
        return text if broken is None else str(broken)

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which names of special tokens are special, but for those that a sign
        breaks.
        """
        if self._names.joined(text) == text:
            return self.encode(text)
        ids = []
        for part, special in self._names.parts(text):
            ids += self.encode(part) if special else self.encode_plain(self._names.joined(part))
        return ids

    @cached_property
    def _names(self) -> SpecialNames:
        """The names of the special tokens."""
        return SpecialNames.of(self._added, self._orders)

    @cached_property
    def _letters(self) -> PlainTextEncoder:
        """A second tokenizer, made when it is needed, that knows no special tokens."""
        return PlainTextEncoder(self._known, self._names)

    @cached_property
    def _orders(self) -> frozenset[int]:
        """Ids that no text has: the mask, end tokens, control tokens, special tokens."""
        special = {i for i, token in self._added.items() if token.special}
        unknown = {
            getattr(self._known, "unk_token_id", None)
        }  # a sign for letters that the vocabulary lacks
        return frozenset({self.mask_id, *self.stop_ids, *self.control_ids, *special} - unknown)

    @property
    def _added(self) -> Mapping[int, Any]:
        """The tokens beside the vocabulary, which a tokenizer finds before it looks at letters."""
        return getattr(self._known, "added_tokens_decoder", {})

    def _rendered(self, messages: Sequence[Message], **options: bool) -> str:
        """A conversation in the chat template."""
        if not self._known.chat_template:
            raise OptionError(
                "this checkpoint has no chat template",
                hint="Give plain text (on the command line: --raw).",
            )
        asked = {"add_generation_prompt": True, **options}
        try:
            return render_chat(self.backend, messages, **asked)
        except Exception as error:  # jinja's errors, which templates also raise by themselves
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            way_out = (
                "Give plain text (--raw)"
                if isinstance(error, LimitError)
                else "Change the roles or their order"
            )
            raise OptionError(
                f"the chat template refuses this conversation ({reason})", hint=f"{way_out}."
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out; empty where there is no tokenizer."""
        if self.backend is None:
            return ""
        return str(
            self.backend.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def token_text(self, token: int) -> str:
        """One token as a person should see it, special tokens by name."""
        return str(
            self._known.decode(
                [token], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    @property
    def _known(self) -> Any:
        """The tokenizer behind it. Raises `OptionError` where a model was brought without one."""
        if self.backend is None:
            hint = "Give one to wrap(model, tokenizer); prompts of ids go through LM.new_request(ids, config)."
            raise OptionError("this model has no tokenizer, so it reads no text", hint=hint)
        return self.backend


def render_chat(backend: Any, messages: Sequence[Message], **options: bool) -> str:
    """The text of a conversation in the tokenizer's chat template. Raises whatever the template
    raises.
    """
    asked = {"add_generation_prompt": False, **options}
    is_ours = isinstance(backend, PreTrainedTokenizerBase) and isinstance(
        backend.chat_template, str
    )
    whole = not asked.get("continue_final_message")
    if (
        whole
        and is_ours
        and type(backend).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
    ):
        special = backend.special_tokens_map
        return render(backend.chat_template, messages, **special, **asked)
    text = backend.apply_chat_template(list(messages), tokenize=False, **asked)
    return str(text)


def read_tokenizer(folder: Path, config: ModelConfig | None = None) -> Tokenizer:
    """Load the tokenizer in `folder`; `config`, if there is a model, adds its ids and is checked.
    Raises `CheckpointError`.
    """
    settings, whole = (
        read_optional(folder / "tokenizer_config.json"),
        (folder / "tokenizer.json").exists(),
    )
    check_file(folder / "tokenizer.json")
    try:
        backend = _whole(folder) if whole else _pieces(folder, settings)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # the tokenizers library raises bare Exception on a broken file, or panics
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        named = "tokenizer.json" if whole else "vocab.json or another file of the tokenizer"
        raise CheckpointError(
            f"{named} cannot be read ({reason})", given=str(folder), hint="Download the file again."
        ) from error
    known = backend.get_vocab()
    backend.add_special_tokens(_roles(folder, settings, known))
    backend.chat_template = _template(folder, settings)
    size = 1 + max(known.values(), default=-1)
    if config is not None and size > config.embedding_rows:
        raise CheckpointError(
            "the tokenizer has more ids than the model has embedding rows",
            given=size,
            allowed=f"at most {config.embedding_rows}",
            hint="The tokenizer belongs to another checkpoint.",
        )
    return from_transformers(
        backend, config.mask_token_id if config else None, config.stop_token_ids if config else ()
    )


def from_transformers(
    backend: Any, mask_id: int | None = None, stop_ids: Iterable[int] = ()
) -> Tokenizer:
    """A transformers tokenizer with the ids that decoding needs; the mask is `mask_id` or else its
    own. Raises `CheckpointError`.
    """
    vocabulary = backend.get_vocab()
    size = 1 + max(vocabulary.values(), default=-1)
    stops = {*stop_ids, *_end_of_turn(backend)}
    if backend.eos_token_id is not None:
        stops.add(backend.eos_token_id)
    mask = _mask_id(backend, mask_id, size)
    control = _control_ids(vocabulary, backend.get_added_vocab())
    return Tokenizer(
        backend, mask, tuple(sorted(stops)), size, tuple(sorted(control - stops - {mask}))
    )


def _control_ids(vocabulary: Mapping[str, int], added: Mapping[str, int]) -> set[int]:
    """Ids of the tokens that order a decoding loop to change a text, and of every mask."""
    marked = {
        text: i
        for text, i in vocabulary.items()
        if text.startswith("<") and _MARKED.fullmatch(text)
    }
    return {i for text, i in {**marked, **added}.items() if _CONTROL.fullmatch(text)}


def _whole(folder: Path) -> Any:
    """The tokenizer that tokenizer.json describes; classes that other files name are not asked for."""
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def _pieces(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Qwen2's tokenizer from vocab.json, merges.txt and the added tokens, each at its id (Dream,
    DiffuCoder).
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise CheckpointError(
                "no tokenizer.json in the checkpoint, nor vocab.json and merges.txt",
                given=str(folder),
                hint="Put the released files beside config.json.",
            )
    vocabulary, added = (
        read_json(folder / "vocab.json"),
        dict(read_optional(folder / "added_tokens.json")),
    )
    described = {int(i): token for i, token in (settings.get("added_tokens_decoder") or {}).items()}
    for i, token in described.items():
        if i not in added.values():
            added.setdefault(token["content"], i)
    lines = read_text(folder / "merges.txt").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    backend = Qwen2Tokenizer(
        vocab={**vocabulary, **added}, merges=merges, unk_token=None, eos_token=None, pad_token=None
    )
    plain = {i for i, token in described.items() if not token.get("special", True)}
    for text, i in sorted(added.items(), key=lambda item: item[1]):
        backend.add_tokens(
            [AddedToken(text, special=i not in plain, normalized=False)],
            special_tokens=i not in plain,
        )
    return backend


_ROLES = ("bos_token", "eos_token", "pad_token", "mask_token")


def _roles(folder: Path, settings: Mapping[str, Any], known: Mapping[str, int]) -> dict[str, str]:
    """Which of the known tokens begins, ends, pads and masks; a name that has no id is left out, so
    that no id is made for it.
    """
    found = {}
    for source in (read_optional(folder / "special_tokens_map.json"), settings):
        for role in _ROLES:
            text = source.get(role)
            text = text.get("content") if isinstance(text, Mapping) else text
            if isinstance(text, str) and text in known:
                found[role] = text
    return found


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, else a field; of several the default one."""
    file = folder / "chat_template.jinja"
    found = read_text(file) if file.exists() else settings.get("chat_template")
    if isinstance(found, list):
        named = {
            each.get("name"): each.get("template") for each in found if isinstance(each, Mapping)
        }
        found = named.get("default", next(iter(named.values()), None))
    if found is not None and not isinstance(found, str):
        raise CheckpointError(
            "the chat template is not a text",
            given=type(found).__name__,
            hint="Download tokenizer_config.json again.",
        )
    return found if isinstance(found, str) and found else None


def _mask_id(backend: Any, given: int | None, size: int) -> int:
    """Mask id: the one given (config.json), else the tokenizer's mask token, else an added token
    whose bare text says mask.
    """
    named = sorted(
        i
        for text, i in backend.get_added_vocab().items()
        if text.strip("<>|").lower() in ("mask", "mdm_mask")
    )
    found = next((i for i in (given, backend.mask_token_id, *named) if i is not None), None)
    if found is None:
        raise CheckpointError(
            "the tokenizer has no mask token",
            hint="Add mask_token_id to config.json, naming an id the tokenizer has.",
        )
    if not 0 <= found < size:
        raise CheckpointError(
            "the mask id is not in the tokenizer",
            given=found,
            allowed=f"below {size}",
            hint="Correct mask_token_id in config.json.",
        )
    return int(found)


def _end_of_turn(backend: Any) -> list[int]:
    """The special token that the chat template writes after an assistant's words, if there is a
    template.
    """
    if not backend.chat_template:
        return []
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        after = render_chat(backend, turns).rsplit("ANSWER", 1)[-1]
    except Exception as error:  # jinja's errors, which templates also raise by themselves
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"the chat template cannot be rendered ({reason})",
            hint="Download tokenizer_config.json again.",
        ) from error
    special = set(backend.all_special_ids) | set(backend.get_added_vocab().values())
    first = backend.encode(after, add_special_tokens=False)[:1]
    return [i for i in first if i in special]
