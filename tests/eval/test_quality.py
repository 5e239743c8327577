"""Quality of text without a gold answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding.bases.autoregressive_lm import AutoregressiveLM, load_base
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig
from creditdecoding.eval.compare import compare
from creditdecoding.eval.quality import (
    OpenAnswer,
    decoder_quality,
    distinct,
    doubled_words,
    judge_of,
    split_words,
    text_quality,
)
from creditdecoding.eval.sweep import REFERENCE
from creditdecoding.lm import load
from creditdecoding.models.autoregressive import causal_logits
from tests.helpers.cli import run_credit
from tests.helpers.tiny_bases import write_base

FLOAT32 = EngineConfig(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> AutoregressiveLM:
    return load_base(
        str(write_base(tmp_path_factory.mktemp("base"), max_position_embeddings=1024)), FLOAT32
    )


def test_measures_of_words() -> None:
    words = split_words("The the cat, the cat!! sat")
    assert words == ["the", "the", "cat", ",", "the", "cat", "!", "!", "sat"]
    assert doubled_words(words) == 1
    assert distinct(words, 2) == 7 / 8 and distinct(words[:1], 2) == 1.0


def by_hand(base: AutoregressiveLM, answer: OpenAnswer) -> tuple[float, int]:
    """Summed negative log-likelihood and tokens, from all logits."""
    messages = [{"role": "user", "content": answer.prompt}]
    prompt = base.tokenizer.encode_chat(messages)
    ids = base.tokenizer.encode_plain(answer.text) + ([302] if answer.ended else [])
    with torch.no_grad():
        log_probs = causal_logits(base.model, torch.tensor([prompt + ids]))[0].log_softmax(-1)
    positions = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return -float(sum(log_probs[i, token] for i, token in zip(positions, ids))), len(ids)


def test_likelihood_is_by_token_and_agreement_with_the_standard(base: AutoregressiveLM) -> None:
    answers = [
        OpenAnswer("a", "Who?", "Tom has apples.", ended=True, nfe=4, standard="Tom has apples."),
        OpenAnswer("a", "What?", "Peru is is in Lima", False, nfe=6, standard="Lima is in Peru"),
        OpenAnswer("a", "Why?", "", ended=True, nfe=5, standard="no"),
    ]
    quality = text_quality(answers, base)
    assert quality["nfe"]["value"] == 5.0
    sums, counts = zip(*(by_hand(base, answer) for answer in answers))
    assert quality["nll"]["value"] == pytest.approx(sum(sums) / sum(counts), abs=1e-4)
    assert quality["nll"]["low"] <= quality["nll"]["value"] <= quality["nll"]["high"]
    assert quality["doubled"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert quality["equal"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert quality["agreement"]["value"] == pytest.approx((1 + 4 / 9 + 0) / 3, abs=1e-4)
    assert quality["answers"] == 3
    long = OpenAnswer("a", "Who?", "Tom " * 1000, ended=True, nfe=9)
    assert text_quality([answers[0], long], base)["nll"]["value"] == pytest.approx(
        sums[0] / counts[0], abs=1e-4
    )
    assert text_quality([long], base)["too_long"] == 1
    without = text_quality([OpenAnswer("a", "Who?", "Tom", ended=False, nfe=1)], None)
    assert without.keys() == {"nfe", "distinct_2", "distinct_3", "doubled", "answers"}


def test_a_decoder_is_compared_with_standard_decoding_item_by_item(base: AutoregressiveLM) -> None:
    def record(decoder: str, item: int, text: str, split: str = "test") -> dict[str, Any]:
        names = {"split": split, "template": "plain", "family": "a", "decoder": decoder}
        return {**names, "item": item, "text": text, "finish": "stop", "nfe": 3}

    records = [record("fixed", 0, "one"), record("fixed", 1, "two"), record("fixed", 0, "x", "dev")]
    records += [record("credit", 1, "two"), record("credit", 0, "three")]
    prompts = {("plain", "a", 0): "Say one.", ("plain", "a", 1): "Say two."}
    quality = decoder_quality(records, prompts, "fixed", base)
    assert quality["fixed"]["equal"]["value"] == 1.0 and quality["fixed"]["answers"] == 2
    assert quality["credit"]["equal"]["value"] == 0.5


@pytest.mark.slow
def test_a_file_of_prompts_alone_is_open_text(base: AutoregressiveLM, tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    file.write_text('{"prompt": "What is a bicycle?"}\n{"question": "Why do we sleep?"}\n')
    run = ["eval", "--tasks", file, "--limit", "2", "--gen-length", "4", "--device", "cpu"]
    known = run_credit([*run, "--base", base.folder, "--json"])
    assert known.status == 0, known.stderr
    report = json.loads(known.stdout)
    assert report["score"] is None and report["quality"]["nll"]["value"] > 0
    unknown = run_credit(run)
    assert unknown.status == 0, unknown.stderr
    assert "the likelihood of its open text is left out" in unknown.stderr
    assert "without a gold answer" in unknown.stdout and "NLL" not in unknown.stdout
    refused = run_credit(["tune", "--decoder", "credit", *run[1:], "--out", tmp_path / "tuned"])
    assert refused.status == 2 and "this command takes no open text" in refused.stderr
    with file.open("a") as records:
        records.write('{"prompt": "2+2", "answer": "4"}\n')
    mixed = run_credit(run)
    assert mixed.status == 2 and "2 of 3 without an answer" in mixed.stderr


@pytest.mark.slow
def test_open_text_is_compared_by_its_agreement_with_standard_decoding(tmp_path: Path) -> None:
    file = tmp_path / "open.jsonl"
    prompts = ("What is a bicycle?", "Why do we sleep?", "Who was Ada?", "Name a fruit.")
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    run = ["--tasks", file, "--limit", "2", "--dev-limit", "2", "--gen-length", "8"]
    decoders = "fixed:k=1 threshold:threshold=0.01"
    done = run_credit(["compare", "--decoders", decoders, *run, "--out", tmp_path / "run"])
    assert done.status == 0, done.stderr
    assert "The score of open text is its agreement with standard decoding" in done.stdout
    assert "doubled" in done.stdout and "NLL" not in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["open_text"] and report["reference"]["test"]["score"]["value"] == 100.0
    bold = next(curve for curve in report["curves"] if curve["name"].startswith("threshold"))
    scored = bold["points"][0]["test"]["score"]["value"]
    quality = report["quality"]["threshold:threshold=0.01"]
    assert scored == pytest.approx(100 * quality["agreement"]["value"], abs=0.01)


@pytest.mark.slow
def test_eval_and_compare_show_it(base: AutoregressiveLM, tmp_path: Path) -> None:
    run = ["--tasks", "chain", "--limit", "2", "--base", base.folder, "--device", "cpu"]
    run += ["--gen-length", "16"]
    done = run_credit(["eval", *run, "--agreement", "--json"])
    assert done.status == 0, done.stderr
    quality = json.loads(done.stdout)["quality"]
    assert quality["base"] == base.name and quality["nll"]["value"] > 0
    assert 0 <= quality["equal"]["value"] <= 1
    folder = tmp_path / "run"
    done = run_credit(
        [
            "compare",
            "--decoders",
            "fixed credit:threshold=0.9",
            *run,
            "--dev-limit",
            "2",
            "--out",
            folder,
        ]
    )
    assert done.status == 0, done.stderr
    assert "Quality without a gold answer" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert report["quality"][REFERENCE]["equal"]["value"] == 1.0
    assert report["base"] == base.name and report["base"] in done.stdout.replace("\n", "")
    page = (folder / "report.html").read_text(encoding="utf-8")
    nll = report["quality"][REFERENCE]["nll"]["value"]
    assert "Quality without a gold answer" in page and f"<td>{nll:.2f} <small>" in page


@pytest.mark.slow
def test_compare_measures_a_model_in_memory(base: AutoregressiveLM) -> None:
    """Under a base that is given by name or loaded, or that the model was adapted from."""
    lm = load("pocket", device="cpu")
    options: dict[str, Any] = {"tasks": "facts", "limit": 2, "dev_limit": 2, "gen_length": 16}
    assert "quality" not in compare(lm, "credit:threshold=0.9", **options)
    report = compare(lm, "credit:threshold=0.9", base=base.folder, **options)
    assert set(report["quality"]) == {REFERENCE, "credit:threshold=0.9"}
    assert report["quality"][REFERENCE]["nfe"]["value"] == report["reference"]["test"]["nfe"]
    lm.base = str(base.folder)
    assert compare(lm, "credit:threshold=0.9", **options)["base"] == base.name
    assert judge_of(lm, base) is base


def test_an_adapter_of_a_diffusion_model_has_no_judge() -> None:
    lm = load("pocket", device="cpu")
    lm.base = str(resolve_checkpoint("pocket"))
    assert judge_of(lm, None) is None


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_a_base_must_be_autoregressive(command: str) -> None:
    done = run_credit([command, "--base", "pocket"])
    assert done.status == 2 and "not an autoregressive one" in done.stderr
