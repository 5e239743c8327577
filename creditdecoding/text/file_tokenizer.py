"""The tokenizer of a tokenizer.json, without transformers, whose import takes 0.7 s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer


@dataclass
class FileTokenizer:
    """What this package uses of a transformers tokenizer, under the same names.

    `special_tokens_map` has the tokens of roles (`eos_token` and so on) by role. Ids and texts are
    those of `to_transformers()`.
    """

    backend_tokenizer: RustTokenizer
    special_tokens_map: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None

    @classmethod
    def from_file(cls, path: Path) -> FileTokenizer:
        """Raises what tokenizers raises, which may be a bare `Exception` or a panic."""
        core = RustTokenizer.from_file(str(path))
        core.no_truncation()
        core.no_padding()
        return cls(core)

    def add_special_tokens(self, roles: Mapping[str, str]) -> None:
        """Give roles to tokens, which makes them special."""
        self.special_tokens_map.update(roles)
        self.backend_tokenizer.add_special_tokens(
            [AddedToken(name, special=True, normalized=False) for name in roles.values()]
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text."""
        ids: list[int] = self.backend_tokenizer.encode(
            text, add_special_tokens=add_special_tokens
        ).ids
        return ids

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids; spaces are never cleaned up."""
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def get_added_vocab(self) -> dict[str, int]:
        """The tokens that are found in a text before it is split, with their ids."""
        return {token.content: i for i, token in sorted(self.added_tokens_decoder.items())}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in a text before it is split, by id."""
        added: dict[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def get_chat_template(self) -> str | None:
        """The chat template."""
        return self.chat_template

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the tokens that have roles."""
        vocabulary = self.get_vocab()
        return [vocabulary[token] for token in {*self.special_tokens_map.values()}]

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self.special_tokens_map.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`."""
        return self._role_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`."""
        return self._role_id("eos_token")

    @property
    def mask_token_id(self) -> int | None:
        """The id of the mask."""
        return self._role_id("mask_token")

    def _role_id(self, role: str) -> int | None:
        token = self.special_tokens_map.get(role)
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def to_transformers(self) -> Any:
        """The same as a transformers tokenizer, with a copy of the rules."""
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

        backend = PreTrainedTokenizerFast(tokenizer_object=self.backend_tokenizer)
        backend.add_special_tokens(self.special_tokens_map)
        backend.chat_template = self.chat_template
        return backend
