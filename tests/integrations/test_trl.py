"""The trainers for trl, held to the installed trl: the embedded model as the policy, and an
autoregressive one whose tokenizer the verifier does not know. test_releases.py installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding import GenerationConfig, load
from creditdecoding.errors import OptionError
from creditdecoding.integrations.process_reward import ProcessReward
from creditdecoding.likelihood import rescore
from tests.project.test_docs import blocks_of

pytest.importorskip("trl", reason="the extra trl is not installed")

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from creditdecoding.integrations.trl import DiffusionGRPOTrainer, StepGRPOTrainer

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "rl-tools.md"
QUESTION = "Tom has 6 apples. Tom finds 5 more. How many apples does Tom have now?"
DRAWN = GenerationConfig(decoder="threshold:threshold=0.9", temperature=1.0, gen_length=64)


def some_data(prompt: Any = QUESTION) -> Dataset:
    """Four times the same question."""
    return Dataset.from_list([{"prompt": prompt}] * 4)


def settings(folder: Path, **options: Any) -> GRPOConfig:
    """Two steps on the CPU."""
    options = {"max_steps": 2, "num_generations": 4, "max_completion_length": 24, **options}
    return GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )


def length(completions: list[Any], **columns: Any) -> list[float]:
    """An outcome that differs within a group."""
    return [float(len(str(completion)) % 7) for completion in completions]


def byte_policy() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A tiny random autoregressive model whose tokens are bytes."""
    vocabulary = {text: i for i, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["<end>"] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def kept_output(trainer: StepGRPOTrainer) -> list[dict[str, torch.Tensor]]:
    """What the trainer will have generated and scored, batch by batch."""
    outputs: list[dict[str, torch.Tensor]] = []
    generate = trainer._generate_and_score_completions

    def keep(inputs: Any) -> dict[str, torch.Tensor]:
        outputs.append(generate(inputs))
        return outputs[-1]

    trainer._generate_and_score_completions = keep
    return outputs


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks_of(PAGE) if "DiffusionGRPOTrainer(" in block.code]
    exec(example.code, {"__name__": "example"})
    trained, first = load(str(tmp_path / "runs" / "trl" / "model")), load("pocket")
    changed = [
        not torch.equal(left, right)
        for left, right in zip(trained.model.parameters(), first.model.parameters())
    ]
    assert any(changed)


@pytest.mark.parametrize("prompt", [QUESTION, [{"role": "user", "content": QUESTION}]])
def test_an_autoregressive_policy_gets_an_advantage_for_each_step(
    prompt: Any, tmp_path: Path
) -> None:
    model, tokenizer = byte_policy()
    reward = ProcessReward(delimiter="4 tokens")
    trainer = StepGRPOTrainer(
        model=model,
        reward_funcs=[length, reward],
        args=settings(tmp_path),
        train_dataset=some_data(prompt),
        processing_class=tokenizer,
        step_reward=reward,
    )
    outputs = kept_output(trainer)
    trainer.train()
    assert {"rewards/process_reward/mean", "rewards/length/mean"} <= set(
        trainer.state.log_history[0]
    )
    (ids, mask, advantages) = (
        outputs[0][name] for name in ("completion_ids", "completion_mask", "advantages")
    )
    assert advantages.shape == ids.shape
    for row, kept, own in zip(ids, mask, advantages):
        tokens = row[kept.bool()].tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        (scored,) = reward.score([prompt], [text])
        steps = 3.0 * scored.per_token(tokens, tokenizer.decode, scored.advantages)
        outcome = own[: len(tokens)] - steps
        torch.testing.assert_close(outcome, outcome[:1].expand_as(outcome), atol=1e-3, rtol=1e-3)


def test_log_probabilities_are_those_of_the_passes_that_wrote_the_tokens(tmp_path: Path) -> None:
    trainer = DiffusionGRPOTrainer(
        load("pocket"), [length], settings(tmp_path), some_data(), generation=DRAWN
    )
    rollout = trainer._roll_out([QUESTION, "Solve 3x+4=19 for x."], trainer)
    pairs = list(zip(rollout["prompt_ids"], rollout["completion_ids"]))
    before, after = (max(len(pair[i]) for pair in pairs) for i in (0, 1))
    rows = [
        [1] * (before - len(prompt)) + prompt + answer + [1] * (after - len(answer))
        for prompt, answer in pairs
    ]
    seen = [
        [0] * (before - len(prompt))
        + [1] * (len(prompt) + len(answer))
        + [0] * (after - len(answer))
        for prompt, answer in pairs
    ]
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, torch.tensor(rows), torch.tensor(seen), after, compute_entropy=True
    )
    for (prompt, answer), scored, entropy in zip(pairs, logps, entropies):
        trace = trainer._traces[tuple(prompt), tuple(answer)]
        exact = rescore(trainer.lm, trace).by_position
        expected = [exact[len(prompt) + i] for i in range(len(answer))]
        torch.testing.assert_close(
            scored[: len(answer)], torch.tensor(expected), atol=1e-3, rtol=1e-3
        )
        assert not scored[len(answer) :].any() and (entropy >= 0).all()
    assert logps.requires_grad and not entropies.requires_grad


def test_settings_that_do_not_fit_a_diffusion_policy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="beta is not for"):
        DiffusionGRPOTrainer(
            load("pocket"), [length], settings(tmp_path, beta=0.1), some_data(), generation=DRAWN
        )
    with pytest.raises(OptionError, match="temperature"):
        DiffusionGRPOTrainer(
            load("pocket"),
            [length],
            settings(tmp_path),
            some_data(),
            generation=GenerationConfig(decoder="threshold"),
        )
