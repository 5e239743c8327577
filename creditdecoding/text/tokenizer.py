"""Text to ids and back by a checkpoint's tokenizer, never with remote code.

Special ids are read from the checkpoint: the mask, the ids that end an answer, and control tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from creditdecoding.checkpoint import (
    check_file,
    read_json,
    read_optional,
    read_text,
    resolve_checkpoint,
)
from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError, CreditError, OptionError
from creditdecoding.text.chat_template import LimitError, render, render_to_continue
from creditdecoding.text.file_tokenizer import FileTokenizer
from creditdecoding.text.prompts import Message, require_valid_unicode
from creditdecoding.text.special_names import PlainTextEncoder, SpecialNames

# Tokens by which some models change the length of a text (LLaDA2.2, DreamOn), and further masks, in
# brackets of any kind.
_CONTROL = re.compile(
    r"[\W_]+(mask|mdm_mask|delete|split|expand|insert)([\W_]?token)?[\W_]+", re.IGNORECASE
)
# Tells control tokens from ordinary words where a vocabulary has no list of added tokens.
_BRACKETED = re.compile("<[|\uff5c].*[|\uff5c]>")
NO_MASK = -1
"""The mask id of an autoregressive model, which has no mask."""

_ROLES = ("bos_token", "eos_token", "pad_token", "mask_token")


@dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer with the ids that decoding needs.

    `mask_id` fills the canvas; `stop_ids` end an answer (end of text, end of turn); ids from `size`
    on are padding of the embedding and never written. `control_ids` tell a decoding loop to change
    the text (delete, split, expand) and are never part of it. `backend` is a `FileTokenizer`, a
    transformers tokenizer, or None for a model of ids alone.
    """

    backend: Any
    mask_id: int
    stop_ids: tuple[int, ...]
    size: int
    control_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Ids of a trusted text: names of special tokens in it become their ids. Nothing is added
        around it.
        """
        return list(self._backend.encode(require_valid_unicode(text), add_special_tokens=False))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text that a user typed: the name of a special token is letters like any other.

        Raises `OptionError` for tokenizers that cannot read such a name as letters.
        """
        ids = self._plain_encoder.encode(text) if self._names.occur_in(text) else self.encode(text)
        special = next((i for i in ids if i in self._never_in_text), None)
        if special is not None:
            raise OptionError(
                "this tokenizer does not read the name of a special token as plain text",
                given=self.token_text(special),
                hint="Take it out of the text.",
            )
        return ids

    def encode_chat(self, messages: Sequence[Message], parse_special: bool = False) -> list[int]:
        """Ids of a conversation in the checkpoint's chat template, ready for the answer.

        The template's special tokens are special; the messages are plain text, unless
        `parse_special`. Raises `OptionError` if there is no template or it refuses.
        """
        if parse_special:
            return self.encode(self._rendered(messages))
        return self.encode_marked(self.render_marked(messages))

    def render_marked(self, messages: Sequence[Message], **options: bool) -> str:
        """The text of a conversation for `encode_marked`, with names of special tokens in messages
        marked as plain. `options` are the template's. Raises as `encode_chat`.
        """
        text = self._rendered(messages, **options)
        marked_messages = self._names.mark(messages)
        if marked_messages == messages:
            return text
        marked = self._rendered(marked_messages, **options)
        if self._names.unmark(marked) != text:
            raise OptionError(
                "the chat template does not keep the name of a special token in a message",
                hint="Take it out of the message.",
            )
        return marked

    def mark(self, text: str) -> str:
        """A text that a user typed, for `encode_marked`: names of special tokens in it are marked
        as plain.
        """
        return str(self._names.mark(text))

    def encode_marked(self, text: str) -> list[int]:
        """Ids of a text in which unmarked names of special tokens are special."""
        if self._names.unmark(text) == text:
            return self.encode(text)
        ids = []
        for part, special in self._names.split(text):
            ids += self.encode(part) if special else self.encode_plain(self._names.unmark(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens; empty where there is no tokenizer."""
        return "" if self.backend is None else self._decode(ids, skip_special=True)

    def token_text(self, token: int) -> str:
        """One token as shown to a person, special tokens by name."""
        return self._decode([token], skip_special=False)

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        return str(
            self._backend.decode(
                list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
            )
        )

    def _rendered(self, messages: Sequence[Message], **options: bool) -> str:
        if not self._backend.chat_template:
            raise OptionError(
                "this checkpoint has no chat template",
                hint="Give plain text (on the command line: --raw).",
            )
        try:
            return render_chat(self.backend, messages, **{"add_generation_prompt": True, **options})
        except Exception as error:  # templates raise jinja2's errors and their own
            limited = isinstance(error, LimitError)
            raise OptionError(
                f"the chat template refuses this conversation ({_first_line(error)})",
                hint="Give plain text (--raw)." if limited else "Change the roles or their order.",
            ) from error

    def to_transformers(self) -> Any:
        """The tokenizer as an object of transformers, for other libraries."""
        backend = self._backend
        return backend.to_transformers() if isinstance(backend, FileTokenizer) else backend

    @property
    def _backend(self) -> Any:
        if self.backend is None:
            raise OptionError(
                "this model has no tokenizer, so it reads no text",
                hint="Give one: wrap(model, tokenizer); LM.new_request(ids, config) takes ids.",
            )
        return self.backend

    @property
    def _added(self) -> Mapping[int, Any]:
        """The tokens that are found in a text before it is split."""
        return getattr(self._backend, "added_tokens_decoder", {})

    @cached_property
    def _names(self) -> SpecialNames:
        return SpecialNames.from_added(self._added, self._never_in_text)

    @cached_property
    def _plain_encoder(self) -> PlainTextEncoder:
        return PlainTextEncoder(self._backend, self._names)

    @cached_property
    def _never_in_text(self) -> frozenset[int]:
        """The mask, end, control and special tokens, without the token for unknown letters."""
        special = {i for i, token in self._added.items() if token.special}
        unknown = getattr(self._backend, "unk_token_id", None)
        return frozenset({self.mask_id, *self.stop_ids, *self.control_ids, *special} - {unknown})


def render_chat(backend: Any, messages: Sequence[Message], **options: bool) -> str:
    """The text of a conversation in the tokenizer's chat template, under a limit of work.

    `options`: `add_generation_prompt`, `continue_final_message`. Raises whatever the template
    raises. A tokenizer class with its own `apply_chat_template`, which is code and not a template
    of a checkpoint, renders by it.
    """
    options = {"add_generation_prompt": False, **options}
    if _renders_by_code(backend):
        return str(backend.apply_chat_template(list(messages), tokenize=False, **options))
    continues = options.pop("continue_final_message", False)
    renderer = render_to_continue if continues else render
    return renderer(backend.get_chat_template(), messages, **backend.special_tokens_map, **options)


def _renders_by_code(backend: Any) -> bool:
    """Whether a tokenizer class has its own `apply_chat_template`."""
    if isinstance(backend, FileTokenizer):
        return False
    from transformers import PreTrainedTokenizerBase as Base  # noqa: PLC0415

    is_plain = isinstance(backend, Base)
    return not is_plain or type(backend).apply_chat_template is not Base.apply_chat_template


def read_tokenizer(
    folder: Path, config: ModelConfig | None = None, has_mask: bool = True
) -> Tokenizer:
    """Read the tokenizer in `folder`; the model's `config` adds its ids and is checked.

    An autoregressive model's `has_mask` is false: its mask id is `NO_MASK`. Raises
    `CheckpointError`.
    """
    backend = read_backend(folder)
    if config is None:
        return from_backend(backend)
    size = _size(backend.get_vocab())
    if size > config.embedding_rows:
        raise CheckpointError(
            "the tokenizer has more ids than the model has embedding rows",
            given=size,
            allowed=f"at most {config.embedding_rows}",
            hint="The tokenizer belongs to another checkpoint.",
        )
    return from_backend(backend, config.mask_token_id, config.stop_token_ids, has_mask)


def read_backend(folder: Path) -> Any:
    """The tokenizer in `folder` with its roles and its chat template: a `FileTokenizer`, or a
    transformers tokenizer where there is no tokenizer.json. Raises `CheckpointError`.
    """
    settings = read_optional(folder / "tokenizer_config.json")
    backend = _read_backend(folder, settings)
    backend.add_special_tokens(_roles(folder, settings, backend.get_vocab()))
    backend.chat_template = _template(folder, settings)
    return backend


def from_backend(
    backend: Any,
    mask_id: int | None = None,
    stop_ids: Iterable[int] = (),
    has_mask: bool = True,
) -> Tokenizer:
    """A tokenizer's `backend` with the ids that decoding needs. `mask_id` is by default the
    tokenizer's own, `NO_MASK` unless `has_mask`; its end tokens are added to `stop_ids`. Raises
    `CheckpointError`.
    """
    vocabulary = backend.get_vocab()
    stops = {*stop_ids, *end_of_turn_ids(backend)}
    if backend.eos_token_id is not None:
        stops.add(backend.eos_token_id)
    mask = _mask_id(backend, mask_id, _size(vocabulary)) if has_mask else NO_MASK
    control = _control_ids(vocabulary, backend.get_added_vocab()) - stops - {mask}
    return Tokenizer(backend, mask, tuple(sorted(stops)), _size(vocabulary), tuple(sorted(control)))


@functools.lru_cache(maxsize=16)
def checkpoint_control_ids(name: str, revision: str | None = None) -> tuple[int, ...]:
    """Control tokens of a checkpoint that is on this machine, a folder or a downloaded hub id, for
    callers that have a network but no tokenizer; empty if its tokenizer cannot be read.
    """
    try:
        return read_tokenizer(resolve_checkpoint(name, revision, offline=True)).control_ids
    except CreditError:
        return ()


def declared_control_ids(config: Any) -> tuple[int, ...]:
    """Control tokens that a model's config.json names (LLaDA2.2), from its object in
    transformers.
    """
    ids = [getattr(config, name, None) for name in ("delete_token_id", "split_token_id")]
    return tuple(i for i in ids if isinstance(i, int))


def _size(vocabulary: Mapping[str, int]) -> int:
    return 1 + max(vocabulary.values(), default=-1)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _control_ids(vocabulary: Mapping[str, int], added: Mapping[str, int]) -> set[int]:
    """Ids of the tokens that tell a decoding loop to change a text, and of every mask."""
    bracketed = {
        text: i
        for text, i in vocabulary.items()
        if text.startswith("<") and _BRACKETED.fullmatch(text)
    }
    return {i for text, i in {**bracketed, **added}.items() if _CONTROL.fullmatch(text)}


def _read_backend(folder: Path, settings: Mapping[str, Any]) -> Any:
    """The tokenizer of tokenizer.json, else of vocab.json and merges.txt; tokenizer classes that
    other files name are not used.
    """
    whole = folder / "tokenizer.json"
    check_file(whole)
    try:
        if whole.exists():
            return FileTokenizer.from_file(whole)
        return _from_byte_pairs(folder, settings)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception on a broken file, or panics
        files = whole.name if whole.exists() else "vocab.json or another file of the tokenizer"
        raise CheckpointError(
            f"{files} cannot be read ({_first_line(error)[:200]})",
            given=str(folder),
            hint="Download the file again.",
        ) from error


def _from_byte_pairs(folder: Path, settings: Mapping[str, Any]) -> Any:
    """Qwen2's tokenizer from vocab.json, merges.txt and the added tokens, each at its id (Dream,
    DiffuCoder).
    """
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise CheckpointError(
                "no tokenizer.json in the checkpoint, nor vocab.json and merges.txt",
                given=str(folder),
                hint="Put the released files into the folder of config.json.",
            )
    from transformers import Qwen2Tokenizer  # noqa: PLC0415

    described = {int(i): token for i, token in (settings.get("added_tokens_decoder") or {}).items()}
    added = dict(read_optional(folder / "added_tokens.json"))
    for i, token in described.items():
        if i not in added.values():
            added.setdefault(token["content"], i)
    backend = Qwen2Tokenizer(
        vocab={**read_json(folder / "vocab.json"), **added},
        merges=_read_merges(folder),
        unk_token=None,
        eos_token=None,
        pad_token=None,
    )
    for text, i in sorted(added.items(), key=lambda item: item[1]):
        special = described.get(i, {}).get("special", True)
        token = AddedToken(text, special=special, normalized=False)
        backend.add_tokens([token], special_tokens=special)
    return backend


def _read_merges(folder: Path) -> list[tuple[str, ...]]:
    lines = read_text(folder / "merges.txt").split("\n")
    return [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]


def _roles(
    folder: Path, settings: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> dict[str, str]:
    """Names of the tokens that begin, end, pad and mask. A name without an id is left out, so that
    no new id is made for it.
    """
    roles = {}
    for source in (read_optional(folder / "special_tokens_map.json"), settings):
        for role in _ROLES:
            name = source.get(role)
            if isinstance(name, Mapping):
                name = name.get("content")
            if isinstance(name, str) and name in vocabulary:
                roles[role] = name
    return roles


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: chat_template.jinja, else the field; of several the default one."""
    file = folder / "chat_template.jinja"
    template = read_text(file) if file.exists() else settings.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, Mapping)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        template = named.get("default", next(iter(named.values()), None))
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            "the chat template is not a text",
            given=type(template).__name__,
            hint="Download tokenizer_config.json again.",
        )
    return template or None


def _mask_id(backend: Any, config_id: int | None, size: int) -> int:
    """The mask id of config.json, else of the tokenizer's mask token, else of an added token that
    is called mask.
    """
    named = sorted(
        i
        for text, i in backend.get_added_vocab().items()
        if text.strip("<>|").lower() in ("mask", "mdm_mask")
    )
    candidates = [i for i in (config_id, backend.mask_token_id, *named) if i is not None]
    if not candidates:
        raise CheckpointError(
            "the tokenizer has no mask token",
            hint="Add mask_token_id to config.json, naming an id the tokenizer has.",
        )
    mask_id = int(candidates[0])
    if not 0 <= mask_id < size:
        raise CheckpointError(
            "the mask id is not in the tokenizer",
            given=mask_id,
            allowed=f"below {size}",
            hint="Correct mask_token_id in config.json.",
        )
    return mask_id


def end_of_turn_ids(backend: Any) -> list[int]:
    """The special token that the chat template writes after an assistant's message."""
    if not backend.chat_template:
        return []
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        after = render_chat(backend, messages).rsplit("ANSWER", 1)[-1]
        first = backend.encode(require_valid_unicode(after), add_special_tokens=False)[:1]
    except Exception as error:  # templates raise jinja2's errors and their own
        raise CheckpointError(
            f"the chat template cannot be rendered ({_first_line(error)})",
            hint="Download tokenizer_config.json again.",
        ) from error
    special = {*backend.all_special_ids, *backend.get_added_vocab().values()}
    return [i for i in first if i in special]
