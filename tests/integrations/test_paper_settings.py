"""Settings of papers by name: every one is understood by the model class, and expands to lm-eval's
command.
"""

from __future__ import annotations

import pytest

from creditdecoding import decoders
from creditdecoding.errors import OptionError
from creditdecoding.integrations.lm_eval_arguments import parse_arguments
from creditdecoding.integrations.paper_settings import (
    PaperSetting,
    expand_command,
    paper_settings,
    settings_named,
)


@pytest.mark.parametrize("setting", paper_settings().values(), ids=list(paper_settings()))
def test_the_model_class_takes_the_arguments(setting: PaperSetting) -> None:
    arguments = parse_arguments({"pretrained": setting.model, **setting.options})
    config = arguments.generation_config({"until": ["x"], "do_sample": False})
    decoders.load(config.decoder)
    if "gen_length" in setting.options:
        length = int(setting.options["gen_length"])
        assert config.gen_length == length and length % (config.block_length or length) == 0
    assert "@" in setting.source or "arXiv" in setting.source


@pytest.mark.parametrize(
    ("name", "tasks", "shots", "options"),
    [  # as the projects' scripts have them
        ("llada-base-math", "minerva_math", None, {"steps": "1024", "block_length": "1024"}),
        ("llada-base-cfg-truthfulqa", "truthfulqa_mc2", 0, {"cfg": "2.0", "mc_num": "128"}),
        ("llada-1.5-gsm8k", "gsm8k", None, {"gen_length": "256", "block_length": "16"}),
        ("dream-base-gsm8k", "gsm8k_cot", 8, {"gen_length": "256", "top_p": "0.95"}),
        ("dream-instruct-mmlu", "mmlu_generative", 4, {"gen_length": "128", "temperature": "0.1"}),
        (
            "fast-dllm-llada-dual-parallel-gsm8k",
            "gsm8k",
            5,
            {"threshold": "0.9", "use_cache": "dual"},
        ),
        (
            "dinfer-llada-moe-credit-mbpp",
            "mbpp_sanitized_llada_moe",
            None,
            {"threshold": "0.8", "decoder": "credit:alpha=0.7;beta=0.8;gamma=0.2"},
        ),
        (
            "fast-dllm-dream-prefix-gsm8k",
            "gsm8k",
            5,
            {"decoder": "entropy:gamma=0", "use_cache": "prefix"},
        ),
        ("dinfer-llada2-threshold", None, None, {"threshold": "0.9", "gen_length": "2048"}),
        ("llada2.0-gsm8k", "gsm8k", None, {"threshold": "0.95", "block_length": "32"}),
        ("llada2.1-speed-ifeval", "ifeval", None, {"threshold": "0.5", "gen_length": "16384"}),
        ("sdar-dynamic-mmlu", "mmlu_generative", 5, {"threshold": "0.95", "block_length": "4"}),
        ("d3llm-llada-standard-math", "minerva_math", 4, {"steps": "256", "block_length": "32"}),
        (
            "d3llm-dream-multi-cache-mbpp",
            "mbpp_instruct",
            4,
            {"decoder": "entropy:gamma=0.45;live_blocks=8;open_share=0.1", "temperature": "0"},
        ),
        ("credit-decoding-credit", None, None, {"gen_length": "256", "block_length": "64"}),
        ("credit-decoding-moe-adaptive", None, None, {"decoder": "credit_adaptive"}),
    ],
)
def test_numbers_of_the_sources(
    name: str, tasks: str | None, shots: int | None, options: dict[str, str]
) -> None:
    setting = paper_settings()[name]
    assert (setting.tasks, setting.num_fewshot) == (tasks, shots)
    assert options.items() <= setting.options.items()


def test_a_name_becomes_lm_evals_command() -> None:
    typed = "--settings fast-dllm-llada-parallel-gsm8k --model_args pretrained=DIR --limit 2"
    (command,) = expand_command(typed.split())
    assert command == [
        "--limit",
        "2",
        "--model",
        "creditdecoding",
        "--tasks",
        "gsm8k",
        "--model_args",
        "pretrained=DIR,decoder=threshold,gen_length=256,block_length=32,threshold=0.9",
        "--num_fewshot",
        "5",
        "--apply_chat_template",
    ]
    assert expand_command(["--tasks", "gsm8k"]) == [["--tasks", "gsm8k"]]


def test_what_is_typed_goes_before_the_paper() -> None:
    typed = "--settings dream-base-gsm8k -t mine -f 0 -a gen_length=8,decoder=credit -o out"
    (command,) = expand_command(typed.split())
    text = " ".join(command)
    assert "--tasks mine" in text and "--num_fewshot 0" in text
    assert "decoder=credit,gen_length=8," in text and "top_p=0.95" in text
    assert text.endswith("--output_path out/dream-base-gsm8k")


def test_a_group_stands_for_its_rows() -> None:
    names = [one.name for one in settings_named("llada-base-cfg,llada-base-mmlu")]
    assert len(names) == 6 and names[-1] == "llada-base-mmlu"
    assert {one.group for one in settings_named("llada-base")} == {"llada-base"}
    assert len(settings_named("fast-dllm-llada-parallel")) == 2
    assert len(expand_command(["--settings", "dream-instruct"])) == 8


def test_the_list_names_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert expand_command(["--list-settings", "credit-decoding"]) == []
    printed = capsys.readouterr().out
    assert "arXiv 2510.06133" in printed and "not known to us" in printed
    assert "credit-decoding-credit: --tasks ... --model_args pretrained=" in printed


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--settings fast-dllm-lada-parallel-gsm8k", "Did you mean fast-dllm-llada-parallel-gsm8k"),
        ("--settings nothing", "unknown settings.*llada-base.*credit-decoding"),
        ("--settings credit-decoding-credit", "does not say which tasks.*Add --tasks"),
    ],
)
def test_what_cannot_be_run_is_refused(typed: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        expand_command(typed.split())
