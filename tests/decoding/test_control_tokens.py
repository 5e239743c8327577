"""Control tokens (delete, split, expand, further masks) never reach an answer, whatever a tokenizer
calls them.
"""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import names
from creditdecoding.decoding.request import new_request
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.text.tokenizer import Tokenizer, from_backend
from tools.make_checkpoint import EOT, llada_tokenizer

torch.set_num_threads(1)

CONTROL = (
    "<|delete|>",
    "<|SPLIT|>",
    "[expand]",
    "<Delete>",
    "{split_token}",
    "<\uff5cinsert\uff5c>",
    "<|mask|>",
)
HARMLESS = ("delete", "splitting", "<|deleted_file|>", "[redelete]")


def words(special: bool) -> Tokenizer:
    """LLaDA's tokenizer with control tokens behind it, as special tokens or as plain added ones."""
    base = llada_tokenizer()
    for text in (*CONTROL, *HARMLESS):
        base.add_tokens([AddedToken(text, special=special, normalized=False)])
    backend = PreTrainedTokenizerFast(tokenizer_object=base)
    return from_backend(
        backend, backend.convert_tokens_to_ids("<|mdm_mask|>"), [backend.convert_tokens_to_ids(EOT)]
    )


class Pushy:
    """Wants one id everywhere, and any other far less."""

    def __init__(self, liked: list[int], size: int) -> None:
        self.wanted, self.size = liked, size

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        logits = torch.zeros(len(read[0]), self.size)
        logits[:, 65] = 5.0
        logits[:, self.wanted] = 30.0
        return logits


@pytest.mark.parametrize("special", [True, False])
def test_control_tokens_are_found_in_every_spelling(special: bool) -> None:
    tokenizer = words(special)
    expected = {tokenizer.backend.convert_tokens_to_ids(text) for text in CONTROL}
    assert set(tokenizer.control_ids) == expected and tokenizer.mask_id not in expected


def test_control_tokens_of_the_bare_vocabulary_are_found() -> None:
    """A tokenizer may know them without a list of added tokens."""

    class Bare:
        eos_token_id = None
        mask_token_id = 0
        chat_template = None

        def get_vocab(self) -> dict[str, int]:
            return {"<|m|>": 0, "<|delete|>": 1, "[split]": 2, "expand": 3, "a": 4}

        def get_added_vocab(self) -> dict[str, int]:
            return {}

    assert from_backend(Bare()).control_ids == (1,)  # [split] is also what code looks like


@pytest.mark.parametrize("decoder", names())
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_no_rule_writes_a_control_token_that_the_model_prefers(
    decoder: str, temperature: float
) -> None:
    tokenizer = words(special=False)
    model = Pushy(list(tokenizer.control_ids), tokenizer.size)
    lm = LM(model, tokenizer, max_length=64, device=torch.device("cpu"))
    options = GenerationConfig(decoder=decoder, gen_length=8, temperature=temperature)
    try:
        row = new_request(0, [65, 66], options, lm.vocab, lm.max_length)
    except OptionError as error:
        pytest.skip(f"this rule needs a network of this package: {error}")
    answer = lm.collect([row])[0]
    assert not set(answer.trace.written.values()) & set(tokenizer.control_ids)
    assert temperature or answer.text == tokenizer.token_text(65) * 8


def test_a_begun_answer_with_a_control_token_is_refused() -> None:
    tokenizer = words(special=True)
    lm = LM(Pushy([65], tokenizer.size), tokenizer, max_length=64, device=torch.device("cpu"))
    with pytest.raises(OptionError, match="control token"):
        lm.new_request([65], GenerationConfig(gen_length=8), begun=[tokenizer.control_ids[0]])
