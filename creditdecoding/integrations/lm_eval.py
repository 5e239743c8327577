"""lm-eval's model class `creditdecoding`: generation in few passes and Monte-Carlo likelihoods.

    python -m creditdecoding.integrations.lm_eval --model creditdecoding \\
        --model_args pretrained=DIR,decoder=credit --tasks gsm8k

is the `lm_eval` command with the class registered, since lm-eval finds no models of other packages
by itself. In Python, importing this module registers it.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import Request, sample_seed
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.likelihood import log_likelihoods
from creditdecoding.lm import load
from creditdecoding.models import resolve_device
from creditdecoding.options import check_fields, from_mapping, option, parse_values
from creditdecoding.text.tokenizer import render_chat

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.config.evaluate_config import EvaluatorConfig
except ImportError as error:
    raise MissingExtraError("lm-eval", "eval") from error

DEFAULT_LENGTH = 256
CACHE_NAMES = {"true": "prefix", "false": "none"}


@dataclass(frozen=True)
class ModelArguments:
    """The arguments that `--model_args` takes, besides their `ALIASES` in other evaluations of
    diffusion models.
    """

    pretrained: str = option("pocket", "A checkpoint folder, a hub id, or pocket; also model_path.")
    decoder: str = option(
        "credit",
        "Decoder, NAME or NAME:knob=value with one knob, since commas separate the arguments.",
    )
    threshold: float | None = option(None, "The decoder's threshold.", gt=0.0, le=1.0)
    steps: int | None = option(
        None, "With decoder=fixed, passes in all: gen_length / steps tokens a pass.", ge=1
    )
    gen_length: int | None = option(
        None, "Masks appended; by default the task's max_gen_toks, else 256.", ge=1
    )
    block_length: int | None = option(None, "Positions decoded together.", ge=1)
    use_cache: str = option("auto", "true (prefix), false, or the name of a cache.")
    cfg: float = option(0.0, "Classifier-free guidance; also cfg_scale.", ge=0.0)
    mc_num: int = option(128, "Samples of a likelihood.", ge=1)
    is_greedy: bool = option(
        False,
        "Also test whether greedy decoding gives the continuation, a pass for each of its tokens.",
    )
    temperature: float | None = option(None, "In place of the task's.", ge=0.0)
    logits_eos_inf: bool = option(False, "Never write a stop token.")
    confidence_eos_eot_inf: bool = option(False, "Write end tokens last.")
    seed: int = option(0, "Seed of draws and masks.", ge=0)
    parse_special: bool = option(
        False, "Names of special tokens in documents are such tokens, not plain text."
    )
    batch_size: int = option(8, "Rows that share a forward pass.", ge=1)
    device: str = option("auto", "Where to run.")
    dtype: str = option("auto", "Weights and activations.")
    revision: str | None = option(None, "Branch, tag or commit of a hub id.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps is not None and self.decoder.partition(":")[0] != "fixed":
            raise OptionError(
                "steps is an option of the fixed decoder",
                given=self.decoder,
                hint="Add decoder=fixed, or leave steps out.",
            )

    def decoder_spec(self, length: int) -> str:
        """The decoder with its knobs, for answers of `length` tokens."""
        knobs = []
        if self.threshold is not None:
            knobs.append(f"threshold={self.threshold}")
        if self.steps is not None:
            knobs.append(f"k={max(1, math.ceil(length / self.steps))}")
        if not knobs:
            return self.decoder
        separator = "," if ":" in self.decoder else ":"
        return self.decoder + separator + ",".join(knobs)


ALIASES = {
    "model_path": "pretrained",
    "cfg_scale": "cfg",
    "cache": "use_cache",
    "greedy": "is_greedy",
}
_IGNORED = ("max_batch_size", "trust_remote_code", "show_speed", "is_check_greedy")


def _parse_arguments(arguments: Mapping[str, Any]) -> ModelArguments:
    """The arguments from the numbers, booleans or texts that lm-eval passes."""
    values = {
        ALIASES.get(name, name): str(value)
        for name, value in arguments.items()
        if value is not None and name not in _IGNORED
    }
    if values.get("batch_size", "").startswith("auto"):  # lm-eval's value for "find out"
        del values["batch_size"]
    return from_mapping(ModelArguments, parse_values(ModelArguments, values))


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
        available, _ = resolve_device(EngineConfig())
        logging.getLogger(__name__).warning(
            "lm-eval's default device %s is not on this machine; running on %s", device, available
        )
        del options["device"]
    return options


@register_model("creditdecoding")
class CreditLM(LM):
    """A masked diffusion model for lm-eval. Raises `CreditError`s for bad arguments."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = _parse_arguments(arguments)
        names = ("device", "dtype", "batch_size", "revision", "parse_special")
        engine = EngineConfig(**{name: getattr(self.arguments, name) for name in names})
        self.lm = load(self.arguments.pretrained, engine)
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
        repeats: Counter[tuple[str, GenerationConfig]] = Counter()
        groups: dict[GenerationConfig, list[Request]] = {}
        for index, request in enumerate(requests):
            context, config = request.args[0], self._generation_config(request.args[1])
            seed = sample_seed(config.seed, repeats[context, config])
            repeats[context, config] += 1
            group = groups.setdefault(config, [])
            group.append(self._new_request(index, context, replace(config, seed=seed)))
        answers: dict[int, str] = {}
        for group in groups.values():
            group.sort(key=lambda request: len(request.canvas))
            for request, completion in zip(group, self.lm.collect(group)):
                answers[request.index] = completion.text
                arguments = requests[request.index].args
                self.cache_hook.add_partial("generate_until", arguments, completion.text)
        return [answers[i] for i in range(len(requests))]

    def _new_request(self, index: int, context: str, config: GenerationConfig) -> Request:
        """A request for a context; a long one is cut to its end, as in lm-eval's other models."""
        ids = self._encode(self._mark_context(context)) or self._start_ids()
        room = max(1, self.lm.max_length - config.gen_length)
        return self.lm.new_request(ids[-room:], config, index)

    def _generation_config(self, kwargs: Mapping[str, Any]) -> GenerationConfig:
        """A task's generation_kwargs, with the arguments of the command line in their place."""
        args = self.arguments
        until = kwargs.get("until") or []
        stop = [until] if isinstance(until, str) else until
        task_length = kwargs.get("max_gen_toks") or kwargs.get("max_new_tokens")
        length = args.gen_length or int(task_length or DEFAULT_LENGTH)
        return GenerationConfig(
            decoder=args.decoder_spec(length),
            gen_length=length,
            block_length=args.block_length,
            cache=CACHE_NAMES.get(args.use_cache.lower(), args.use_cache),
            cfg_scale=args.cfg,
            seed=args.seed,
            logits_eos_inf=args.logits_eos_inf,
            confidence_eos_eot_inf=args.confidence_eos_eot_inf,
            stop=tuple(text for text in stop if text),
            **self._sampling(kwargs),
        )

    def _sampling(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        draws = bool(kwargs.get("do_sample", True))
        temperature = float(kwargs.get("temperature") or 0.0) if draws else 0.0
        if self.arguments.temperature is not None:
            temperature = self.arguments.temperature
        sampling: dict[str, Any] = {"temperature": temperature}
        if draws and kwargs.get("top_p"):
            sampling["top_p"] = float(kwargs["top_p"])
        if draws and kwargs.get("top_k"):
            sampling["top_k"] = int(kwargs["top_k"])
        return sampling

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Monte-Carlo bounds of log p(continuation | context), and whether greedy decoding gives
        the continuation (False without the argument is_greedy).
        """
        pairs = [self._encode_pair(*request.args) for request in requests]
        greedy = [False] * len(pairs)
        if self.arguments.is_greedy:
            greedy = self._is_greedy(pairs)
        results = list(zip(self._log_likelihoods(pairs), greedy))
        for request, result in zip(requests, results):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Bounds of log p(text), in pieces as long as the model's context, each given only the
        start token.
        """
        texts = [self._split_text(request.args[0]) for request in requests]
        bounds = iter(self._log_likelihoods([pair for pieces in texts for pair in pieces]))
        return [sum(next(bounds) for _ in pieces) for pieces in texts]

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
        context_ids = self._encode(bare) or self._start_ids()
        joint_ids = self._encode(bare + spaced_continuation)
        if not bare:
            joint_ids = context_ids + joint_ids
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


if __name__ == "__main__":
    sys.exit(cli_evaluate())
