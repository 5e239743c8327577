"""The command line: what it prints, its exit codes, and that bad input is one line with a way out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from creditdecoding.config import EngineConfig, GenerationConfig
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

FAST = ["--gen-length", "12", "--block-length", "5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint."""
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


def test_help_imports_nothing_heavy() -> None:
    """That is what makes it quick; a process, because in this one all is imported already."""
    code = "import sys; sys.argv = ['credit', '--help']\nfrom creditdecoding.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "assert not {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


def test_generate_json(model: str) -> None:
    done = run_credit(["generate", "hello", "-m", model, "--json", "--decoder", "fixed:k=3", *FAST])
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= {"text", "nfe", "tokens", "tpf", "seconds", "finish_reason", "decoder"}
    assert found["decoder"] == {"name": "fixed", "k": 3, "steps": None, "order": "low_confidence"}
    assert found["generation"]["gen_length"] == 12 and found["nfe"] <= 5


def test_every_option_is_a_flag_and_reaches_the_request(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "seed": 3,
        "early_stop": False,
        "logits_eos_inf": True,
    }
    flags = [
        "--temperature",
        "0.7",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
        "--seed",
        "3",
        "--no-early-stop",
        "--logits-eos-inf",
        "--confidence-eos-eot-inf",
    ]
    done = run_credit(
        ["generate", "hello", "-m", model, "--json", *flags, "--stop", "x", "--stop", "y", *FAST]
    )
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)["generation"]
    assert {name: found[name] for name in given} == given
    assert found["confidence_eos_eot_inf"] is True and found["stop"] == ["x", "y"]
    monkeypatch.setenv("COLUMNS", "240")
    done = run_credit(["generate", "--help"])
    assert done.status == 0, done.stderr
    text = done.stdout
    for cls in (GenerationConfig, EngineConfig):
        for name in cls.__dataclass_fields__:
            assert f"--{name.replace('_', '-')}" in text, name


def test_prompt_from_file_and_standard_input(model: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("hello there")
    texts = []
    for arguments in (["hello there"], ["--file", str(tmp_path / "p.txt")]):
        done = run_credit(["generate", *arguments, "-m", model, *FAST])
        assert done.status == 0, done.stderr
        texts.append(done.stdout)
    done = run_credit(["generate", "-", "-m", model, *FAST], "hello there")
    assert done.status == 0, done.stderr
    texts.append(done.stdout)
    assert len(set(texts)) == 1


def test_infill_keeps_the_given_text(model: str) -> None:
    done = run_credit(
        ["generate", "the cat [MASK] on the [MASK] mat", "--infill", "-m", model, "--json"]
    )
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)["text"]
    assert found.startswith("the cat") and found.endswith("mat") and "on the" in found


def test_trace_saves_and_draws(model: str, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("t.jsonl", "t.png", "t.html")]
    arguments = [
        "trace",
        "hello",
        "-m",
        model,
        "--against",
        "fixed",
        "--save",
        files[0],
        "--png",
        files[1],
        "--html",
        files[2],
        *FAST,
    ]
    done = run_credit(arguments)
    assert done.status == 0, done.stderr
    assert all(Path(name).stat().st_size > 500 for name in files)
    done = run_credit(["trace", "--load", files[0], "-m", model])
    assert done.status == 0, done.stderr
    assert done.stdout.strip()


def test_eval_json(model: str, tmp_path: Path) -> None:
    arguments = [
        "eval",
        "-m",
        model,
        "--tasks",
        "algebra,facts",
        "--limit",
        "2",
        "--json",
        "--out",
        str(tmp_path / "o.json"),
        *FAST,
    ]
    done = run_credit(arguments)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["families"]) == {"algebra", "facts"} and found["items"] == 4
    assert (
        found["settings"]["gen_length"] == 12 and found["settings"]["decoder"]["name"] == "credit"
    )
    assert len(json.loads((tmp_path / "o.json").read_text())["samples"]) == 4
    assert found["sequence_forwards"] == pytest.approx(found["nfe"] * 4, abs=0.01)


def test_info_and_decoders(model: str) -> None:
    done = run_credit(["info", "-m", model, "--json"])
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (
        found["family"] == "llada" and found["parameters"] > 0 and "mdm_mask" in found["mask token"]
    )
    done = run_credit(["decoders", "--json"])
    assert done.status == 0, done.stderr
    assert {each["name"] for each in json.loads(done.stdout)} >= {
        "fixed",
        "threshold",
        "credit",
        "credit_adaptive",
        "credit_full",
    }


def test_chat_answers_each_line(model: str) -> None:
    lines = "hello\n/new\n\nthere\n/exit\nnever\n"
    done = run_credit(["chat", "-m", model, "--no-early-stop", "--logits-eos-inf", *FAST], lines)
    assert done.status == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2


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
    arguments, said = BAD[case]
    monkeypatch.chdir(tmp_path)
    if "-m" not in arguments:
        arguments = [*arguments, "-m", model]
    done = run_credit(arguments)
    assert done.status == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
