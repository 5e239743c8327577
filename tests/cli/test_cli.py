"""The command line: what it prints, its exit codes, and that bad input is one line with a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.cli.help import CreditTyper
from creditdecoding.config import EngineConfig, GenerationConfig
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

FAST = ["--gen-length", "12", "--block-length", "5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint."""
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


def output_of(arguments: list[str], stdin: str = "") -> str:
    """The standard output of a command that must succeed."""
    done = run_credit(arguments, stdin)
    assert done.status == 0, done.stderr
    return done.stdout


def json_of(arguments: list[str]) -> Any:
    """The JSON that a command prints."""
    return json.loads(output_of([*arguments, "--json"]))


def test_generate_json(model: str) -> None:
    answer = json_of(["generate", "hello", "-m", model, "--decoder", "fixed:k=3", *FAST])
    assert set(answer) >= {"text", "nfe", "tokens", "tpf", "seconds", "finish_reason", "decoder"}
    assert answer["decoder"] == {"name": "fixed", "k": 3, "steps": None, "order": "low_confidence"}
    assert answer["generation"]["gen_length"] == 12 and answer["nfe"] <= 5


def test_options_reach_the_request(model: str) -> None:
    numbers = ["--temperature", "0.7", "--top-k", "5", "--top-p", "0.9", "--seed", "3"]
    switches = ["--no-early-stop", "--logits-eos-inf", "--confidence-eos-eot-inf"]
    flags = [*numbers, *switches, "--stop", "x", "--stop", "y"]
    options = json_of(["generate", "hello", "-m", model, *flags, *FAST])["generation"]
    expected = {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "seed": 3,
        "early_stop": False,
        "logits_eos_inf": True,
        "confidence_eos_eot_inf": True,
        "stop": ["x", "y"],
    }
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("decoder", "threshold"), [("credit", 0.8), ("threshold:threshold=0.5", 0.8)]
)
def test_threshold_is_short_for_a_knob_of_the_decoder(
    decoder: str, threshold: float, model: str
) -> None:
    flags = ["--decoder", decoder, "--threshold", str(threshold)]
    answer = json_of(["generate", "hello", "-m", model, *flags, *FAST])
    assert answer["decoder"]["name"] == decoder.split(":")[0]
    assert answer["decoder"]["threshold"] == threshold


def test_every_option_is_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    words = output_of(["generate", "--help-all"]).replace("│", " ").split()
    for cls in (GenerationConfig, EngineConfig):
        for name in cls.__dataclass_fields__:
            flag = f"--{name.replace('_', '-')}"
            assert any(word.rstrip(",") == flag for word in words), flag


def test_prompt_from_file_and_standard_input(model: str, tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("hello there")
    sources = (["hello there"], ["--file", str(file)], ["-"])
    answers = [
        output_of(["generate", *source, "-m", model, *FAST], "hello there") for source in sources
    ]
    assert len(set(answers)) == 1


def test_infill_keeps_the_given_text(model: str) -> None:
    prompt = "the cat [MASK] on the [MASK] mat"
    text = json_of(["generate", prompt, "--infill", "-m", model])["text"]
    assert text.startswith("the cat") and text.endswith("mat") and "on the" in text


def test_trace_saves_and_draws(model: str, tmp_path: Path) -> None:
    files = {f"--{kind}": tmp_path / f"trace.{kind}" for kind in ("save", "png", "html")}
    outputs = [str(part) for flag in files.items() for part in flag]
    output_of(["trace", "hello", "-m", model, "--against", "fixed", *outputs, *FAST])
    assert all(path.stat().st_size > 500 for path in files.values())
    saved = str(files["--save"])
    assert output_of(["trace", "--load", saved, "-m", model]).strip()


@pytest.mark.parametrize(
    "extra", [["hello"], ["--decoder", "credit"], ["--gen-length", "128"], ["--raw"]]
)
def test_a_saved_trace_takes_no_decoding_options(
    extra: list[str], model: str, tmp_path: Path
) -> None:
    """Even one that has its default value."""
    saved = str(tmp_path / "t.jsonl")
    output_of(["trace", "hello", "-m", model, "--save", saved, *FAST])
    done = run_credit(["trace", "--load", saved, *extra])
    assert done.status == 2
    assert "--load decodes nothing" in done.stderr and done.stderr.count("\n") == 1


def test_eval_json(model: str, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    tasks = ["--tasks", "algebra,facts", "--limit", "2"]
    report = json_of(["eval", "-m", model, *tasks, "--out", str(out), *FAST])
    assert set(report["families"]) == {"algebra", "facts"} and report["items"] == 4
    assert report["settings"]["gen_length"] == 12
    assert report["settings"]["decoder"]["name"] == "credit"
    assert len(json.loads(out.read_text())["samples"]) == 4
    assert report["sequence_forwards"] == pytest.approx(report["nfe"] * 4, abs=0.01)


def test_info(model: str) -> None:
    facts = json_of(["info", "-m", model])
    assert facts["family"] == "llada" and facts["parameters"] > 0
    assert "mdm_mask" in facts["mask token"]
    assert "llada" in output_of(["info", "-m", model])


def test_decoders() -> None:
    names = {decoder["name"] for decoder in json_of(["decoders"])}
    assert names >= {"fixed", "threshold", "credit", "credit_adaptive", "credit_full"}
    assert "threshold = " in output_of(["decoders"])


def test_one_decoder_by_name() -> None:
    assert [decoder["name"] for decoder in json_of(["decoders", "factor"])] == ["factor"]
    printed = output_of(["decoders", "factor"])
    assert printed.startswith("factor  ") and "    factor = 1.0" in printed
    assert "threshold" not in printed
    assert output_of(["decoders", "stable"]).startswith("stable  ")
    refused = run_credit(["decoders", "treshold"])
    assert refused.status == 2 and "Did you mean 'threshold'" in refused.stderr


def test_one_decoder_shows_the_knobs_that_any_rule_takes() -> None:
    printed = output_of(["decoders", "credit"])
    assert "    live_blocks = 1 (1 <= live_blocks <= 64): Blocks that may be written" in printed
    assert "    open_share = 0.5 (0.0 <= open_share <= 1.0): Share of the last open" in printed
    (described,) = json_of(["decoders", "credit"])
    assert [knob["name"] for knob in described["shared_knobs"]] == ["live_blocks", "open_share"]
    assert "live_blocks" not in output_of(["decoders"])


@pytest.mark.parametrize("name", ["edit", "thrift", "wino"])
def test_a_rule_that_refuses_live_blocks_does_not_show_them(name: str) -> None:
    assert "live_blocks" not in output_of(["decoders", name])
    assert json_of(["decoders", name])[0]["shared_knobs"] == []


def test_chat_answers_each_line(model: str) -> None:
    lines = "hello\n/new\n\nthere\n/exit\nnever\n"
    flags = ["--no-early-stop", "--logits-eos-inf", *FAST]
    assert len(output_of(["chat", "-m", model, *flags], lines).splitlines()) >= 2


BAD = {
    "empty prompt": (["generate", ""], "empty"),
    "blank prompt": (["generate", "  \n"], "empty"),
    "gen_length 0": (["generate", "x", "--gen-length", "0"], "gen_length"),
    "huge gen_length": (["generate", "x", "--gen-length", "99999999"], "gen_length"),
    "too long": (["generate", "x", "--gen-length", "4000"], "do not fit"),
    "block_length 0": (["generate", "x", "--block-length", "0"], "block_length"),
    "unknown decoder": (["generate", "x", "--decoder", "credits"], "credit"),
    "unknown knob": (["generate", "x", "--decoder", "credit:alhpa=1"], "alpha"),
    "knob without value": (["generate", "x", "--decoder", "credit:alpha"], "knob=value"),
    "knob of wrong type": (["generate", "x", "--decoder", "credit:alpha=high"], "alpha"),
    "threshold above 1": (["generate", "x", "--threshold", "1.01"], "threshold"),
    "threshold below 0": (["generate", "x", "--threshold=-0.1"], "threshold"),
    "threshold of fixed": (
        ["generate", "x", "--decoder", "fixed", "--threshold", "0.5"],
        "threshold",
    ),
    "nan threshold": (["generate", "x", "--threshold", "nan"], "threshold"),
    "temperature": (["generate", "x", "--temperature", "-1"], "temperature"),
    "top_p": (["generate", "x", "--top-p", "1.5"], "top_p"),
    "top_k": (["generate", "x", "--top-k", "0"], "top_k"),
    "unknown flag": (["generate", "x", "--gen-lenght", "8"], "gen-lenght"),
    "not a number": (["generate", "x", "--gen-length", "many"], "integer"),
    "unknown command": (["generat", "x"], "generat"),
    "device": (["generate", "x", "--device", "abacus"], "device"),
    "dtype": (["generate", "x", "--dtype", "int3"], "dtype"),
    "no such model": (["generate", "x", "-m", "./nowhere"], "no such checkpoint"),
    "no such file": (["generate", "--file", "nowhere.txt"], "nowhere.txt"),
    "two prompts": (["generate", "x", "--file", "y"], "two prompts"),
    "nothing to fill": (["generate", "x", "--infill"], "no mask"),
    "watch and json": (["generate", "x", "--watch", "--json"], "--watch"),
    "unknown task": (["eval", "--tasks", "gsm9k"], "task"),
    "unknown split": (["eval", "--split", "valid"], "split"),
    "not a trace": (["trace", "--load", "nowhere.jsonl"], "not a trace"),
    "empty stop": (["generate", "x", "--stop", ""], "stop"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    if "-m" not in arguments:
        arguments = [*arguments, "-m", model]
    done = run_credit(arguments)
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_breaks_lines_at_the_terminal_not_at_the_docstring() -> None:
    commands = CreditTyper()

    @commands.command()
    def greet() -> None:
        """Say hello to
        everybody.

        Twice if
        asked.
        """

    shown = run_credit(["--help"], commands=commands).stdout
    assert "\n\nSay hello to everybody.\n\nTwice if asked.\n\n" in shown


def test_a_trace_has_question_answer_and_settings_and_folds_ends(tmp_path: Path) -> None:
    question = "Solve 3x+4=19 for x."
    shown = output_of(["generate", question, "--trace"])
    assert shown.startswith(f"Question {question}\nAnswer   We have 3x+4=19.")
    assert "\nDecoder  threshold  threshold=0.999" in shown and "\nSettings gen_length 128" in shown
    assert "endoftext" not in shown and shown.count("∎") <= 4
    saved, page = tmp_path / "t.jsonl", tmp_path / "t.html"
    output_of(["trace", question, "--save", str(saved), "--html", str(page)])
    assert output_of(["trace", "--load", str(saved)]) == shown
    html = page.read_text(encoding="utf-8")
    assert "<b>Question</b> Solve 3x+4=19 for x." in html and "<b>Model</b> pocket" in html
    refused = run_credit(["generate", "hi", "--trace", "--json"])
    assert refused.status == 2 and "exclude each other" in refused.stderr


def test_info_has_six_lines_and_more_on_demand(model: str) -> None:
    lines = output_of(["info"]).splitlines()
    names = ["checkpoint", "model", "memory", "attention", "tokens", "decoder"]
    assert [line.split()[0] for line in lines] == names
    assert "llada, 3,763,392 parameters" in lines[1]
    assert "rope_theta" in output_of(["info", "--all"]) and "rope_theta" in json_of(["info"])
    assert len(output_of(["info", "-m", model]).splitlines()) == 6


def test_chat_greets_and_says_how_to_leave() -> None:
    talk = run_credit(["chat"], "/help\n/nonsense\nSolve 3x+4=19 for x.\n/new\n/exit\nnever\n")
    assert talk.status == 0 and talk.stdout.strip().endswith("x=5")
    assert talk.stderr.count("/exit or Ctrl-D leaves") == 3
    assert talk.stderr.startswith("pocket: ") and "/nonsense is no command" in talk.stderr
