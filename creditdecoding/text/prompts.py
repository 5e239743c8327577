"""What a caller may give as a prompt: a text, a conversation, content parts, or a list of these.

    prompts("What is 2+2?")                                  -> one prompt
    prompts([{"role": "user", "content": "What is 2+2?"}])   -> one prompt, a conversation
    prompts(["What is 2+2?", [{"role": "user", ...}]])       -> two prompts

Whatever else is given is refused by what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from creditdecoding.errors import OptionError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A user's message, or a whole conversation as {"role", "content"} mappings."""

_ALLOWED = 'a text, a list of {"role", "content"} messages, or a list of several of these'


def parse_prompts(given: Any) -> tuple[list[Prompt], bool]:
    """Prompts from what a caller gave, and whether that was a single one. Raises `OptionError`."""
    if isinstance(given, str):
        return [given], True
    entries = _entries(given)
    if entries and all(isinstance(entry, Mapping) for entry in entries):
        return [parse_messages(entries)], True
    if any(isinstance(entry, Mapping) for entry in entries):
        hint = "Put each conversation into a list of its own."
        raise OptionError("messages and other prompts in one list", allowed=_ALLOWED, hint=hint)
    return [parse_prompt(entry) for entry in entries], False


def parse_prompt(given: Any) -> Prompt:
    """A single prompt: a text as it is, messages as plain mappings. Raises `OptionError`."""
    return given if isinstance(given, str) else parse_messages(_entries(given))


def parse_messages(entries: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages with their content as text; content parts alone are one message of the user. Raises
    `OptionError`.
    """
    if not entries:
        raise OptionError("the prompt is empty", hint="Give some text, or at least one message.")
    if all(
        isinstance(entry, Mapping) and "type" in entry and "role" not in entry for entry in entries
    ):
        return [{"role": "user", "content": content_text(entries)}]
    return [_message(entry) for entry in entries]


def content_text(content: Any) -> str:
    """The text of a message's content: a text, or parts {"type": "text", "text": ...} one after the
    other. Raises `OptionError`.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        allowed = 'a text or a list of {"type": "text", "text": ...} parts'
        raise OptionError(
            "a message's content is not text",
            given=_kind(content),
            allowed=allowed,
            hint="Give text.",
        )
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(text, str):
        allowed = '{"type": "text", "text": ...}'
        raise OptionError(
            "a content part is not text", given=kind, allowed=allowed, hint="Give text parts alone."
        )
    return text


def _message(entry: Any) -> dict[str, Any]:
    """A message without the fields that are null, its content as text."""
    if not isinstance(entry, Mapping):
        hint = "Give messages alone in one conversation."
        raise OptionError(
            "not a message", given=_kind(entry), allowed='{"role", "content"}', hint=hint
        )
    if not isinstance(entry.get("role"), str):
        hint = 'Say who speaks: {"role": "user", "content": ...}.'
        raise OptionError(
            "a message without a role",
            given=", ".join(map(str, entry)),
            allowed="role, content",
            hint=hint,
        )
    filled = {name: value for name, value in entry.items() if value is not None}
    silent = filled["role"] == "assistant" and "content" not in filled
    return {**filled, "content": "" if silent else content_text(filled.get("content"))}


def _entries(given: Any) -> list[Any]:
    """The entries of a list or of anything like it that holds prompts or messages. Raises
    `OptionError`.
    """
    if (
        isinstance(given, (bytes, bytearray, Mapping))
        or not isinstance(given, Iterable)
        or hasattr(given, "dtype")
    ):
        hint = (
            "A message alone goes into a list: [message]."
            if isinstance(given, Mapping)
            else "Give text or messages."
        )
        raise OptionError("not a prompt", given=_kind(given), allowed=_ALLOWED, hint=hint)
    return list(given)


def _kind(value: Any) -> str:
    return type(value).__name__


def require_valid_unicode(text: str) -> str:
    """The text, if all of it can be written down. Raises `OptionError` for half a character, or for
    a byte that was none.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        given = f"U+{ord(text[error.start]):04X}"
        hint = "Give whole characters: UTF-8, or both halves of a surrogate pair."
        raise OptionError(
            "the text has half a character or a byte that is not UTF-8", given=given, hint=hint
        ) from error
    return text
