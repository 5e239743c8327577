"""Admission: everything a request passes before the engine runs it, cheapest check first.

    1. `Connection`: the whole request arrives in time                    408
    2. `HostCheck`: the name in the Host header                           421
    3. `RequestGuard`: API key, size and type of the body                 401, 413, 400
    4. `check_json_size`: JSON that would grow to many times its size     400
    5. `ChatRequest`, `CompletionRequest`: fields, their types and bounds 400
    6. `check_body`: the model's name, streaming options                  404, 400
    7. `make_requests`: number of answers, decoder, cache, size of texts,
       then tokenising                                                    400
    8. `submit_all`, in the engine thread: queue and memory               429, 400
    9. `WaitQueue.admit`: the engine starts it as soon as it fits

`Routes._answer` calls 6 to 8 for HTTP, the batch processor 5 to 8 for lines of a file. The time and
memory of each check are at most proportional to the size of the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.request import Request
from creditdecoding.errors import OptionError, QueueFullError
from creditdecoding.lm import LM
from creditdecoding.server.schema import MAX_CHOICES
from creditdecoding.wording import count

MAX_STRINGS = 10_000  # of a body, field names among them
MAX_CONTAINERS = 4_000  # lists and objects of a body
MAX_DEPTH = 32
CHARS_PER_TOKEN = 8  # of a text with more of them, the beginning is tokenised first
NFC_SHRINK = 4  # normalisation (NFC) joins at most this many characters into one
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


@dataclass(frozen=True)
class Limits:
    """Limits of a server: `answers` at once, `token_ids` in a body, the largest number of
    characters that a token stands for, and the folder whose decoders may be named.
    """

    answers: int
    token_ids: int
    token_chars: int
    decoder_files: str | None = None


def admission_limits(
    lm: LM, engine: EngineConfig, serve: ServeConfig, decoder_files: str | None = None
) -> Limits:
    """As many answers as may run and wait, as many ids as the largest allowed prompts have."""
    answers = engine.batch_size + serve.max_waiting
    return Limits(answers, MAX_CHOICES * lm.max_length, _longest_token(lm), decoder_files)


def _longest_token(lm: LM) -> int:
    """An upper bound of the characters that one token stands for."""
    backend = lm.tokenizer.backend
    longest = max(map(len, backend.get_vocab()), default=1)
    normalizer = getattr(getattr(backend, "backend_tokenizer", None), "normalizer", None)
    return longest if normalizer is None else NFC_SHRINK * longest


def check_json_size(body: bytes, limits: Limits) -> None:
    """Raise `OptionError` for JSON with too many values or levels, before it is parsed.

    Anything that is not JSON passes; the parser reports it.
    """
    check_json_text(body, "body", MAX_STRINGS + limits.token_ids)


def check_json_text(text: bytes, noun: str, most_values: int = MAX_STRINGS) -> None:
    """As `check_json_size`, for any JSON; `noun` is what it stands for."""
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    _check_count(noun, "strings", unescaped.count(b'"') // 2, MAX_STRINGS)
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    containers = outside_strings.count(b"[") + outside_strings.count(b"{")
    _check_count(noun, "lists and objects", containers, MAX_CONTAINERS)
    _check_count(noun, "values", outside_strings.count(b","), most_values)
    _check_count(noun, "levels", _depth(outside_strings), MAX_DEPTH)


def _check_count(noun: str, what: str, number: int, limit: int) -> None:
    if number > limit:
        raise OptionError(
            f"the {noun} has too many {what}",
            given=number,
            allowed=f"{limit} at most",
            hint="Send less, or several requests.",
        )


def _depth(outside_strings: bytes) -> int:
    deepest = 0
    depth = 0
    for bracket in outside_strings.translate(None, NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def check_answer_count(prompts: int, n: int, limits: Limits) -> None:
    """Raise `OptionError` for more answers than may run and wait."""
    if prompts * n > limits.answers:
        raise OptionError(
            "this request asks for more answers than fit at once",
            given=f"{count(prompts, 'prompt')} with n={n}",
            allowed=count(limits.answers, "answer"),
            hint="Send several requests, or start the server with a larger --max-waiting.",
            param="n" if n > 1 else "prompt",
        )


@dataclass(frozen=True)
class PromptRoom:
    """Tokens that a prompt may have. `length_field` is the client's field that leaves no more to
    it, "" if there is none.
    """

    tokens: int
    length_field: str = ""

    def too_long(self, length: str, allowed: str, param: str) -> OptionError:
        """The error for a prompt in `param` that does not fit into the model."""
        shorter = f"Shorten {param}"
        hint = f"{shorter} or lower {self.length_field}." if self.length_field else f"{shorter}."
        what = f"{param} cannot fit into the model"
        return OptionError(what, given=length, allowed=allowed, hint=hint, param=param)

    def check_tokens(self, length: int, param: str) -> None:
        """Raise `OptionError` for a prompt of more tokens."""
        if length > self.tokens:
            raise self.too_long(count(length, "token"), count(self.tokens, "token"), param)


def check_texts(lm: LM, texts: Sequence[str], room: PromptRoom, limits: Limits, param: str) -> None:
    """Raise `OptionError` for texts that cannot fit into `room`: by their characters, or by the
    tokens of their beginning.
    """
    characters = sum(map(len, texts))
    allowed = room.tokens * limits.token_chars
    if characters > allowed:
        raise room.too_long(f"{characters} characters", f"{allowed} at most", param)
    for text in texts:
        _check_beginning(lm, text, room, limits, param)


def _check_beginning(lm: LM, text: str, room: PromptRoom, limits: Limits, param: str) -> None:
    """Tokenise beginnings of a long text, each twice as long as the last, until one is too long.

    A cut may change the tokens around it, so the bound is twice the room.
    """
    most = 2 * room.tokens
    size = CHARS_PER_TOKEN * room.tokens
    while size < len(text):
        if len(lm.tokenizer.encode(text[:size])) > most + limits.token_chars:
            raise room.too_long(f"more than {most} tokens", count(room.tokens, "token"), param)
        size *= 2


def submit_all(engine: Engine, requests: Sequence[Request]) -> list[int]:
    """Queue all requests or none; returns the engine's numbers.

    Raises `QueueFullError` if they fit later, `OptionError` if they never do.
    """
    numbers: list[int] = []
    try:
        for request in requests:
            numbers.append(engine.submit(request))
    except Exception as error:
        for number in numbers:
            engine.abort(number)
        if isinstance(error, QueueFullError) and not engine.could_ever_hold(requests):
            raise OptionError(
                "this request asks for more answers than memory and queue ever hold at once",
                given=len(requests),
                hint="Send several requests, or start the server with a larger --max-waiting.",
                param="n",
            ) from error
        raise
    return numbers
