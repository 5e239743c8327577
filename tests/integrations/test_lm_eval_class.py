"""The model class of lm-eval gives the same results at any batch size, reports them to lm-eval's
cache, and needs no accelerate. Without lm-eval it stands on the abstract methods of 0.4.13;
test_releases.py runs the same with lm-eval itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.lm_eval_class import CacheHook, credit_lm_class
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow
CHOICES = [
    ("The capital of Peru is", " Lima"),
    ("The capital of Peru is", " a lemon tree that grows in a garden"),
    ("", "hello there"),
    ("one two three four five six seven ", "eight"),
]
ANSWERS = [
    ("hello", {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}),
    ("one two three four five six", {"until": [], "max_gen_toks": 12, "do_sample": False}),
    ("hello", {"until": [], "max_gen_toks": 9, "do_sample": True, "temperature": 1.5}),
    ("what is it", {"until": [], "max_gen_toks": 12, "do_sample": False}),
]


@pytest.fixture(scope="module")
def model_class() -> Iterator[Any]:
    """`CreditLM`, with accelerate made unimportable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "accelerate", None)
        yield credit_lm_class(patch)


@pytest.fixture(scope="module")
def by_batch_size(
    model_class: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """All kinds of results and what the cache was told, by batch size."""
    folder = str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))
    results = {}
    for size in (1, 3, 8):
        lm = model_class(pretrained=folder, mc_num=5, batch_size=size, decoder="threshold")
        lm.cache_hook = CacheHook()
        choices, answers, texts = (
            [SimpleNamespace(args=args) for args in rows]
            for rows in (CHOICES, ANSWERS, [("one two three",), ("hello",)])
        )
        results[size] = {
            "choices": lm.loglikelihood(choices, disable_tqdm=True),
            "answers": lm.generate_until(answers, disable_tqdm=True),
            "rolling": lm.loglikelihood_rolling(texts, disable_tqdm=True),
            "reported": lm.cache_hook.reported,
        }
    return results


@pytest.mark.parametrize("size", [3, 8])
def test_batch_sizes_are_equal(size: int, by_batch_size: dict[int, dict[str, Any]]) -> None:
    alone, together = by_batch_size[1], by_batch_size[size]
    assert together["answers"] == alone["answers"] and len(set(alone["answers"])) == 4
    bounds = [value for value, _ in alone["choices"]]
    assert [value for value, _ in together["choices"]] == pytest.approx(bounds, rel=1e-4)
    assert together["rolling"] == pytest.approx(alone["rolling"], rel=1e-4)


def test_every_result_is_reported_to_the_cache(by_batch_size: dict[int, dict[str, Any]]) -> None:
    results = by_batch_size[3]
    reported = {(kind, str(arguments)): result for kind, arguments, result in results["reported"]}
    for kind, rows, values in (
        ("loglikelihood", CHOICES, results["choices"]),
        ("generate_until", ANSWERS, results["answers"]),
        ("loglikelihood_rolling", [("one two three",), ("hello",)], results["rolling"]),
    ):
        assert [reported[kind, str(arguments)] for arguments in rows] == values


def test_a_start_token_goes_before_every_context(
    model_class: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))
    plain, started = (model_class(pretrained=folder, add_bos_token=flag) for flag in (False, True))
    first = plain.prefix_token_id
    assert started.tok_encode("hello") == [first, *plain.tok_encode("hello")]
    context, continuation = plain._encode_pair("hello", " there")
    assert started._encode_pair("hello", " there") == ([first, *context], continuation)
    assert plain._encode_pair("", "there") == started._encode_pair("", "there")
    config = plain.arguments.generation_config({"max_gen_toks": 4})
    rows = [lm._new_request(0, "hello", config).canvas.tolist() for lm in (plain, started)]
    assert rows[1] == [first, *rows[0]] and plain.eot_token_id in plain.lm.vocab.stop_ids
