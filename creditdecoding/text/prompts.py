"""What callers may give as a prompt: a text, a conversation, content parts, or a list of these.

    parse_prompts("What is 2+2?")                                  -> one prompt
    parse_prompts([{"role": "user", "content": "What is 2+2?"}])   -> one prompt, a conversation
    parse_prompts(["What is 2+2?", [{"role": "user", ...}]])       -> two prompts

Anything else raises an `OptionError` that names its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from creditdecoding.errors import OptionError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A user's message, or a whole conversation as {"role", "content"} mappings."""

_ALLOWED = 'a text, a list of {"role", "content"} messages, or a list of several of these'


def parse_prompts(prompts: Any) -> tuple[list[Prompt], bool]:
    """The prompts, and whether a single one was given. Raises `OptionError`."""
    if isinstance(prompts, str):
        return [prompts], True
    entries = _entries(prompts)
    mappings = [isinstance(entry, Mapping) for entry in entries]
    if entries and all(mappings):
        return [parse_messages(entries)], True
    if any(mappings):
        raise OptionError(
            "messages and other prompts in one list",
            allowed=_ALLOWED,
            hint="Put each conversation into its own list.",
        )
    return [parse_prompt(entry) for entry in entries], False


def parse_prompt(prompt: Any) -> Prompt:
    """A single prompt: a text as it is, messages as plain mappings. Raises `OptionError`."""
    return prompt if isinstance(prompt, str) else parse_messages(_entries(prompt))


def parse_messages(entries: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages with their content as text; bare content parts are one message of the user.

    Raises `OptionError`.
    """
    if not entries:
        raise OptionError("the prompt is empty", hint="Give some text, or at least one message.")
    if all(isinstance(part, Mapping) and "type" in part and "role" not in part for part in entries):
        return [{"role": "user", "content": content_text(entries)}]
    return [_message(entry) for entry in entries]


def content_text(content: Any) -> str:
    """The text of a message's content, a text or {"type": "text", "text": ...} parts, joined.

    Raises `OptionError`.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise OptionError(
            "a message's content is not text",
            given=_kind(content),
            allowed='a text or a list of {"type": "text", "text": ...} parts',
            hint="Give text.",
        )
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    is_part = isinstance(part, Mapping)
    kind = part.get("type") if is_part else _kind(part)
    text = part.get("text") if is_part else None
    if kind != "text" or not isinstance(text, str):
        raise OptionError(
            "a content part is not text",
            given=kind,
            allowed='{"type": "text", "text": ...}',
            hint="Give only text parts.",
        )
    return text


def _message(entry: Any) -> dict[str, Any]:
    """A message without its null fields, its content as text."""
    if not isinstance(entry, Mapping):
        raise OptionError(
            "not a message",
            given=_kind(entry),
            allowed='{"role", "content"}',
            hint="Give only messages in a conversation.",
        )
    if not isinstance(entry.get("role"), str):
        raise OptionError(
            "a message without a role",
            given=", ".join(map(str, entry)),
            allowed="role, content",
            hint='Say who speaks: {"role": "user", "content": ...}.',
        )
    fields = {name: value for name, value in entry.items() if value is not None}
    if fields["role"] == "assistant" and "content" not in fields:
        return {**fields, "content": ""}
    return {**fields, "content": content_text(fields.get("content"))}


def _entries(prompts: Any) -> list[Any]:
    """The entries of a list, or of another iterable of prompts or messages."""
    wrong_kind = isinstance(prompts, (bytes, bytearray, Mapping)) or hasattr(prompts, "dtype")
    if not wrong_kind and isinstance(prompts, Iterable):
        return list(prompts)
    hint = "Give text or messages."
    if isinstance(prompts, Mapping):
        hint = "Put a single message into a list: [message]."
    raise OptionError("not a prompt", given=_kind(prompts), allowed=_ALLOWED, hint=hint)


def _kind(value: Any) -> str:
    return type(value).__name__


def require_valid_unicode(text: str) -> str:
    """The text, if it can be encoded as UTF-8.

    Raises `OptionError` for half a surrogate pair, which also stands for a byte that was not UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise OptionError(
            "the text has half a character or a byte that is not UTF-8",
            given=f"U+{ord(text[error.start]):04X}",
            hint="Give whole characters: UTF-8, or both halves of a surrogate pair.",
        ) from error
    return text
