"""Trains the embedded model's tokenizer: byte-level BPE with single digits, LLaDA's special tokens
and chat template.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from creditdecoding.tasks.base import Task, generate_items
from creditdecoding.text.tokenizer import Tokenizer as TaskTokenizer
from creditdecoding.text.tokenizer import read_tokenizer

BOS, EOS, MASK, EOT = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>"
SPECIAL = (BOS, EOS, MASK, "<|start_header_id|>", "<|end_header_id|>", EOT)

# LLaDA's template: content trimmed, bos before the first message only, the assistant's header
# always at the end.
TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` ids over `texts`; any text round-trips, every digit is a
    token of its own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=8,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        additional_special_tokens=[t for t in SPECIAL if t not in (BOS, EOS, MASK)],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def task_tokenizer(families: Sequence[Task], size: int, folder: Path) -> TaskTokenizer:
    """The tokenizer in `folder`, trained there first on 4,000 training items a family if it has
    none.
    """
    if not (folder / "tokenizer.json").exists():
        texts = ["user\n\n", "assistant\n\n"] * 20000
        for family in families:
            for item in itertools.islice(generate_items(family, "train", 0), 4000):
                texts += [item.prompt, item.answer]
        save_tokenizer(train_tokenizer(texts, size), folder)
    return read_tokenizer(folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer_config.json (with the template inside, as LLaDA's) and tokenizer.json; a kill
    leaves whole files, the latter the last.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer") as passing:
        tokenizer.save_pretrained(passing, save_jinja_files=False)
        written = sorted(Path(passing).iterdir(), key=lambda path: path.name == "tokenizer.json")
        for path in written:
            os.replace(path, folder / path.name)
