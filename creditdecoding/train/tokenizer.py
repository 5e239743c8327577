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
from creditdecoding.train.rows import check_can_train

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
MASK = "<|mdm_mask|>"
EOT = "<|eot_id|>"
SPECIAL = (BOS, EOS, MASK, "<|start_header_id|>", "<|end_header_id|>", EOT)

ITEMS_PER_TASK = 4000
HEADER_TEXTS = 20000  # repetitions of the headers, so that they are merged first

# LLaDA's template: content trimmed, bos before the first message only, the assistant's header
# always at the end.
TEMPLATE = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` ids: every text round-trips, every digit is one token."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
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
        additional_special_tokens=[token for token in SPECIAL if token not in (BOS, EOS, MASK)],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def task_tokenizer(tasks: Sequence[Task], size: int, folder: Path) -> TaskTokenizer:
    """The tokenizer in `folder`; if there is none, it is first trained on the tasks' items. Raises
    `OptionError` for a task without items to train on.
    """
    check_can_train(tasks)
    if not (folder / "tokenizer.json").exists():
        texts = ["user\n\n", "assistant\n\n"] * HEADER_TEXTS
        for task in tasks:
            for item in itertools.islice(generate_items(task, "train", 0), ITEMS_PER_TASK):
                texts += [item.prompt, item.answer]
        save_tokenizer(train_tokenizer(texts, size), folder)
    return read_tokenizer(folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer_config.json (with the template in it, as LLaDA's) and tokenizer.json.

    A kill leaves whole files; tokenizer.json comes last.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer") as temporary:
        tokenizer.save_pretrained(temporary, save_jinja_files=False)
        files = sorted(Path(temporary).iterdir(), key=lambda path: path.name == "tokenizer.json")
        for path in files:
            os.replace(path, folder / path.name)
