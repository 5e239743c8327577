"""The oracle's rule, and its passes on a tiny model."""

from __future__ import annotations

import pytest
import torch

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders.base import Block, Decision, from_logits
from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.commit_timing import token_timings, trace_bound
from creditdecoding.eval.traces.dataset import PromptTraces, with_oracle
from creditdecoding.eval.traces.oracle import Oracle, decode_with_oracle
from creditdecoding.lm import LM, load
from tests.helpers.analysis_traces import credit_trace, standard_trace
from tools.make_checkpoint import make


def test_the_oracle_commits_what_is_right_already() -> None:
    logits = torch.zeros(1, 4, 6)
    logits[0, 0, 2] = logits[0, 1, 3] = logits[0, 2, 4] = logits[0, 3, 5] = 3.0
    masked = torch.tensor([[True, True, True, False]])
    block = Block(
        torch.zeros(1, 4, dtype=torch.long), masked, masked, torch.tensor([3]), torch.tensor([0])
    )

    def decide(*tokens: int) -> Decision:
        return Oracle(0, tokens).step(from_logits(logits, masked), block, {})[0]

    assert decide(2, 1, 4, 5).commit.tolist() == [[True, False, True, False]]
    logits[0, 1, 1] = 1.0
    decision = decide(0, 1, 0, 5)
    assert decision.commit.tolist() == [[False, True, False, False]] and decision.tokens[0, 1] == 1
    assert decide(-1, -1, 0).commit.tolist() == [[False, False, True, False]]
    unknown = decide(-1)
    assert unknown.commit.sum() == 1 and unknown.tokens[0, :3].tolist() == [2, 3, 4]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def lm(model: str) -> LM:
    return load(model, EngineConfig(device="cpu"))


@pytest.mark.parametrize("early_stop", [True, False])
def test_the_oracle_reaches_standard_decodings_answer_in_no_more_passes(
    lm: LM, early_stop: bool
) -> None:
    config = GenerationConfig(decoder="fixed", gen_length=12, block_length=5, early_stop=early_stop)
    references = [done.trace for done in lm.generate(["hello", "one two three", "x"], config)]
    decoded = decode_with_oracle(lm, references)
    for reference, trace in zip(references, decoded):
        assert trace.tokens == reference.tokens and len(reference.steps[0].top or ()) == 5
        assert 3 <= trace.nfe <= reference.nfe
        assert trace_bound(token_timings(reference)) <= reference.nfe
    assert sum(trace.nfe for trace in decoded) < sum(trace.nfe for trace in references)


def test_the_oracle_of_another_model_and_without_a_reference(lm: LM) -> None:
    with pytest.raises(OptionError, match="fixed"):
        with_oracle(lm, [PromptTraces({"credit": credit_trace()})])
    stranger = standard_trace()
    stranger.prompt = (10**6, 1)
    with pytest.raises(OptionError, match="another model"):
        with_oracle(lm, [PromptTraces({"fixed": stranger})])
