"""Which model and tokenizer a verifier or a run's folder belongs to: a tokenizer that reads a text
otherwise is another one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Core
from transformers import PreTrainedTokenizerFast

from creditdecoding import load
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import checkpoint_digest, model_digest, model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.verifier.model import Scorer, Verifier, write_verifier
from creditdecoding.run_dir import open_run
from creditdecoding.text.tokenizer import Tokenizer
from tests.helpers.adapters import low_rank_tensors, write_adapter
from tools.make_checkpoint import make


def without_a_merge(tokenizer: Tokenizer) -> Tokenizer:
    """The same ids and words, but two letters that were joined stay apart."""
    rules = json.loads(tokenizer.backend.backend_tokenizer.to_str())
    rules["model"]["merges"] = rules["model"]["merges"][:-1]
    return dataclasses.replace(
        tokenizer, backend=changed(tokenizer, Core.from_str(json.dumps(rules)))
    )


def with_a_template(tokenizer: Tokenizer) -> Tokenizer:
    """The same words in another chat template."""
    backend = changed(tokenizer, tokenizer.backend.backend_tokenizer)
    backend.chat_template = "{{ messages[0]['content'] }}"
    return dataclasses.replace(tokenizer, backend=backend)


def changed(tokenizer: Tokenizer, core: Core) -> PreTrainedTokenizerFast:
    """A tokenizer of other rules with the same special tokens and template."""
    backend = PreTrainedTokenizerFast(tokenizer_object=core, **tokenizer.backend.special_tokens_map)
    backend.chat_template = tokenizer.backend.chat_template
    return backend


def with_a_mask(tokenizer: Tokenizer) -> Tokenizer:
    """Another token stands for what is not yet written."""
    return dataclasses.replace(tokenizer, mask_id=tokenizer.mask_id + 1)


@pytest.mark.parametrize("change", [without_a_merge, with_a_template, with_a_mask])
def test_a_tokenizer_that_reads_otherwise_is_refused(
    change: Callable[[Tokenizer], Tokenizer], tmp_path: Path
) -> None:
    """The vocabulary alone does not say how a text is read; a file of an earlier version knows no
    more than that.
    """
    lm = load("pocket")
    (tmp_path / "new").mkdir()
    write_verifier(tmp_path / "new", Scorer.begin(lm), model_identity(lm), {"masks": 0})
    about = json.loads((tmp_path / "new" / "verifier.json").read_text())
    assert Verifier.load("pocket", lm) and Verifier.load(tmp_path / "new", lm)
    other = LM(lm.model, change(lm.tokenizer), max_length=lm.max_length, device=lm.device)
    ours, changed = model_identity(lm), model_identity(other)
    assert ours.tokenizer == changed.tokenizer and ours.difference(changed) == "tokenizer"
    with pytest.raises(OptionError, match="another tokenizer") as caught:
        Verifier.load(tmp_path / "new", other)
    assert "\n" not in str(caught.value)
    with open_run(tmp_path / "run", {"kind": "rl", **dataclasses.asdict(ours)}):
        pass
    with (
        pytest.raises(OptionError, match="behaviour"),
        open_run(tmp_path / "run", {"kind": "rl", **dataclasses.asdict(changed)}),
    ):
        pass
    del about["identity"]["behaviour"]
    (tmp_path / "new" / "verifier.json").write_text(json.dumps(about))
    assert Verifier.load(tmp_path / "new", other)
    old = {"kind": "rl", "model": ours.model, "tokenizer": ours.tokenizer}
    with open_run(tmp_path / "old", old):
        pass
    with open_run(tmp_path / "old", {"kind": "rl", **dataclasses.asdict(ours)}):
        pass


def test_padding_and_truncation_say_nothing_of_a_tokenizer() -> None:
    lm = load("pocket")
    before = model_identity(lm)
    lm.tokenizer.backend.backend_tokenizer.enable_truncation(2)
    lm.tokenizer.backend.backend_tokenizer.enable_padding(length=2)
    assert model_identity(lm) == before


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", "generation_config.json"])
def test_every_file_that_is_read_is_part_of_a_checkpoints_digest(tmp_path: Path, name: str) -> None:
    folder = make("llada", tmp_path / "llada")
    (folder / name).write_text("{}")
    before = checkpoint_digest(folder)
    (folder / "README.md").write_text("not read")
    assert checkpoint_digest(folder) == before
    (folder / name).write_text("{ }")
    assert checkpoint_digest(folder) != before


def test_the_base_is_part_of_an_adapters_digest(tmp_path: Path) -> None:
    base = make("llada", tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base, low_rank_tensors(base, "q_proj.weight"))
    before = model_digest(str(adapter), EngineConfig())
    assert before == model_digest(str(adapter), EngineConfig())
    make("llada", base, seed=1)
    assert model_digest(str(adapter), EngineConfig()) != before
