"""Text to ids and back: the chat template letter by letter, round trips, and where the special ids are found."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import read_config
from creditdecoding.tokenizer import Tokenizer, load_tokenizer
from creditdecoding.train.vocabulary import save_tokenizer, train_tokenizer
from tests.make_checkpoint import BOS, EOS, EOT, MASK, SPECIAL, llada_tokenizer, make, write_json


def plain(text: str) -> bool:
    """Whether no special token is written out in a text (those are ids of their own, and left out of an answer's text)."""
    return not any(special in text for special in SPECIAL)


# Everything that can be encoded as UTF-8, and text full of fragments of special tokens.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(plain)
FRAGMENTS = ("<|", "|>", "eot_id", "mask", "[MASK]", " ", "\n", "7", "é", "𐍈", "the ", "\t", "000")
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join).filter(plain)
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in the released format."""
    return make("llada", tmp_path_factory.mktemp("llada"))


@pytest.fixture(scope="module")
def llada(folder: Path) -> Tokenizer:
    """Its tokenizer."""
    return load_tokenizer(folder, read_config(folder)[0])


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that the project itself trained and wrote."""
    folder = tmp_path_factory.mktemp("pocket")
    texts = ["The capital of Peru is Lima.", "user\n\nassistant\n\n", "Tom has 12 apples."] * 20
    save_tokenizer(train_tokenizer(texts, 320), folder)
    return load_tokenizer(folder)


@pytest.fixture(params=["llada", "pocket"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of the two."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text of ids with the special tokens."""
    return "".join(tokenizer.piece(i) for i in ids)


def user(content: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": content}


ONE = "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
SEVERAL = (
    "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA1\n\n  A2<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def test_one_turn_is_the_published_string(tokenizer: Tokenizer) -> None:
    assert shown(tokenizer, tokenizer.chat([user("Q")])) == ONE


def test_content_is_trimmed_on_the_outside_only(tokenizer: Tokenizer) -> None:
    assert shown(tokenizer, tokenizer.chat([user(" \n\tQ\n ")])) == ONE
    assert shown(tokenizer, tokenizer.chat([user(" a  b\n\nc ")])) == ONE.replace("Q", "a  b\n\nc")


def test_several_turns_are_the_published_string(tokenizer: Tokenizer) -> None:
    turns = [{"role": "system", "content": "Be brief."}, user(" Q1"), {"role": "assistant", "content": "A1\n\n  A2 "}, user("Q2\n")]
    assert shown(tokenizer, tokenizer.chat(turns)) == SEVERAL


def test_bos_comes_once_and_first(tokenizer: Tokenizer) -> None:
    bos = tokenizer.backend.bos_token_id
    for turns in ([user("Q")], [user("Q"), {"role": "assistant", "content": "A"}, user("R")]):
        ids = tokenizer.chat(turns)
        assert ids[0] == bos and ids.count(bos) == 1
    assert bos not in tokenizer.encode("plain text") and tokenizer.encode("") == []


def test_the_fixture_would_show_a_doubled_bos(llada: Tokenizer) -> None:
    """The released tokenizer puts bos first by itself; `encode` must not let it."""
    bos = llada.backend.bos_token_id
    assert llada.backend(ONE)["input_ids"].count(bos) == 2
    assert llada.encode(ONE) == llada.chat([user("Q")])


def test_special_tokens_written_out_are_one_id_each(tokenizer: Tokenizer) -> None:
    for text in (BOS, EOS, MASK, EOT):
        assert len(tokenizer.encode(text)) == 1
        assert tokenizer.piece(tokenizer.encode(text)[0]) == text
    assert tokenizer.encode("a" + MASK + "b")[1] == tokenizer.mask_id
    assert tokenizer.decode(tokenizer.encode(f"{BOS}a{MASK}b{EOT}{EOS}")) == "ab"


@pytest.mark.parametrize("name", ["llada", "pocket"])
@FAST
@given(text=TEXTS | PIECES)
def test_any_text_round_trips(name: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.size and i not in tokenizer.stop_ids and i != tokenizer.mask_id for i in ids)


@pytest.mark.parametrize("name", ["llada", "pocket"])
@FAST
@given(text=TEXTS)
def test_any_content_keeps_the_frame_of_the_template(name: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    ids = tokenizer.chat([user(text)])
    frame = tokenizer.chat([user("")])
    end = tokenizer.encode(EOT)[0]
    assert ids[:3] == frame[:3] and ids[ids.index(end) :] == frame[frame.index(end) :]
    assert ids.count(end) == 1


@FAST
@given(digits=st.text(string.digits, min_size=1, max_size=12))
def test_every_digit_is_a_token_of_the_embedded_model(pocket: Tokenizer, digits: str) -> None:
    assert [pocket.piece(i) for i in pocket.encode(digits)] == list(digits)


def test_a_part_of_a_character_decodes_to_a_sign_that_says_so(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("𐍈")
    assert tokenizer.decode(ids) == "𐍈" and "\ufffd" in tokenizer.decode(ids[:-1])


def test_stop_ids_are_end_of_text_and_end_of_turn(tokenizer: Tokenizer) -> None:
    assert {tokenizer.piece(i) for i in tokenizer.stop_ids} == {EOS, EOT}
    assert list(tokenizer.stop_ids) == sorted(tokenizer.stop_ids)


def test_size_counts_the_ids_that_mean_something(llada: Tokenizer, folder: Path) -> None:
    config, _ = read_config(folder)
    assert llada.size == llada_tokenizer().get_vocab_size() < config.embedding_rows
    assert llada.piece(llada.size - 1) == EOT


def altered(folder: Path, to: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """A copy of the tokenizer with another tokenizer_config.json, and of config.json."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        (to / file).write_bytes((folder / file).read_bytes())
    raw = {**json.loads((to / "tokenizer_config.json").read_text()), **changes}
    write_json(to / "tokenizer_config.json", {name: value for name, value in raw.items() if name not in drop})
    return to


def set_config(folder: Path, **changes: Any) -> None:
    """Change config.json; None removes."""
    raw = {**json.loads((folder / "config.json").read_text()), **changes}
    write_json(folder / "config.json", {name: value for name, value in raw.items() if value is not None})


def test_stop_ids_join_all_sources(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path)
    set_config(tmp_path, eos_token_id=[3, 4])
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert set(found.stop_ids) == {3, 4, found.encode(EOS)[0], found.encode(EOT)[0]}


def test_without_a_template_only_the_end_of_text_stops(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path, drop=("chat_template",))
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert [found.piece(i) for i in found.stop_ids] == [EOS]
    with pytest.raises(OptionError, match=r"no chat template.*plain text"):
        found.chat([user("Q")])


def test_the_template_may_lie_in_a_file_of_its_own(folder: Path, tmp_path: Path, llada: Tokenizer) -> None:
    altered(folder, tmp_path, drop=("chat_template",))
    (tmp_path / "chat_template.jinja").write_text(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert found.chat([user("Q")]) == llada.chat([user("Q")]) and found.stop_ids == llada.stop_ids


CHATML = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '\n' + m['content'] + '<|end_header_id|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant\n' }}{% endif %}"
)


def test_the_end_of_turn_is_what_the_template_writes(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path, chat_template=CHATML)
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert {found.piece(i) for i in found.stop_ids} == {EOS, "<|end_header_id|>"}
    assert shown(found, found.chat([user("Q")])) == "<|start_header_id|>user\nQ<|end_header_id|>\n<|start_header_id|>assistant\n"


def test_a_template_that_ends_a_turn_in_words_adds_no_stop(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path, chat_template="{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert [found.piece(i) for i in found.stop_ids] == [EOS]


def test_mask_id_is_read_from_config_first(folder: Path, tmp_path: Path) -> None:
    other = llada_tokenizer().token_to_id("<|reserved_token_2|>")
    altered(folder, tmp_path, mask_token="<|reserved_token_1|>")
    set_config(tmp_path, mask_token_id=other)
    assert load_tokenizer(tmp_path, read_config(tmp_path)[0]).mask_id == other


def test_mask_id_zero_counts_as_given(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path)
    set_config(tmp_path, mask_token_id=0)
    assert load_tokenizer(tmp_path, read_config(tmp_path)[0]).mask_id == 0


def test_mask_id_is_read_from_the_mask_token_next(folder: Path, tmp_path: Path) -> None:
    altered(folder, tmp_path, mask_token="<|reserved_token_1|>")
    set_config(tmp_path, mask_token_id=None)
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert found.piece(found.mask_id) == "<|reserved_token_1|>"


@pytest.mark.parametrize("text", ["<|mask|>", "<|MASK|>", "<MASK>", "|<MASK>|", "<|mdm_mask|>", "<mask>"])
def test_mask_id_is_read_from_the_text_of_an_added_token_last(text: str, folder: Path, tmp_path: Path) -> None:
    """As the families spell it."""
    altered(folder, tmp_path, drop=("added_tokens_decoder",))
    set_config(tmp_path, mask_token_id=None)
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace(MASK, text))
    found = load_tokenizer(tmp_path, read_config(tmp_path)[0])
    assert found.piece(found.mask_id) == text
    assert found.mask_id == llada_tokenizer().token_to_id(MASK)


def test_an_ordinary_word_is_no_mask(folder: Path, tmp_path: Path) -> None:
    """`mask` among the byte pairs or a look-alike added token does not count."""
    altered(folder, tmp_path, drop=("added_tokens_decoder",))
    set_config(tmp_path, mask_token_id=None)
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace(MASK, "<|unmasked|>"))
    with pytest.raises(CheckpointError, match=r"no mask token.*mask_token_id"):
        load_tokenizer(tmp_path, read_config(tmp_path)[0])


def test_a_tokenizer_may_fill_the_embedding_but_not_exceed_it(folder: Path, tmp_path: Path) -> None:
    config, _ = read_config(folder)
    tokenizer = llada_tokenizer()
    tokenizer.add_tokens([AddedToken(f"<extra {i}>") for i in range(config.embedding_rows - tokenizer.get_vocab_size())])
    altered(folder, tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path, config).size == config.embedding_rows
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=f"{config.embedding_rows + 1}.*{config.embedding_rows}"):
        load_tokenizer(tmp_path, config)


def test_every_special_token_is_known_to_the_released_format(llada: Tokenizer) -> None:
    assert [len(llada.encode(text)) for text in SPECIAL] == [1] * len(SPECIAL)
