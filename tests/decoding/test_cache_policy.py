"""Keys and values kept between passes: exact where it must be, right against a plain re-statement
where it is approximate.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import names
from creditdecoding.decoding.cache_policy import POLICIES, NoCache, parse_policy, supported_policies
from creditdecoding.decoding.request import Request, new_infill_request, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import OptionError
from creditdecoding.models.kv_cache import KVCache, ModelGeometry
from creditdecoding.models.transformer import Transformer, rope_table, rotate
from tests.helpers.tiny_networks import (
    CPU,
    KINDS,
    MASK,
    PROMPTS,
    WORDS,
    network,
    rows_of,
    same,
    traces,
)

torch.set_num_threads(1)


# Exact
# ---------


@pytest.mark.slow
@pytest.mark.parametrize("decoder", names())
@pytest.mark.parametrize("kind", ["full", "shifted"])
def test_refreshing_at_every_pass_is_no_cache(kind: str, decoder: str) -> None:
    model = network(kind)
    options = {"decoder": decoder, "gen_length": 10, "block_length": 5}
    plain = traces(model, rows_of(model, cache="none", **options))
    for cache in ("every:n=1", "vicinity:w=256"):
        for ours, expected in zip(traces(model, rows_of(model, cache=cache, **options)), plain):
            same(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", names())
@pytest.mark.parametrize(("kind", "block_length"), [("blocks", 2), ("shifted blocks", 8)])
def test_the_block_cache_of_block_causal_models_is_exact(
    kind: str, block_length: int, decoder: str
) -> None:
    model = network(kind)
    options = {"decoder": decoder, "gen_length": 10, "block_length": block_length}
    plain = traces(model, rows_of(model, cache="none", **options))
    for ours, expected in zip(traces(model, rows_of(model, cache="block", **options)), plain):
        same(ours, expected)


@pytest.mark.parametrize("kind", ["blocks", "shifted blocks"])
def test_block_causal_infilling_cached_equals_uncached(kind: str) -> None:
    text = [
        1,
        MASK,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        MASK,
        MASK,
        2,
        1,
        2,
        3,
        4,
        5,
        6,
        MASK,
        3,
    ]
    model = network(kind)
    runs = []
    for cache in ("none", "block"):
        row = new_infill_request(
            0, text, GenerationConfig(decoder="fixed", cache=cache), WORDS, 99, model.geometry
        )
        runs.append(traces(model, [row])[0])
    same(*runs)
    assert runs[0].nfe == 4


def test_a_block_causal_model_never_sees_what_lies_behind_the_block() -> None:
    """The specification computes the whole canvas under the block-causal pattern; the loop stops at
    the block's end.
    """
    model = network("blocks")
    (row,) = rows_of(model, [PROMPTS[2]], decoder="fixed", cache="none")
    (_,), (event,) = denoise_step(model, [row], WORDS, CPU)
    canvas = row.canvas[None]
    assert len(row.canvas) == 32 and row.answer_end == 31  # 9 + 22, filled up to whole blocks of 8
    columns = torch.tensor(event.positions)
    logits = model(canvas, (torch.zeros_like(columns), columns))
    logits[:, MASK], logits[:, 41:] = -torch.inf, -torch.inf
    assert event.confidence == pytest.approx(logits.softmax(-1).amax(-1).tolist(), abs=1e-5)


# Approximate caches against a plain re-statement
# ---------


def stale_logits(
    model: Transformer, now: Tensor, first: int, last: int, old: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[Any]]:
    """Logits of positions first..last of one canvas: fresh queries, keys and values there, `old`
    ones elsewhere. By concatenation.
    """
    x = model.embed(now[None, first:last])
    cos, sin = rope_table(torch.arange(first, last), model.config.head_dim, model.config.rope_theta)
    fresh = []
    for index, layer in enumerate(model.layers):
        h = layer.attn_norm(x)
        q, k, v = (
            p(h).view(1, last - first, -1, 8).transpose(1, 2) for p in (layer.q, layer.k, layer.v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if old:
            before, behind = slice(None, first), slice(last, None)
            k = torch.cat((old[index][0][:, :, before], k, old[index][0][:, :, behind]), dim=2)
            v = torch.cat((old[index][1][:, :, before], v, old[index][1][:, :, behind]), dim=2)
        fresh.append((k, v))
        groups = q.shape[1] // k.shape[1]
        weights = (q @ k.repeat_interleave(groups, 1).transpose(-1, -2) / 8**0.5).softmax(-1)
        x = x + layer.o(
            (weights @ v.repeat_interleave(groups, 1)).transpose(1, 2).reshape(1, last - first, -1)
        )
        x = x + layer.mlp(layer.ff_norm(x))
    return model.logits(x[0]), fresh


@torch.inference_mode()
def decode_stale(model: Transformer, row: Request, spans: Any) -> list[tuple[int, int, float]]:
    """Standard decoding with `spans(start, end, step, length)` computed anew: (position, token,
    confidence) in order of commits.
    """
    canvas, done, old = row.canvas.clone(), [], []
    for start, end in row.blocks:
        for step in range(end - start):
            first, last = spans(start, end, step, len(canvas))
            logits, old = stale_logits(
                model, canvas, first, last, old if (first, last) != (0, len(canvas)) else []
            )
            logits[:, MASK], logits[:, 41:] = -torch.inf, -torch.inf
            chance, token = logits.softmax(-1).max(-1)
            open_ = [p for p in range(start, end) if canvas[p] == MASK]
            best = max(open_, key=lambda p: float(chance[p - first]))
            canvas[best] = token[best - first]
            done.append((best, int(token[best - first]), float(chance[best - first])))
    return done


STALE = {
    "prefix": lambda start, end, step, length: (start if step else 0, length),
    "dual": lambda start, end, step, length: (start, end) if step else (0, length),
    "every:n=3": lambda start, end, step, length: (start, end) if step % 3 else (0, length),
    "vicinity:w=2": lambda start, end, step, length: (
        (max(0, start - 2), min(end + 2, length)) if step else (0, length)
    ),
}


@pytest.mark.parametrize("cache", STALE)
@pytest.mark.parametrize("seed", [0, 1])
def test_stale_keys_and_values_as_defined(cache: str, seed: int) -> None:
    model = network("full", seed)
    (row,) = rows_of(
        model, [PROMPTS[2]], decoder="fixed", block_length=6, gen_length=15, cache=cache
    )
    (trace,) = traces(model, [row])
    ours = [
        (p, t, c)
        for step in trace.steps
        for p, t, c, done in zip(step.positions, step.tokens, step.confidence, step.committed)
        if done
    ]
    stale = decode_stale(model, row, STALE[cache])
    assert [x[:2] for x in ours] == [x[:2] for x in stale]
    assert [x[2] for x in ours] == pytest.approx([x[2] for x in stale], abs=1e-5)
    (plain,) = traces(model, [dataclasses.replace(row, cache_policy=NoCache())])
    assert [s.confidence for s in plain.steps] != [s.confidence for s in trace.steps], (
        "the cache makes no difference: the test shows nothing"
    )


# In batches
# ---------


@pytest.mark.slow
@settings(max_examples=5, deadline=None, database=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    batch_size=st.integers(1, 4),
    picks=st.lists(
        st.tuples(
            st.sampled_from(["fixed", "threshold:threshold=0.3", "credit:threshold=0.4"]),
            st.integers(0, 9),
            st.integers(1, 25),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    ),
    seed=st.integers(0, 99),
)
def test_rows_with_different_caches_share_passes_and_get_what_they_get_alone(
    kind: str, batch_size: int, picks: list[Any], seed: int
) -> None:
    """Rows join and leave between passes, so slots are used again and out of order."""
    model = network(kind)
    fits = [
        name + {"every": ":n=2", "vicinity": ":w=3"}.get(name, "")
        for name in supported_policies(model.geometry)
    ]
    noise = torch.Generator().manual_seed(seed)
    rows = []
    for i, (decoder, which, gen_length, early_stop) in enumerate(picks):
        prompt = torch.randint(
            0, 38, (int(torch.randint(1, 20, (1,), generator=noise)),), generator=noise
        ).tolist()
        width = 4 if model.geometry.causal_block else 1 + which
        config = GenerationConfig(
            decoder=decoder,
            cache=fits[which % len(fits)],
            gen_length=gen_length,
            block_length=width,
            early_stop=early_stop,
        )
        rows.append(new_request(i, prompt, config, WORDS, 256, model.geometry))
    for row, ours in zip(rows, traces(model, rows, batch_size)):
        same(ours, traces(model, [row])[0])


def test_buffers_are_written_in_place() -> None:
    model = network("full")
    rows = [
        dataclasses.replace(row, cache_slot=i)
        for i, row in enumerate(rows_of(model, decoder="fixed", cache="dual", block_length=8))
    ]
    store = model.new_cache()
    store.reserve(len(rows), max(len(row.canvas) for row in rows))
    places = [(k.data_ptr(), v.data_ptr()) for k, v in store.buffers]
    before = store.nbytes
    for _ in range(12):
        rows, _ = denoise_step(model, rows, WORDS, CPU, cache=store)
    assert [
        (k.data_ptr(), v.data_ptr()) for k, v in store.buffers
    ] == places and store.nbytes == before
    assert before == 3 * 2 * 5 * 2 * (max(len(row.canvas) for row in rows) + 1) * 8 * 4


def test_growing_keeps_what_is_stored() -> None:
    store = KVCache(2, 2, 4, CPU, torch.float32)
    store.reserve(2, 5)
    k = torch.randn(2, 2, 3, 4)
    columns = torch.tensor([[0, 1, 2], [2, 3, -1]])
    for layer in store.layer_caches([0, 1], columns, 5):
        layer.update(k, -k)
    store.reserve(4, 9)
    keys, values = store.buffers[1]
    assert torch.equal(keys[0, :, :3], k[0]) and torch.equal(values[1, :, 2:4], -k[1, :, :2])
    assert not keys[1, :, 4:9].any() and keys.shape == (4, 2, 10, 4)
    store.reserve(1, 1)
    assert store.buffers[0][0].shape == (4, 2, 10, 4)


def test_a_pass_computes_no_more_than_its_policy_says() -> None:
    """What reaches the network: the whole canvas at a block's first pass, then the block (dual), or
    the block and the rest (prefix).
    """
    widths: dict[str, list[int]] = {}
    for cache in ("none", "prefix", "dual"):
        model = network("full")
        computed: list[int] = []
        model.layers[0].register_forward_pre_hook(
            lambda module, args, computed=computed: computed.append(args[0].shape[1])
        )
        traces(model, rows_of(model, [PROMPTS[2]], decoder="fixed", block_length=11, cache=cache))
        widths[cache] = computed
    assert widths["none"] == [31] * 22
    assert widths["prefix"] == [31, *[22] * 10, 31, *[11] * 10]
    assert widths["dual"] == [31, *[11] * 10] * 2
    model, computed = network("blocks"), []
    model.layers[0].register_forward_pre_hook(
        lambda module, args: computed.append(args[0].shape[1])
    )
    traces(model, rows_of(model, [PROMPTS[2]], decoder="fixed", gen_length=15))
    assert computed == [
        16,
        *[8] * 6,
        16,
        *[8] * 7,
    ]  # 9 prompt tokens: 7 masks in the second block, 8 in the third


# Choosing one
# ---------


def test_what_auto_means() -> None:
    assert type(parse_policy("auto", ModelGeometry())).__name__ == "NoCache"
    assert type(parse_policy("auto", ModelGeometry(supports_kv_cache=True))).__name__ == "NoCache"
    assert (
        type(parse_policy("auto", ModelGeometry(causal_block=8, supports_kv_cache=True))).__name__
        == "BlockCausal"
    )
    assert supported_policies(ModelGeometry(causal_block=4, supports_kv_cache=True)) == [
        "none",
        "block",
    ] and "block" not in supported_policies(ModelGeometry(supports_kv_cache=True))
    assert set(supported_policies(ModelGeometry(supports_kv_cache=True))) | {"block"} == set(
        POLICIES
    )


@pytest.mark.parametrize(
    "spec, layout, names",
    [
        ("duel", ModelGeometry(supports_kv_cache=True), ("duel", "dual")),
        ("block", ModelGeometry(supports_kv_cache=True), ("full-attention", "dual")),
        (
            "dual",
            ModelGeometry(causal_block=8, supports_kv_cache=True),
            ("block-causal", "none, block"),
        ),
        ("dual", ModelGeometry(), ("your own", "none")),
        ("every:n=0", ModelGeometry(supports_kv_cache=True), ("n", "1 <= n")),
        ("every:m=2", ModelGeometry(supports_kv_cache=True), ("m", "n")),
        ("vicinity:w", ModelGeometry(supports_kv_cache=True), ("w", "knob=value")),
        ("vicinity:w=x", ModelGeometry(supports_kv_cache=True), ("w", "x", "whole number")),
        ("auto:n=1", ModelGeometry(supports_kv_cache=True), ("auto",)),
        ("", ModelGeometry(supports_kv_cache=True), ("cache",)),
    ],
)
def test_a_cache_that_is_not_there_or_does_not_fit(
    spec: str, layout: ModelGeometry, names: tuple[str, ...]
) -> None:
    with pytest.raises(OptionError) as error:
        parse_policy(spec, layout)
    assert all(name in str(error.value) for name in names) and "\n" not in str(error.value)


def test_blocks_that_do_not_divide_those_of_the_model() -> None:
    with pytest.raises(OptionError, match="8 or a divisor of it"):
        new_request(
            0,
            [1],
            GenerationConfig(block_length=3),
            WORDS,
            256,
            ModelGeometry(causal_block=8, supports_kv_cache=True),
        )
    with pytest.raises(OptionError, match="divide"):
        new_request(
            0,
            [1],
            GenerationConfig(block_length=16),
            WORDS,
            256,
            ModelGeometry(causal_block=8, supports_kv_cache=True),
        )
    assert (
        new_request(
            0,
            [1],
            GenerationConfig(),
            WORDS,
            256,
            ModelGeometry(causal_block=8, supports_kv_cache=True),
        ).config.block_length
        == 8
    )
