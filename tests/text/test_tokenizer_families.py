"""The tokenizer of each released family: template, mask, end tokens, and vocabularies in several
files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from creditdecoding.errors import CheckpointError
from creditdecoding.models import read_config
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from tests.helpers.tokenizer_texts import (
    ONE,
    SEVERAL,
    shown,
    specials,
    user,
)
from tools.checkpoints import qwen, tiny_tokenizers
from tools.make_checkpoint import EOS, EOT, make, write_json

SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
TURN = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
LING = (
    "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>Q<|role_end|><role>"
    "ASSISTANT</role>"
)
FAMILIES: dict[str, tuple[str, str, set[str]]] = {
    "llada": (ONE, "<|mdm_mask|>", {EOS, EOT}),
    "llada_moe": (LING, "<|mask|>", {EOS, "<|role_end|>"}),
    "llada2": (LING, "<|mask|>", {EOS, "<|role_end|>"}),
    "dream": (
        SYSTEM.format("You are a helpful assistant.") + TURN,
        "<|mask|>",
        {EOS, "<|im_end|>"},
    ),
    "sdar": (TURN, "<MASK>", {EOS, "<|im_end|>"}),
    "sdar_moe": (TURN, "<MASK>", {EOS, "<|im_end|>"}),
    "fast_dllm": (
        SYSTEM.format("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
        + TURN,
        "|<MASK>|",
        {EOS, "<|im_end|>"},
    ),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def released(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Tokenizer]:
    """A family, its folder and its tokenizer."""
    folder = make(request.param, tmp_path_factory.mktemp(request.param))
    (folder / "tokenization_dream.py").write_text("raise SystemExit('remote code ran')")
    return request.param, folder, read_tokenizer(folder, read_config(folder)[0])


def test_each_family_has_its_template_mask_and_end_tokens(
    released: tuple[str, Path, Tokenizer],
) -> None:
    name, folder, family_tokenizer = released
    text, mask, ends = FAMILIES[name]
    assert shown(family_tokenizer, family_tokenizer.encode_chat([user("Q")])) == text
    assert (
        family_tokenizer.token_text(family_tokenizer.mask_id) == mask
        and {family_tokenizer.token_text(i) for i in family_tokenizer.stop_ids} == ends
    )
    assert (
        family_tokenizer.size
        == len(family_tokenizer.backend)
        < read_config(folder)[0].embedding_rows
    )
    assert family_tokenizer.encode(mask) == [family_tokenizer.mask_id]


def test_each_template_takes_a_system_message_and_several_turns(
    released: tuple[str, Path, Tokenizer],
) -> None:
    name, _, family_tokenizer = released
    turns = [
        {"role": "system", "content": "S"},
        user("Q1"),
        {"role": "assistant", "content": "A1"},
        user("Q2"),
    ]
    text = shown(family_tokenizer, family_tokenizer.encode_chat(turns))
    if name == "llada":
        assert text == SEVERAL.replace("Be brief.", "S").replace("A1\n\n  A2", "A1")
    elif name in ("llada_moe", "llada2"):
        middle = "<role>HUMAN</role>Q1<|role_end|><role>ASSISTANT</role>A1<|role_end|>"
        assert text == LING.replace("detailed", "S\ndetailed").replace(
            "<role>HUMAN", middle + "<role>HUMAN"
        ).replace(">Q<", ">Q2<")
    else:
        body = "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        assert text == SYSTEM.format("S") + body + TURN.replace("Q", "Q2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " a  b\n\nc ",
        "Peru has 12 apples.\t\r\n",
        "é𐍈 日本 don't I'M",
        "def f(x):\n    return x",
        "<|im",
        "<think>x</think>",
    ],
)
def test_text_round_trips_in_each_family(released: tuple[str, Path, Tokenizer], text: str) -> None:
    _, _, family_tokenizer = released
    ids = family_tokenizer.encode(text)
    assert family_tokenizer.decode(ids) == text and all(0 <= i < family_tokenizer.size for i in ids)


def test_tokens_of_tools_and_thoughts_are_text_of_an_answer(
    released: tuple[str, Path, Tokenizer],
) -> None:
    """They are added tokens but no special ones, so that decoding keeps them."""
    name, _, family_tokenizer = released
    if name in ("dream", "sdar", "fast_dllm"):
        assert (
            len(family_tokenizer.encode("<tool_call>")) == 1
            and family_tokenizer.decode(family_tokenizer.encode("<tool_call>a<|im_end|>"))
            == "<tool_call>a"
        )


def test_vocabulary_and_merges_give_the_ids_of_a_whole_tokenizer(tmp_path: Path) -> None:
    """Dream has no tokenizer.json; the same one written as a whole must encode alike, added tokens
    at their ids.
    """
    folder = make("dream", tmp_path / "pieces")
    assert not (folder / "tokenizer.json").exists()
    from_parts, whole = (
        read_tokenizer(folder, read_config(folder)[0]),
        tiny_tokenizers.qwen_bpe(qwen.DREAM_SPECIAL, plain=qwen.PLAIN),
    )
    for text in (
        *tiny_tokenizers.TEXTS,
        "I'll don't 123 \n\n x  ",
        "e\u0301 日本𐍈",
        "<|im_start|>user\nhi<|im_end|>\n<|mask|><|mask|> <tool_call>",
    ):
        assert from_parts.encode(text) == whole.encode(text, add_special_tokens=False).ids
    added = json.loads((folder / "added_tokens.json").read_text())
    assert list(added.values()) != sorted(added.values())
    assert {text: from_parts.encode(text) for text in added} == {
        text: [i] for text, i in added.items()
    }
    (folder / "added_tokens.json").unlink()  # tokenizer_config.json says the same
    assert read_tokenizer(folder).backend.get_vocab() == from_parts.backend.get_vocab()


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_vocabulary_without_merges_is_refused(file: str, tmp_path: Path) -> None:
    folder = make("dream", tmp_path)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*vocab\.json"):
        read_tokenizer(folder)


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = make("dream", tmp_path)
    write_json(folder / "vocab.json", {"a": "b"})
    with pytest.raises(CheckpointError, match=r"vocab\.json") as caught:
        read_tokenizer(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["<MASK>", "<|MASK|>"])
def test_two_names_of_the_mask_are_one_id(name: str, tmp_path: Path) -> None:
    """SDAR's tokenizer_config.json says `<|MASK|>`, its map of special tokens `<MASK>`;
    tokenizer.json has one of them.
    """
    folder = make("sdar", tmp_path)
    (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace("<MASK>", name)
    )
    family_tokenizer = read_tokenizer(folder, read_config(folder)[0])
    assert family_tokenizer.token_text(
        family_tokenizer.mask_id
    ) == name and family_tokenizer.mask_id == family_tokenizer.size - 1 == tiny_tokenizers.qwen_bpe(
        qwen.SDAR_SPECIAL
    ).token_to_id("<|MASK|>")


def test_stop_ids_of_generation_config_count_without_a_template(tmp_path: Path) -> None:
    folder = make("sdar", tmp_path)
    raw = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**raw, "chat_template": None})
    family_tokenizer = read_tokenizer(folder, read_config(folder)[0])
    assert {family_tokenizer.token_text(i) for i in family_tokenizer.stop_ids} == {
        EOS,
        "<|im_end|>",
    }
    (folder / "generation_config.json").unlink()
    family_tokenizer = read_tokenizer(folder, read_config(folder)[0])
    assert {family_tokenizer.token_text(i) for i in family_tokenizer.stop_ids} == {EOS}


def test_no_family_lets_a_message_forge_a_turn(released: tuple[str, Path, Tokenizer]) -> None:
    _, _, family_tokenizer = released
    names = [
        token.content
        for i, token in family_tokenizer.backend.added_tokens_decoder.items()
        if token.special
    ]
    text = f" {''.join(names)} x{names[-1][:-1]}"
    frame = specials(
        family_tokenizer,
        family_tokenizer.encode_chat([{"role": "system", "content": "S"}, user("Q")]),
    )
    ids = family_tokenizer.encode_chat([{"role": "system", "content": text}, user(text)])
    assert specials(family_tokenizer, ids) == frame
    assert (
        family_tokenizer.mask_id not in ids
        and family_tokenizer.decode(ids).count(text.strip()) == 2
    )
