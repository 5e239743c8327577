"""The bytes that each token of a vocabulary adds to a text."""

from __future__ import annotations

import json

from creditdecoding.errors import OptionError
from creditdecoding.text.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The bytes of every id that is part of ordinary text, without added and special tokens.

    Raises `OptionError` for a tokenizer whose tokens do not stand for bytes (byte-level BPE).
    """
    backend = getattr(tokenizer.backend, "backend_tokenizer", None)
    decoder = None if backend is None else json.loads(backend.to_str())["decoder"]
    if backend is None or decoder is None or decoder["type"] != "ByteLevel":
        raise OptionError(
            "constraints need a tokenizer whose tokens are bytes",
            given=None if decoder is None else decoder["type"],
            allowed="ByteLevel",
            hint="Leave the constraint out.",
        )
    added = tokenizer.backend.added_tokens_decoder
    never = {*added, *tokenizer.stop_ids, *tokenizer.control_ids, tokenizer.mask_id}
    byte_of = _bytes_of_characters()
    return {
        i: bytes(byte_of[char] for char in text)
        for text, i in backend.get_vocab().items()
        if text and i not in never and all(char in byte_of for char in text)
    }


def _bytes_of_characters() -> dict[str, int]:
    """What byte each character of a byte-level vocabulary stands for (GPT-2's table): printable
    bytes for themselves, the others for the characters from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in printable}, **shifted}
