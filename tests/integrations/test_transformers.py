"""transformers' `generate` with our decoding, on its own small random models: a function, a folder,
a class without `generate`.
"""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    TextIteratorStreamer,
    dynamic_module_utils,
)
from transformers.generation import BaseStreamer, MaxLengthCriteria, TemperatureLogitsWarper

import creditdecoding
from creditdecoding import OptionError, wrap
from creditdecoding.errors import ModelError
from creditdecoding.integrations.transformers import CreditOutput, custom_generate, generate
from creditdecoding.integrations.transformers_call import same
from tests.helpers.foreign_models import END, MASK, network, tokenizer, two_way

torch.set_num_threads(1)
IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
SEEN = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 11,
    "decoder": "threshold:threshold=0.5",
    "block_length": 4,
    "mask_token_id": MASK,
}
HUB = Path(creditdecoding.__file__).parent / "integrations" / "hub"


class Spy(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.pieces: list[list[int]] = []
        self.ends = 0

    def put(self, value: Tensor) -> None:
        self.pieces.append(value.flatten().tolist())

    def end(self) -> None:
        self.ends += 1


class Drafts(Spy):
    """Also takes drafts."""

    drafts = 0

    def put_draft(self, value: Tensor) -> None:
        self.drafts += 1
        assert value.dim() == 1 and len(value)


def answers(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """The same by `LM`: ids with the end token, where there is one."""
    lm = wrap(model, tokenizer(), stop_token_ids=[END])
    config = creditdecoding.GenerationConfig(
        decoder=OPTIONS["decoder"], gen_length=11, block_length=4, **options
    )
    padded = []
    for prompt in prompts:
        row = creditdecoding.decoding.request.new_request(
            0, prompt, config, lm.vocab, lm.max_length, lm.geometry
        )
        (done,) = lm.collect([row])
        ids = list(done.trace.tokens)
        padded.append([*ids, END] if done.finish_reason == "stop" else ids)
    return padded


@pytest.mark.slow
@pytest.mark.parametrize("name", ("Llama", "Qwen3"))
def test_a_batch_with_padding_gets_what_our_loop_gives(name: str) -> None:
    """As a function and as our own `generate`; a shorter answer is padded behind its end."""
    for seed in range(2):
        model = network(name, seed)
        expected = answers(model, [[5, 6, 7, 8], [9, 10]])
        output = model.generate(
            IDS, attention_mask=SEEN, custom_generate=custom_generate, **OPTIONS
        )
        assert torch.equal(output[:, :4], IDS) and output.shape[1] == 4 + max(map(len, expected))
        for line, answer in zip(output[:, 4:].tolist(), expected):
            assert line == answer + [0] * (len(line) - len(answer))
        assert torch.equal(generate(IDS, model=model, attention_mask=SEEN, **OPTIONS), output)
        assert torch.equal(
            generate(model=model, input_ids=IDS, attention_mask=SEEN, **OPTIONS), output
        )


def test_a_class_without_generate_is_served_too() -> None:
    model = network("Bert")
    assert not hasattr(model, "generate")
    ends = [END, 50256]  # the second as a default of a class that nobody changed
    output = generate(
        IDS,
        model=model,
        attention_mask=SEEN,
        token_type_ids=torch.zeros_like(IDS),
        eos_token_id=ends,
        **OPTIONS,
    )
    expected = answers(model, [[5, 6, 7, 8], [9, 10]])
    assert [
        line[: len(answer)] for line, answer in zip(output[:, 4:].tolist(), expected)
    ] == expected


def test_the_folder_is_a_recipe_for_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    model, spy = network("Llama"), Spy()
    options = {**OPTIONS, "custom_generate": str(HUB), "trust_remote_code": True}
    output = model.generate(IDS[:1], streamer=spy, **options)
    assert torch.equal(output, generate(IDS[:1], model=model, **OPTIONS))
    assert [i for piece in spy.pieces for i in piece] == output[0].tolist() and spy.ends == 1
    with pytest.raises(OptionError, match="stop_strings"):
        model.generate(IDS[:1], stop_strings=["w1"], tokenizer=tokenizer(), **options)


WAYS = {
    "streamer": lambda model, spy: model.generate(
        IDS[:1], custom_generate=custom_generate, streamer=spy, **OPTIONS
    ),
    "partial": lambda model, spy: model.generate(
        IDS[:1], custom_generate=functools.partial(custom_generate, streamer=spy), **OPTIONS
    ),
    "ours": lambda model, spy: generate(IDS[:1], model=model, streamer=spy, **OPTIONS),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "decoder",
    ("threshold:threshold=0.5", "fixed:order=random", "edit:threshold=0.3,editing_threshold=0.2"),
)
def test_a_streamer_gets_settled_ids_in_order(way: str, decoder: str) -> None:
    """Never one that a later step changes: what it got is the answer, in more than one piece, and
    one end.
    """
    for seed in range(3):
        spy, model = Drafts(), network("Llama", seed)
        output = (
            WAYS[way](model, spy)
            if decoder == OPTIONS["decoder"]
            else generate(IDS[:1], model=model, streamer=spy, **{**OPTIONS, "decoder": decoder})
        )
        pieces = spy.pieces[1:] if spy.pieces[0] == IDS[0].tolist() else spy.pieces
        assert [i for piece in pieces for i in piece] == output[0, 4:].tolist() and spy.ends == 1
        assert all(pieces) and spy.drafts
    assert len(pieces) > 1


def test_text_comes_out_of_transformers_own_streamer() -> None:
    model, words = network("Llama"), tokenizer()
    streamer = TextIteratorStreamer(words, skip_prompt=True, skip_special_tokens=True, timeout=120)
    thread = threading.Thread(target=functools.partial(WAYS["streamer"], model, streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == words.decode(
        generate(IDS[:1], model=model, **OPTIONS)[0, 4:], skip_special_tokens=True
    )


def test_who_waits_for_a_streamer_is_freed_by_an_error() -> None:
    spy, calls = Spy(), []

    def broken(ids: Tensor) -> Tensor:
        calls.append(ids)
        return two_way(network("Llama"))(ids).masked_fill(torch.tensor(len(calls) > 7), torch.nan)

    with pytest.raises(ModelError, match="not numbers"):
        generate(IDS[:1], model=broken, streamer=spy, **OPTIONS)
    assert spy.ends == 1
    with pytest.raises(ModelError, match="wrong shape"):
        generate(IDS[:1], model=lambda ids: torch.zeros(3, 3), streamer=spy, **OPTIONS)
    assert spy.ends == 2


def test_the_generation_config_is_kept_to() -> None:
    model = network("Llama")
    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 5, "top_p": 0.9}
    torch.manual_seed(3)
    one = generate(IDS[:1], model=model, **OPTIONS, **drawn)
    again, other = (
        generate(IDS[:1], model=model, seed=seed, **OPTIONS, **drawn) for seed in (1, 2)
    )
    assert torch.equal(
        again, generate(IDS[:1], model=model, seed=1, **OPTIONS, **drawn)
    ) and not torch.equal(again, other)
    torch.manual_seed(3)
    assert torch.equal(one, generate(IDS[:1], model=model, **OPTIONS, **drawn))
    expected = answers(model, [[5, 6, 7, 8]], temperature=1.5, top_k=5, top_p=0.9, seed=1)
    assert again[0, 4:].tolist() == expected[0]
    assert torch.equal(
        generate(IDS[:1], model=model, **OPTIONS, temperature=1.5),
        generate(IDS[:1], model=model, **OPTIONS),
    )
    several = generate(IDS[:1], model=model, num_return_sequences=3, seed=1, **OPTIONS, **drawn)
    assert (
        len(several) == 3
        and several[0, 4 : 4 + len(expected[0])].tolist() == expected[0]
        and not torch.equal(several[0], several[1])
    )
    with_seed_two = several[:, : other.shape[1]]
    assert not (with_seed_two == other).all(1).any(), "seeds 1 and 2 share a sample"
    short = {**OPTIONS, "max_new_tokens": None}
    assert (
        generate(
            IDS[:1], model=model, max_length=9, eos_token_id=None, pad_token_id=0, **short
        ).shape[1]
        <= 9
    )
    config = GenerationConfig(
        max_new_tokens=5,
        eos_token_id=[END, 30],
        pad_token_id=1,
        mask_token_id=MASK,
        return_dict_in_generate=True,
    )
    output = generate(
        IDS, model=model, attention_mask=SEEN, generation_config=config, decoder="fixed"
    )
    assert isinstance(output, CreditOutput) and output.sequences.shape == (
        2,
        4 + max(len(t.tokens) + (t.finish.reason == "stop") for t in output.traces),
    )
    assert (
        output.nfe.tolist() == [trace.nfe for trace in output.traces]
        and output.traces[0].settings["decoder"]["name"] == "fixed"
    )


REFUSED: dict[str, Any] = {
    "repetition_penalty": 1.2,
    "num_beams": 2,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 1,
    "bad_words_ids": [[3]],
    "suppress_tokens": [3],
    "guidance_scale": 1.5,
    "max_time": 1.0,
    "output_scores": True,
    "stop_strings": ["w1"],
    "typical_p": 0.9,
    "renormalize_logits": True,
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_kept_to_is_refused_by_name(field: str) -> None:
    for model in (network("Llama"), network("Bert")):
        for options in (
            {field: REFUSED[field]},
            {"generation_config": GenerationConfig(**{field: REFUSED[field]})},
        ):
            with pytest.raises(OptionError, match=f"{field} is not supported"):
                generate(IDS[:1], model=model, **OPTIONS, **options)
    if field not in ("stop_strings", "num_beams"):  # transformers has its own words for these
        with pytest.raises(OptionError, match=f"{field} is not supported"):
            network("Llama").generate(
                IDS[:1], custom_generate=custom_generate, **OPTIONS, **{field: REFUSED[field]}
            )


BAD: list[tuple[str, dict[str, Any]]] = [
    ("unknown decoder", {"decoder": "credits"}),
    ("block_length is out of range", {"block_length": 0}),
    ("mask is", {"mask_token_id": None}),
    ("mask id is outside", {"mask_token_id": 40}),
    ("mask token is in the prompt", {"mask_token_id": 6}),
    ("hides tokens after others", {"attention_mask": torch.tensor([[1, 1, 1, 0]])}),
    ("ids outside the vocabulary", {"inputs": torch.tensor([[1, 40]])}),
    ("wrong shape", {"inputs": None}),
    ("empty", {"inputs": torch.zeros(1, 0, dtype=torch.long)}),
    ("LambdaProcessor is not supported", {"logits_processor": [type("LambdaProcessor", (), {})()]}),
    ("LambdaCriteria is not supported", {"stopping_criteria": [type("LambdaCriteria", (), {})()]}),
    ("pixel_values is not supported", {"pixel_values": torch.zeros(1)}),
    ("token_type_ids is not supported", {"token_type_ids": torch.ones(1, 4, dtype=torch.long)}),
]


@pytest.mark.parametrize(("message", "options"), BAD, ids=[message for message, _ in BAD])
def test_bad_input_is_refused_in_one_line(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=message) as error:
        generate(**{"inputs": IDS[:1], "model": network("Bert"), **OPTIONS, **options})
    assert "\n" not in str(error.value)
    with pytest.raises(OptionError, match="one answer"):
        generate(IDS, model=network("Bert"), streamer=Spy(), **OPTIONS)


class Heap:
    """What a release to come may add: an object with a state of its own."""

    def __init__(self, size: int = 0) -> None:
        self.size, self.rows = size, torch.zeros(size)


def a_release_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' `generate` with an argument, a setting, a processor and a criterion that nobody
    asked for.
    """
    now = GenerationMixin.generate

    def later(
        self: Any, inputs: Any = None, *, custom_generate: Any, heap: Any = None, **arguments: Any
    ) -> Any:
        @functools.wraps(custom_generate)
        def handed(model: Any, ids: Tensor, *, generation_config: Any, **arrived: Any) -> Any:
            generation_config.dream_depth = arguments.get("dream_depth", 2)
            for name in ("logits_processor", "stopping_criteria"):
                arrived[name].append(Heap(3))
            arrived["heap"] = Heap(4) if heap is None else heap
            return custom_generate(model, ids, generation_config=generation_config, **arrived)

        rest = {name: value for name, value in arguments.items() if name != "dream_depth"}
        return now(self, inputs, custom_generate=handed, **rest)

    monkeypatch.setattr(GenerationMixin, "generate", later)


def test_what_a_release_to_come_adds_unasked_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("Llama")
    expected = model.generate(IDS, attention_mask=SEEN, custom_generate=custom_generate, **OPTIONS)
    a_release_to_come(monkeypatch)
    output = model.generate(IDS, attention_mask=SEEN, custom_generate=custom_generate, **OPTIONS)
    assert torch.equal(output, expected)
    assert torch.equal(generate(IDS, model=model, attention_mask=SEEN, **OPTIONS), expected)
    drawn = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 5,
        "num_return_sequences": 2,
        "use_cache": False,
    }
    assert (
        model.generate(
            IDS, custom_generate=custom_generate, heap=Heap(4), **OPTIONS, **drawn
        ).shape[0]
        == 4
    )


SET: list[tuple[str, dict[str, Any]]] = [
    ("heap is", {"heap": Heap(5)}),
    ("heap is", {"heap": 4}),
    ("dream_depth is", {"dream_depth": 3}),
    ("Heap is", {"logits_processor": [Heap(9)]}),
    ("Heap is", {"stopping_criteria": [Heap(3)]}),
    ("TemperatureLogitsWarper is", {"logits_processor": [TemperatureLogitsWarper(2.0)]}),
    ("MaxLengthCriteria is", {"stopping_criteria": [MaxLengthCriteria(5)]}),
]


@pytest.mark.parametrize(
    ("message", "options"), SET, ids=[str(list(options)) for _, options in SET]
)
def test_what_the_user_sets_of_a_release_to_come_is_refused(
    message: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_release_to_come(monkeypatch)
    with pytest.raises(OptionError, match=f"{message} not supported"):
        network("Llama").generate(IDS[:1], custom_generate=custom_generate, **OPTIONS, **options)


def filled() -> DynamicCache:
    cache = DynamicCache()
    cache.update(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 2, 8), 0)
    return cache


OWN: list[tuple[str, Any]] = [
    ("logits_to_keep", lambda: {"logits_to_keep": 3}),
    ("past_key_values|cache", lambda: {"past_key_values": filled()}),
    ("position_ids", lambda: {"position_ids": torch.tensor([[3, 4, 5, 6]])}),
    ("assistant_model", lambda: {"assistant_model": network("Llama", 1)}),
    ("negative_prompt_ids", lambda: {"negative_prompt_ids": IDS[:1]}),
    ("cache_implementation", lambda: {"cache_implementation": "static"}),
]


@pytest.mark.parametrize(("name", "options"), OWN, ids=[name for name, _ in OWN])
@pytest.mark.parametrize("ours", (False, True))
def test_arguments_that_transformers_makes_itself_are_refused_where_the_user_sets_others(
    name: str, options: Any, ours: bool
) -> None:
    model = network("Llama")
    with pytest.raises(OptionError, match=f"({name}) is not supported"):
        if ours:
            generate(IDS[:1], model=model, **OPTIONS, **options())
        else:
            model.generate(IDS[:1], custom_generate=custom_generate, **OPTIONS, **options())


class Messages(logging.Handler):
    """Keeps what a logger says. pytest's own handler hears a message twice where a logger
    propagates.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def test_the_second_call_is_silent() -> None:
    """Finding out what came unasked says nothing that the user's own call does not say."""
    logger = transformers.utils.logging.get_logger("transformers")
    messages = Messages()
    logger.addHandler(messages)
    try:
        network("Llama", pad_token_id=None).generate(
            IDS[:1], custom_generate=custom_generate, **{**OPTIONS, "max_length": 20}
        )
    finally:
        logger.removeHandler(messages)
    assert len(messages.texts) == len(set(messages.texts))


def test_values_are_compared_by_what_they_hold() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [1]
    other.append(other)
    assert (
        same(ring, other) and same({"a": (1, None)}, {"a": (1, None)}) and same(object(), object())
    )
    assert not same(1, True) and not same([1], [1, 2]) and not same({"a": 1}, {"b": 1})
    assert not same(torch.ones(2), torch.ones(3)) and not same(
        torch.ones(2), torch.ones(2, dtype=torch.long)
    )
    assert same(Heap(2), Heap(2)) and not same(Heap(2), Heap(3)) and not same(lambda: 1, lambda: 2)


def test_several_answers_a_prompt_of_a_class_without_generate() -> None:
    output = generate(
        IDS,
        model=network("Bert"),
        attention_mask=SEEN,
        num_return_sequences=2,
        do_sample=True,
        seed=1,
        **OPTIONS,
    )
    assert torch.equal(output[:, :4], IDS.repeat_interleave(2, dim=0)) and not torch.equal(
        output[0], output[1]
    )


def test_a_length_without_room_for_an_answer_is_refused_by_its_name() -> None:
    network, mask = creditdecoding.load("pocket").model, torch.tensor(2)
    with pytest.raises(OptionError, match=r"max_length leaves no room .* 3 tokens"):
        generate(torch.tensor([[5, 6, 7]]), model=network, mask_token_id=mask, max_length=2)


def test_a_network_of_ours_without_its_tokenizer() -> None:
    pocket = creditdecoding.load("pocket")
    ids = torch.tensor([pocket.encode("Solve 3x+4=19 for x.")])
    output = generate(
        ids, model=pocket.model, mask_token_id=pocket.vocab.mask_id, max_new_tokens=32
    )
    tokens = list(pocket.generate("Solve 3x+4=19 for x.", gen_length=32).trace.tokens)
    assert output[0, ids.shape[1] :].tolist()[: len(tokens)] == tokens
    assert (
        output.shape[1] <= ids.shape[1] + len(tokens) + 1
    )  # the end token of the network's own config
