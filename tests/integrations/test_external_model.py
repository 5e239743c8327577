"""Networks of one's own: transformers' classes, a PEFT-wrapped one and plain functions, in batches,
traces and comparisons.
"""

from __future__ import annotations

import random
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, AutoTokenizer

import creditdecoding as cd
from creditdecoding import OptionError, wrap
from creditdecoding.errors import ModelError
from creditdecoding.eval.compare import compare
from creditdecoding.integrations.external_denoiser import ExternalDenoiser, find_denoiser
from creditdecoding.tasks.base import Item, Task
from tests.helpers.foreign_models import END, MASK, WORDS, network, tokenizer, two_way

torch.set_num_threads(1)
PROMPTS = ["w1 w2 w3 w4 w5 w6 w7", "w3", "w9 w8 w7"]
OPTIONS: dict[str, Any] = {
    "raw": True,
    "gen_length": 11,
    "block_length": 4,
    "decoder": "threshold:threshold=0.6",
}
CPU = torch.device("cpu")


class Wrapped(nn.Module):
    """As adapters wrap a network: nothing of it shows in the signature, and dropout is on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base, self.drop, self.config = model, nn.Dropout(0.5), model.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.base(*args, **kwargs)
        return SimpleNamespace(logits=self.drop(output.logits))


def peft(name: str, target: list[str]) -> Any:
    package = pytest.importorskip("peft", reason="peft is not installed")
    return package.get_peft_model(
        network(name), package.LoraConfig(target_modules=target, r=2, init_lora_weights=False)
    )


def masked(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    return model(ids, attention_mask=mask).logits


def careless(model: nn.Module, ids: Tensor, attention_mask: Tensor) -> Tensor:
    return model(ids).logits


NETWORKS: dict[str, Any] = {
    "Bert": (lambda: network("Bert"), "2d"),
    "Roberta": (lambda: network("Roberta"), "2d"),
    "ModernBert": (lambda: network("ModernBert", seed=4), "2d"),  # seed 0 has ties under 5.0
    "Llama": (lambda: network("Llama"), "4d"),
    "Qwen3": (lambda: network("Qwen3"), "4d"),
    "Llama in training mode, wrapped": (lambda: Wrapped(network("Llama")).train(), "4d"),
    "Llama in PEFT": (lambda: peft("Llama", ["q_proj", "v_proj"]).eval(), "4d"),
    "Bert in PEFT": (lambda: peft("Bert", ["query", "value"]).eval(), "2d"),
    "a class that returns tuples": (lambda: network("Bert", return_dict=False), "2d"),
    "a function of ids": (lambda: two_way(network("Llama")), "none"),
    "a function of ids and mask": (lambda: partial(masked, network("Bert")), "2d"),
    "a function that looks away from the mask": (
        lambda: partial(careless, network("Bert")),
        "none",
    ),
}


def story(done: cd.Completion) -> list[Any]:
    return [(s.positions, s.tokens, s.committed) for s in done.trace.steps]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_gives_what_its_rows_get_alone(name: str) -> None:
    """Through padding of every kind; the right way of asking is found, and the network's mode is
    left as it was.
    """
    make, way = NETWORKS[name]
    model = make()
    mode = getattr(model, "training", None)
    lm = wrap(model, tokenizer(), mask_token_id=MASK)
    assert isinstance(lm.model, ExternalDenoiser) and lm.model.mask_kind == way
    together = lm.generate(PROMPTS, **OPTIONS)
    alone = [lm.generate(prompt, **OPTIONS) for prompt in PROMPTS]
    assert [story(done) for done in together] == [story(done) for done in alone]
    assert len({done.text for done in together}) == 3 and min(done.nfe for done in together) < 11
    assert getattr(model, "training", None) == mode


@pytest.mark.parametrize("name", ("Llama", "Qwen3"))
def test_a_causal_class_turned_two_way_is_its_own_switch(name: str) -> None:
    """The mask [rows, 1, length, length] does what transformers' is_causal=False does, which knows
    no padding.
    """
    model = network(name)
    square, alone = (
        wrap(network, tokenizer(), mask_token_id=MASK) for network in (model, two_way(model))
    )
    assert [story(d) for d in square.generate(PROMPTS, **OPTIONS)] == [
        story(d) for d in alone.generate(PROMPTS, **OPTIONS)
    ]


def test_attention_of_the_eager_kind_and_half_precision() -> None:
    for model in (
        network("Qwen3", attn_implementation="eager"),
        network("Llama").to(torch.bfloat16),
    ):
        lm = wrap(model, tokenizer())
        assert [d.text for d in lm.generate(PROMPTS, **OPTIONS)] == [
            lm.generate(p, **OPTIONS).text for p in PROMPTS
        ]


@pytest.mark.parametrize("some", (True, False))
def test_shifted_logits_are_read_one_to_the_left(some: bool) -> None:
    model = network("Llama")
    net, size = find_denoiser(model, MASK, logit_shift=True)
    net = ExternalDenoiser(
        model,
        net.mask_kind,
        net.geometry,
        fixed_arguments=net.fixed_arguments,
        takes_logits_to_keep=some,
    )
    ids, read = (
        torch.tensor([[5, 6, 7, 8], [9, 8, 7, 0]]),
        (torch.tensor([0, 0, 1]), torch.tensor([0, 3, 2])),
    )
    seen = torch.tensor([[[1, 1, 1, 1]], [[1, 1, 1, 0]]]).bool()
    full = [two_way(model)(ids[:1])[0], two_way(model)(ids[1:, :3])[0]]
    torch.testing.assert_close(
        net(ids, read, seen), torch.stack((full[0][0], full[0][2], full[1][1]))
    )
    assert size == len(WORDS) and net.geometry.logit_shift


def test_block_causal_attention_is_asked_for() -> None:
    """A class with causal_block: later blocks change nothing, the same block does."""
    net, _ = find_denoiser(network("Qwen3"), MASK, causal_block=4)
    read = (torch.zeros(4, dtype=torch.long), torch.arange(4))
    one, same, later = (
        net(torch.tensor([ids]), read)
        for ids in ([5, 6, 7, 8, 9, 9, 9, 9], [5, 6, 7, 9, 9, 9, 9, 9], [5, 6, 7, 8, 1, 2, 5, 7])
    )
    torch.testing.assert_close(one, later)
    assert not torch.allclose(one, same)
    lm = wrap(network("Qwen3"), tokenizer(), causal_block=4)
    done = lm.generate(PROMPTS, raw=True, gen_length=9, decoder="fixed")
    assert [story(d) for d in done] == [
        story(lm.generate(p, raw=True, gen_length=9, decoder="fixed")) for p in PROMPTS
    ]


def test_what_is_known_of_a_released_network_comes_from_its_config() -> None:
    """A remote-code class names its architecture: Dream's logits are shifted, its mask and length
    are in the config.
    """
    released = {
        "architectures": ["DreamModel"],
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    released |= {
        "intermediate_size": 32,
        "vocab_size": 40,
        "max_position_embeddings": 48,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-5,
    }
    released |= {"mask_token_id": 7, "eos_token_id": 3, "tie_word_embeddings": False}
    model = Wrapped(network("Llama")).eval()
    model.config = SimpleNamespace(to_dict=lambda: released, mask_token_id=7)
    lm = wrap(model, tokenizer())
    assert lm.geometry.logit_shift and lm.vocab.mask_id == 7 and lm.max_length == 48
    assert not wrap(model, tokenizer(), logit_shift=False).geometry.logit_shift


def test_an_auto_class_from_a_folder_takes_three_lines(tmp_path: Any) -> None:
    network("ModernBert", seed=3).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = wrap(
        AutoModelForMaskedLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    )
    assert story(lm.generate("w1 w2", **OPTIONS)) == story(
        wrap(network("ModernBert", seed=3), tokenizer()).generate("w1 w2", **OPTIONS)
    )


def test_a_network_of_ours_is_taken_as_it_is() -> None:
    pocket = cd.load("pocket")
    lm = wrap(pocket.model, pocket.tokenizer)
    assert (
        lm.model is pocket.model
        and lm.generate("Solve 2x+3=9 for x.", cache="dual").text
        == pocket.generate("Solve 2x+3=9 for x.", cache="dual").text
    )


def test_a_network_of_ours_without_a_tokenizer_takes_ids_and_says_what_is_missing() -> None:
    pocket = cd.load("pocket")
    ends = (
        pocket.vocab.stop_ids
    )  # the template's end of turn among them, which only the tokenizer knows
    lm = wrap(pocket.model, None, mask_token_id=pocket.vocab.mask_id, stop_token_ids=ends)
    assert lm.vocab.size == pocket.model.config.embedding_rows
    (done,) = lm.collect(
        [lm.new_request(pocket.encode("Solve 2x+3=9 for x."), cd.GenerationConfig())]
    )
    assert done.trace.tokens == pocket.generate("Solve 2x+3=9 for x.").trace.tokens
    assert done.text == ""
    for ask in (
        lm.generate,
        lambda text: lm.generate(text, raw=True),
        lm.infill,
        lambda text: list(lm.stream(text)),
    ):
        with pytest.raises(OptionError, match="no tokenizer"):
            ask("Solve [MASK]")


@pytest.mark.parametrize(
    ("message", "words", "options"),
    [
        ("mask_token_id is not this model's", False, {"mask_token_id": 9}),
        ("mask_token_id is not the tokenizer's", True, {"mask_token_id": 9}),
        ("logit_shift is not this model's", True, {"logit_shift": True}),
        ("causal_block is not this model's", True, {"causal_block": 4}),
        ("mask_kind is not chosen", True, {"mask_kind": "4d"}),
        ("stop_token_ids outside", True, {"stop_token_ids": [10**6]}),
    ],
)
def test_what_contradicts_a_network_of_ours_is_refused(
    message: str, words: bool, options: dict[str, Any]
) -> None:
    pocket = cd.load("pocket")
    with pytest.raises(OptionError, match=message):
        wrap(pocket.model, pocket.tokenizer if words else None, **options)
    assert wrap(pocket.model, pocket.tokenizer, stop_token_ids=[7]).vocab.stop_ids == (7,)


def test_facts_that_are_given_win_and_foreign_defaults_are_left_out() -> None:
    lm = wrap(network("Roberta"), tokenizer())
    assert lm.vocab.mask_id == MASK and lm.vocab.stop_ids == (END,) and lm.max_length == 63
    lm = wrap(
        network("Bert", eos_token_id=999),
        tokenizer(),
        mask_token_id=9,
        stop_token_ids=[8],
        max_length=20,
        batch_size=2,
    )
    assert (lm.vocab.mask_id, lm.vocab.stop_ids, lm.max_length, lm.batch_size) == (9, (8,), 20, 2)
    assert wrap(network("Bert", eos_token_id=999), tokenizer()).vocab.stop_ids == (END,)
    with pytest.raises(OptionError, match="do not fit"):
        lm.generate("w1 w2", raw=True, gen_length=19)


def nan_for(word: int) -> Any:
    """A network that breaks on rows with a certain id."""
    model = two_way(network("Llama"))
    return lambda ids: model(ids).masked_fill((ids == word).any(-1)[:, None, None], torch.nan)


LOGITS = torch.zeros(1, 1, len(WORDS))
BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("bert", {}, OptionError, "not a model"),
    (lambda ids: LOGITS[0], {}, ModelError, "wrong shape"),
    (lambda ids: LOGITS, {}, ModelError, "wrong shape"),
    (lambda ids: [1, 2], {}, ModelError, "wrong shape"),
    (lambda ids: torch.full((*ids.shape, len(WORDS)), torch.nan), {}, ModelError, "not numbers"),
    (lambda ids: torch.zeros(*ids.shape, 20), {}, OptionError, "more ids than"),
    (lambda ids: torch.zeros(*ids.shape, 3), {}, OptionError, "mask id is outside"),
    (network("Bert").bert, {}, ModelError, "needs a language-model head"),
    (lambda ids: ids.nothing, {}, OptionError, "AttributeError"),
    (lambda ids: network("Llama")(ids).logits, {}, OptionError, "it is causal"),
    (network("Llama"), {"mask_kind": "2d"}, OptionError, "it is causal"),
    (network("Llama"), {"mask_kind": "triangle"}, OptionError, "mask_kind is out of range"),
    (two_way(network("Llama")), {"causal_block": 4}, OptionError, "takes no attention_mask"),
    (network("Bert"), {"mask_token_id": 40}, OptionError, "mask id is not in the tokenizer"),
    (network("Bert"), {"stop_token_ids": [40]}, OptionError, "stop_token_ids outside"),
]


@pytest.mark.parametrize(
    ("model", "options", "error", "message"), BAD, ids=[message for *_, message in BAD]
)
def test_what_cannot_denoise_is_refused_at_once(
    model: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        wrap(model, tokenizer(), **options)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_mask_asks_for_its_id() -> None:
    words = tokenizer()
    words.mask_token = None
    words._tokenizer.add_special_tokens(["w1"])
    plain = SimpleNamespace(
        **{
            n: getattr(words, n)
            for n in (
                "encode",
                "decode",
                "get_vocab",
                "chat_template",
                "eos_token_id",
                "mask_token_id",
            )
        }
    )
    plain.get_added_vocab = dict
    with pytest.raises(OptionError, match="Give mask_token_id"):
        wrap(network("Bert"), plain)
    assert wrap(network("Bert"), plain, mask_token_id=MASK).vocab.mask_id == MASK
    with pytest.raises(OptionError, match="not a tokenizer"):
        wrap(network("Bert"), "bert-base-uncased")


def test_numbers_that_go_wrong_later_fail_that_request() -> None:
    lm = wrap(nan_for(9), tokenizer())
    with pytest.raises(ModelError, match="not numbers"):
        lm.generate("w4 w1", raw=True, gen_length=4)  # w4 is id 9
    assert lm.generate("w5 w1", raw=True, gen_length=4).nfe
    engine, ended = cd.Engine(lm.model, lm.vocab, lm.device), []
    numbers = [
        engine.submit(row)
        for row in lm.new_requests(
            ["w5 w1", "w4 w1", "w6"], cd.GenerationConfig(gen_length=4), raw=True
        )
    ]
    while engine.busy:
        ended += [event for event in engine.step() if not isinstance(event, cd.StepEvent)]
    failed = [event for event in ended if isinstance(event, cd.FailEvent)]
    assert (
        len(ended) == 3
        and [event.row for event in failed] == [numbers[1]]
        and "not numbers" in failed[0].error
    )


def test_traces_streams_and_gaps_work() -> None:
    lm = wrap(network("Bert"), tokenizer())
    done = lm.generate("w1 w2", **OPTIONS)
    assert "".join(lm.stream("w1 w2", **OPTIONS)) == done.text and done.trace.nfe == done.nfe > 0
    gaps = lm.infill("w1 [MASK] w2 [MASK]", decoder="fixed")
    assert gaps.text.split()[::2] == ["w1", "w2"] and gaps.nfe == 2


def _make(rng: random.Random) -> Item:
    word = f"w{rng.randrange(35)}"
    return Item("echo", word, word, word, (word, rng.random()))


ECHO = Task("echo", "say a word", _make, lambda text, item: item.gold in text.split())


def test_decoders_are_compared_in_three_lines(tmp_path: Any) -> None:
    """On tasks of one's own; the same report again from a folder, none for another model."""
    lm = wrap(network("Bert"), tokenizer())
    report = compare(
        lm,
        "threshold:threshold=0.5|0.9 credit:threshold=0.9",
        [ECHO],
        limit=4,
        dev_limit=3,
        raw=True,
        gen_length=6,
        out=tmp_path,
    )
    assert [curve["name"] for curve in report["curves"]] == [
        "threshold",
        "credit:threshold=0.9",
    ] and report["verdict"]
    standard = report["reference"]["test"]
    assert standard["nfe"] > report["curves"][0]["points"][0]["test"]["nfe"] and report[
        "items"
    ] == {"dev": 3, "test": 4}
    again = compare(
        lm,
        "threshold:threshold=0.5|0.9 credit:threshold=0.9",
        [ECHO],
        limit=4,
        dev_limit=3,
        raw=True,
        gen_length=6,
        out=tmp_path,
    )
    assert again == report
    other = wrap(network("Bert", seed=1), tokenizer())
    with pytest.raises(OptionError, match="other settings"):
        compare(
            other,
            "threshold:threshold=0.5|0.9 credit:threshold=0.9",
            [ECHO],
            limit=4,
            dev_limit=3,
            raw=True,
            gen_length=6,
            out=tmp_path,
        )
    with pytest.raises(OptionError, match="several decoders"):
        compare(lm, "fixed", [ECHO], limit=4, dev_limit=3, decoder="credit")
