"""What a request may cost before its rows exist: JSON is weighed before it is parsed, rows and
characters are counted before any is made.

Everything here takes time and memory in proportion to the body at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server.schema import MAX_CHOICES

MAX_TEXTS = 10_000  # strings of a body, field names among them
MAX_CONTAINERS = 4_000  # lists and objects of a body
MAX_DEPTH = 32
HEAD = 8  # characters a token: of a text that is longer than that, the beginning is tokenised first
SHRINK = 4  # characters that normalisation (NFC) joins into one at most


@dataclass(frozen=True)
class Limits:
    """What a server takes: `rows` at once, `numbers` in a body, and how many characters its
    `longest` token may stand for.
    """

    answers: int
    token_ids: int
    token_chars: int


def admission_limits(lm: LM, engine: EngineConfig, serve: ServeConfig) -> Limits:
    """The limits of a server: as many rows as may run and wait, as many numbers as prompts of ids
    may have.
    """
    rows = engine.batch_size + serve.max_waiting
    return Limits(rows, MAX_CHOICES * lm.max_length, _longest(lm))


def _longest(lm: LM) -> int:
    """An upper bound of the characters that one token stands for."""
    backend = lm.tokenizer.backend
    longest = max(map(len, backend.get_vocab()), default=1)
    normalizer = getattr(getattr(backend, "backend_tokenizer", None), "normalizer", None)
    return longest if normalizer is None else SHRINK * longest


def check_json_size(body: bytes, limits: Limits) -> None:
    """Raise `OptionError` for JSON that would grow to many times its size when it is parsed, or
    that nests deeply.

    What is no JSON passes; who parses it says so.
    """
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # now a quote begins or ends a string
    _hold("texts", bare.count(b'"') // 2, MAX_TEXTS)
    frame = b"".join(bare.split(b'"')[::2])
    containers = frame.count(b"[") + frame.count(b"{")
    _hold("lists and objects", containers, MAX_CONTAINERS)
    _hold("values", frame.count(b","), MAX_TEXTS + limits.token_ids)
    _hold("levels", _depth(frame), MAX_DEPTH)


def _hold(what: str, count: int, most: int) -> None:
    if count > most:
        raise OptionError(
            f"the body has too many {what}",
            given=count,
            allowed=f"{most} at most",
            hint="Send less, or several requests.",
        )


def _depth(frame: bytes) -> int:
    """How deep JSON without its strings nests."""
    deepest = 0
    depth = 0
    for sign in frame.translate(None, _OTHERS):
        depth += 1 if sign in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def check_answer_count(prompts: int, n: int, limits: Limits) -> None:
    """Raise `OptionError` for more answers than the server ever takes at once."""
    if prompts * n > limits.answers:
        raise OptionError(
            "this request asks for more answers than fit at once",
            given=f"{prompts} prompts with n={n}",
            allowed=f"{limits.answers} answers",
            hint="Send several requests, or start the server with a larger --max-waiting.",
            param="n" if n > 1 else "prompt",
        )


def check_texts(lm: LM, texts: Sequence[str], room: int, limits: Limits, param: str) -> None:
    """Raise `OptionError` if texts have more characters than `room` tokens can stand for, or a
    beginning with too many tokens.
    """
    most = room * limits.token_chars
    count = sum(map(len, texts))
    if count > most:
        raise too_long(f"{count} characters", f"{most} at most", param)
    for text in texts:
        _check_head(lm, text, room, limits, param)


def _check_head(lm: LM, text: str, room: int, limits: Limits, param: str) -> None:
    """Tokenise beginnings of a long text, each twice as long as the last, until one alone is too
    long.

    The cut may change the tokens around it, so a beginning is refused only when it has far too
    many.
    """
    size = HEAD * room
    while size < len(text):
        if len(lm.tokenizer.encode(text[:size])) > 2 * room + limits.token_chars:
            raise too_long(f"more than {2 * room} tokens", f"{room} tokens", param)
        size *= 2


def too_long(given: str, allowed: str, param: str) -> OptionError:
    """The error for a prompt that does not fit, whatever else is asked for."""
    return OptionError(
        f"{param} cannot fit into the model",
        given=given,
        allowed=allowed,
        hint=f"Shorten {param} or lower max_tokens.",
        param=param,
    )
