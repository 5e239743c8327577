"""The public API: listed in one place, documented name by name, and what users expect of it."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import creditdecoding as cd
from creditdecoding.errors import OptionError
from creditdecoding.viewer import show
from tools.docs_site import FURTHER

SENTENCE = "Solve 3x+4=19 for x."
PARTS = [{"type": "text", "text": "Solve 3x+4=19"}, {"type": "text", "text": " for x."}]
MESSAGE = {"role": "user", "content": SENTENCE}


@pytest.fixture(scope="module")
def lm() -> cd.LM:
    return cd.load("pocket")


def public_members(value: Any) -> dict[str, Any]:
    return {name: member for name, member in vars(value).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", cd.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(cd, name)
    if name == "State":  # an alias
        return
    assert (inspect.getdoc(value) or "").strip(), name
    if isinstance(value, type):
        for name_of_member, member in public_members(value).items():
            if callable(member) or isinstance(member, (property, classmethod)):
                assert (inspect.getdoc(member) or "").strip(), f"{name}.{name_of_member}"


def test_the_list_is_what_the_package_offers() -> None:
    assert dir(cd) == sorted(set(cd.__all__))
    assert sorted(name for names in cd._HOME.values() for name in names) == sorted(cd.__all__)
    for name in ("nothing", "torch"):
        with pytest.raises(AttributeError, match=name):
            getattr(cd, name)


def test_what_the_guides_import_is_in_the_reference() -> None:
    pattern = re.compile(r"^from creditdecoding\.(\S+) import (\([^)]*\)|.+)$", re.MULTILINE)
    guides = Path(__file__).parents[1] / "docs" / "guide"
    imported = {
        (module, name)
        for page in guides.glob("*.md")
        for module, names in pattern.findall(page.read_text(encoding="utf-8"))
        for name in re.findall(r"\w+", names)
        if not module.startswith("integrations")
    }
    listed = {(module, name) for module, names in FURTHER.items() for name in names}
    public = {(module, name) for module, names in cd._HOME.items() for name in names}
    assert len(imported) > 5
    assert imported <= listed | public


@pytest.mark.parametrize("module", FURTHER)
def test_names_of_modules_are_documented(module: str) -> None:
    for name in FURTHER[module]:
        value = getattr(importlib.import_module(f"creditdecoding.{module}"), name)
        assert isinstance(value, tuple) or (inspect.getdoc(value) or "").strip(), name


def test_version_and_types() -> None:
    assert re.match(r"\d+\.\d+|unknown", cd.__version__)
    assert (Path(cd.__file__).parent / "py.typed").is_file()


def test_one_prompt_in_every_form(lm: cd.LM) -> None:
    text = lm.generate(SENTENCE, gen_length=32).text
    for prompt in ([MESSAGE], PARTS, [{"role": "user", "content": PARTS}]):
        answer = lm.generate(prompt, gen_length=32)
        assert isinstance(answer, cd.Completion) and answer.text == text


def test_several_prompts_in_every_form(lm: cd.LM) -> None:
    prompts: list[Any] = [SENTENCE, [MESSAGE], PARTS]
    answers = lm.generate(prompts, gen_length=32)
    assert [type(answer) for answer in answers] == [cd.Completion] * 3
    assert len({answer.text for answer in answers}) == 1


def test_paths_may_be_texts_or_paths(tmp_path: Path) -> None:
    folder = Path(cd.__file__).parent / "assets" / "pocket"
    for path in (folder, str(folder)):
        assert cd.load(path, cache_dir=tmp_path).tokenizer.mask_id == 2


@pytest.mark.slow
def test_search_takes_a_verifier_by_name(lm: cd.LM, tmp_path: Path) -> None:
    options = {"n": 2, "gen_length": 96, "decoder": "threshold:threshold=0.4", "temperature": 1.5}
    answer = lm.search(SENTENCE, verifier="pocket", **options)
    assert "Answer: x=5" in answer.text and 0 < answer.q < 1
    assert answer.text in answer.candidates and answer.sequences > 2
    assert len(repr(answer)) < 200 and answer.text[:10] in answer._repr_html_()
    both = lm.search([SENTENCE, [MESSAGE]], method="majority", n=2, gen_length=64)
    assert len(both) == 2 and both[0].q is None
    with pytest.raises(OptionError, match="beam needs a verifier"):
        lm.search(SENTENCE)
    with pytest.raises(OptionError, match="majority has no c"):
        lm.search(SENTENCE, method="majority", c=5)
    with pytest.raises(OptionError, match="unknown option"):
        lm.search(SENTENCE, verifier="pocket", tempreature=1)


def test_reprs_are_short(lm: cd.LM) -> None:
    answer = lm.generate(SENTENCE, gen_length=32)
    for value in (lm, answer, answer.trace):
        assert len(repr(value)) < 200 and repr(value).startswith("<")
    for value in (answer, answer.trace):
        assert "<svg" in value._repr_html_()


def test_a_trace_shows_itself(lm: cd.LM, capsys: pytest.CaptureFixture[str]) -> None:
    trace = lm.generate(SENTENCE, gen_length=32).trace
    trace.show()
    shown = capsys.readouterr().out
    assert shown.startswith(f"Question {SENTENCE}\n")
    copy = pickle.loads(pickle.dumps(trace))
    assert copy == trace
    with pytest.raises(OptionError, match="does not know its tokenizer"):
        copy.show()
    copy.show(lm.tokenizer)
    assert capsys.readouterr().out == shown


def test_a_trace_shows_itself_in_a_notebook(lm: cd.LM, monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[str] = []
    notebook = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=True),
        display=SimpleNamespace(display=displayed.append, HTML=lambda text: text),
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)  # type: ignore[arg-type]
    show.show_trace(lm.generate(SENTENCE, gen_length=32).trace, lm.tokenizer)
    assert displayed[0].startswith("<iframe srcdoc=") and SENTENCE in displayed[0]
