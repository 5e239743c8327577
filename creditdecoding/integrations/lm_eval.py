"""lm-eval's model class `creditdecoding`: generation in few passes and Monte-Carlo likelihoods.

    python -m creditdecoding.integrations.lm_eval --model creditdecoding \\
        --model_args pretrained=DIR,decoder=credit --tasks gsm8k

is the `lm_eval` command with the class registered, since lm-eval finds no models of other packages
by itself, and with `--settings` (`integrations/paper_settings.py`). In Python, importing this
module registers it. Inside lm-eval, this line of its `MODEL_MAPPING` would do:

    "creditdecoding": "creditdecoding.integrations.lm_eval:CreditLM",
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import Request, sample_seed
from creditdecoding.errors import CreditError, MissingExtraError, OptionError
from creditdecoding.integrations.lm_eval_arguments import DEFAULT_LENGTH, parse_arguments
from creditdecoding.integrations.paper_settings import expand_command
from creditdecoding.likelihood import log_likelihoods
from creditdecoding.lm import load
from creditdecoding.models import resolve_device
from creditdecoding.text.tokenizer import render_chat

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.config.evaluate_config import EvaluatorConfig
except ImportError as error:
    raise MissingExtraError("lm-eval", "eval") from error

from tqdm import tqdm

AT_ONCE = 64
"""Requests between two updates of progress and of lm-eval's cache, unless a batch is larger."""
T = TypeVar("T")


def _without_absent_default_device(options: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's options without lm-eval's default device where this machine lacks it."""
    options = dict(options)
    device = options.get("device")
    defaults = {field.name: field.default for field in dataclasses.fields(EvaluatorConfig)}
    if device is None or device != defaults["device"]:
        return options
    try:
        resolve_device(EngineConfig(device=device))
    except OptionError:
        available = resolve_device(EngineConfig())
        logging.getLogger(__name__).warning(
            "lm-eval's default device %s is not on this machine; running on %s", device, available
        )
        del options["device"]
    return options


@register_model("creditdecoding")
class CreditLM(TemplateLM):  # type: ignore[misc]
    """A masked diffusion model for lm-eval. Raises `CreditError`s for bad arguments."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = parse_arguments(arguments)
        names = ("device", "dtype", "batch_size", "revision", "parse_special")
        engine = EngineConfig(**{name: getattr(self.arguments, name) for name in names})
        self.lm = load(self.arguments.pretrained, engine)
        self.tokenizer = self.lm.tokenizer.to_transformers()
        self.max_length = self.lm.max_length
        self.max_gen_toks = self.arguments.gen_length or DEFAULT_LENGTH
        self.batch_size = self.arguments.batch_size
        self._device = self.lm.device
        self._templated = False

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> CreditLM:
        """From `name=value,...`, which overrides the command line's batch_size and device."""
        pairs = [part.partition("=") for part in arg_string.split(",") if part]
        values = {name.strip(): value.strip() for name, _, value in pairs}
        return cls.create_from_arg_obj(values, additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> CreditLM:
        """As `create_from_arg_string`, from a mapping."""
        return cls(**{**_without_absent_default_device(additional_config or {}), **arg_dict})

    @property
    def eot_token_id(self) -> int:
        """The last end token of the model, that of a turn if it has one."""
        return self.lm.vocab.stop_ids[-1]

    @property
    def prefix_token_id(self) -> int:
        """What precedes a text without a context."""
        return self._start_ids()[0]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Ids of a document, with the start token if asked for or by the argument add_bos_token."""
        if add_special_tokens is None:
            add_special_tokens = self.arguments.add_bos_token
        return [
            *(self._start_ids() if add_special_tokens else []),
            *self._encode(self._mark_document(string)),
        ]

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names its request cache by."""
        return self.arguments.pretrained.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The checkpoint's template, for lm-eval's report."""
        return str(self.lm.tokenizer.backend.chat_template or "") if chat_template else ""

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text in the checkpoint's template, with its special tokens written out.

        Names of special tokens in the messages are marked, so that they stay plain text.
        """
        self._templated = True
        tokenizer = self.lm.tokenizer
        if not tokenizer.backend.chat_template:
            raise OptionError(
                "this checkpoint has no chat template",
                given=self.arguments.pretrained,
                hint="Leave out --apply_chat_template.",
            )
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        if self.arguments.parse_special:
            return render_chat(tokenizer.backend, chat_history, **options)
        return tokenizer.render_marked(chat_history, **options)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut before the first of `until`. Requests with the same settings share a run.

        Of equal requests, as `repeats` makes them, each draws with a different seed.
        """
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for group in self._groups(requests):
                for part in self._parts(group):
                    for row, completion in zip(part, self.lm.collect(part)):
                        answers[row.index] = completion.text
                        arguments = requests[row.index].args
                        self.cache_hook.add_partial("generate_until", arguments, completion.text)
                    bar.update(len(part))
        return [answers[i] for i in range(len(requests))]

    def _groups(self, requests: Sequence[Any]) -> list[list[Request]]:
        """Requests with the same settings together, short ones first."""
        repeats: Counter[tuple[str, GenerationConfig]] = Counter()
        groups: dict[GenerationConfig, list[Request]] = {}
        for index, request in enumerate(requests):
            context = request.args[0]
            config = self.arguments.generation_config(request.args[1])
            seed = sample_seed(config.seed, repeats[context, config])
            repeats[context, config] += 1
            group = groups.setdefault(config, [])
            group.append(self._new_request(index, context, replace(config, seed=seed)))
        return [sorted(group, key=lambda row: len(row.canvas)) for group in groups.values()]

    def _parts(self, rows: Sequence[T]) -> Iterator[Sequence[T]]:
        """Rows in parts of whole batches."""
        size = self.batch_size * max(1, AT_ONCE // self.batch_size)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _new_request(self, index: int, context: str, config: GenerationConfig) -> Request:
        """A request for a context; a long one is cut to its end, as in lm-eval's other models."""
        ids = self._encode(self._mark_context(context))
        ids = self._first_ids(ids) + ids
        room = max(1, self.lm.max_length - config.gen_length)
        return self.lm.new_request(ids[-room:], config, index)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Monte-Carlo bounds of log p(continuation | context), and whether greedy decoding gives
        the continuation (False without the argument is_greedy).
        """
        rows = [(request.args, *self._encode_pair(*request.args)) for request in requests]
        return self._loglikelihood_tokens(rows, disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **unused: Any,
    ) -> list[tuple[float, bool]]:
        """`loglikelihood` of ids, each with the texts that name it in lm-eval's cache."""
        results: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), desc="Likelihoods", disable=disable_tqdm) as bar:
            for part in self._parts(requests):
                pairs = [self._fit(context, continuation) for _, context, continuation in part]
                greedy = [False] * len(pairs)
                if self.arguments.is_greedy:
                    greedy = self._is_greedy(pairs)
                scored = list(zip(self._log_likelihoods(pairs), greedy))
                for (texts, *_), result in zip(part, scored):
                    self.cache_hook.add_partial("loglikelihood", texts, result)
                results += scored
                bar.update(len(part))
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Bounds of log p(text), in pieces as long as the model's context, each given only the
        start token.
        """
        totals = []
        for request in tqdm(requests, desc="Likelihoods", disable=disable_tqdm):
            pieces = self._split_text(request.args[0])
            totals.append(sum(self._log_likelihoods(pieces)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def _log_likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        if not pairs:
            return []
        args = self.arguments
        estimates = log_likelihoods(
            self.lm,
            pairs,
            mc_num=args.mc_num,
            cfg_scale=args.cfg,
            batch_size=args.batch_size,
            seed=args.seed,
        )
        return [estimate.mean for estimate in estimates]

    def _is_greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        """Whether standard decoding, a token a pass, gives exactly each continuation."""
        requests = []
        for index, (context, continuation) in enumerate(pairs):
            config = GenerationConfig(
                decoder="fixed",
                gen_length=len(continuation),
                block_length=None if self.lm.geometry.causal_block else len(continuation),
                cache="none",
                early_stop=False,
            )
            requests.append(self.lm.new_request(context, config, index))
        answers = []
        for completion in self.lm.collect(requests):
            written = completion.trace.written
            answers.append([written[i] for i in sorted(written)])
        return [answer == continuation for answer, (_, continuation) in zip(answers, pairs)]

    def _start_ids(self) -> list[int]:
        """What precedes a text without a context: the start token, of tokenizers without one the
        end token.
        """
        tokenizer = self.lm.tokenizer
        backend = tokenizer.backend
        start = backend.bos_token or backend.eos_token
        return tokenizer.encode(str(start or tokenizer.token_text(tokenizer.stop_ids[0])))

    def _first_ids(self, context: Sequence[int]) -> list[int]:
        """The start token where a context is empty, or where add_bos_token asks for it."""
        start = self._start_ids()
        is_missing = list(context[: len(start)]) != start
        return start if not context or (self.arguments.add_bos_token and is_missing) else []

    def _mark_context(self, text: str) -> str:
        """A context for `_encode`: what a template has rendered as it is, else a document."""
        return text if self._templated else self._mark_document(text)

    def _mark_document(self, text: str) -> str:
        """A document for `_encode`, in which names of special tokens are plain text."""
        return text if self.arguments.parse_special else self.lm.tokenizer.mark(text)

    def _encode(self, text: str) -> list[int]:
        return self.lm.tokenizer.encode_marked(text)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, split where their joint encoding splits; white space between them belongs to
        the continuation.
        """
        context = self._mark_context(context)
        continuation = self._mark_document(continuation)
        bare = context.rstrip()
        spaced_continuation = context[len(bare) :] + continuation
        bare_ids = self._encode(bare)
        context_ids = self._first_ids(bare_ids) + bare_ids
        joint_ids = self._first_ids(bare_ids) + self._encode(bare + spaced_continuation)
        if joint_ids[: len(context_ids)] == context_ids:
            continuation_ids = joint_ids[len(context_ids) :]
        else:
            continuation_ids = self._encode(spaced_continuation)
        return self._fit(context_ids, continuation_ids or self._encode(continuation))

    def _fit(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """The end of the context that fits into the model together with the continuation."""
        room = self.lm.max_length - len(continuation)
        if room < 1:
            raise OptionError(
                "a continuation longer than the model's context",
                given=len(continuation),
                allowed=self.lm.max_length - 1,
                hint="Shorten it.",
            )
        return context[-room:], continuation

    def _split_text(self, text: str) -> list[tuple[list[int], list[int]]]:
        """A text in pieces that fit into the model, each after the start token."""
        start = self._start_ids()
        ids = self._encode(self._mark_document(text))
        width = self.lm.max_length - len(start)
        return [(start, ids[i : i + width]) for i in range(0, len(ids), width)]


def main(arguments: Sequence[str]) -> None:
    """lm-eval's command; with `--settings` once for each of them."""
    try:
        commands = expand_command(arguments)
    except CreditError as error:
        sys.exit(f"error: {error}")
    for command in commands:
        sys.argv[1:] = command
        cli_evaluate()


if __name__ == "__main__":
    main(sys.argv[1:])
