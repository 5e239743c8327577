"""lm-eval's model class `creditdecoding`: generation in few passes and Monte-Carlo likelihoods. The
only file that imports lm_eval.

    python -m creditdecoding.integrations.lm_eval --model creditdecoding --model_args
    pretrained=DIR,decoder=credit --tasks gsm8k

is the `lm_eval` command with the class registered (it finds no models of other packages by itself);
in Python, importing this module
registers it.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import Request, new_request, sample_seed
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.likelihood import log_likelihoods
from creditdecoding.lm import load
from creditdecoding.models import resolve_device
from creditdecoding.options import check_fields, from_mapping, option, parse_values

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.config.evaluate_config import EvaluatorConfig
except ImportError as error:
    raise MissingExtraError("lm-eval", "eval") from error

_DEFAULT_LENGTH = 256
_CACHES = {"true": "prefix", "false": "none"}


@dataclass(frozen=True)
class ModelArguments:
    """What `--model_args` may name, besides the names that other evaluations of diffusion models
    use for the same (ALIASES).
    """

    pretrained: str = option("pocket", "A checkpoint folder, a hub id, or pocket; also model_path.")
    decoder: str = option(
        "credit",
        "Decoding rule, NAME or NAME:knob=value with one knob (commas part the arguments).",
    )
    threshold: float | None = option(None, "The decoder's threshold.", gt=0.0, le=1.0)
    steps: int | None = option(
        None, "LLaDA's steps in all: gen_length / steps tokens a pass, with decoder=fixed.", ge=1
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
        "Also find out whether greedy decoding gives the continuation: as many passes as it has tokens.",
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


ALIASES = {
    "model_path": "pretrained",
    "cfg_scale": "cfg",
    "cache": "use_cache",
    "greedy": "is_greedy",
}
_IGNORED = ("max_batch_size", "trust_remote_code", "show_speed", "is_check_greedy")


def _arguments(given: Mapping[str, Any]) -> ModelArguments:
    """lm-eval hands over numbers, booleans or texts, as it read them."""
    known = {
        ALIASES.get(name, name): value
        for name, value in given.items()
        if value is not None and name not in _IGNORED
    }
    if str(known.get("batch_size", "")).startswith(
        "auto"
    ):  # lm-eval's word for "find out"; ours is a number
        del known["batch_size"]
    return from_mapping(
        ModelArguments,
        parse_values(ModelArguments, {name: str(value) for name, value in known.items()}),
    )


def _lm_evals_device() -> Any:
    """Where lm-eval runs unless told otherwise."""
    return next(
        field.default for field in dataclasses.fields(EvaluatorConfig) if field.name == "device"
    )


def _here(additional: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's own options; a device that lm-eval names by default and this machine lacks
    is left out, with a line.
    """
    device = additional.get("device")
    if device is None or device != _lm_evals_device():
        return dict(additional)
    try:
        resolve_device(EngineConfig(device=device))
    except OptionError:
        found, _ = resolve_device(EngineConfig())
        logging.getLogger(__name__).warning(
            "lm-eval's default device %s is not on this machine; running on %s", device, found
        )
        return {name: value for name, value in additional.items() if name != "device"}
    return dict(additional)


@register_model("creditdecoding")
class CreditLM(LM):
    """A masked diffusion model for lm-eval. Raises `CreditError`s for arguments that make no sense."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.arguments = args = _arguments(given)
        names = ("device", "dtype", "batch_size", "revision", "parse_special")
        self.lm = load(
            args.pretrained, EngineConfig(**{name: getattr(args, name) for name in names})
        )
        self._device = self.lm.device
        self._templated = False

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> CreditLM:
        """From `name=value,...` and the command line's own batch_size and device, of which
        `name=value` goes first.
        """
        pairs = [part.partition("=") for part in arg_string.split(",") if part]
        return cls.create_from_arg_obj(
            {name.strip(): value.strip() for name, _, value in pairs}, additional_config
        )

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> CreditLM:
        """The same from a mapping."""
        return cls(**{**_here(additional_config or {}), **arg_dict})

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

        Names of special tokens that documents hold are broken by a sign, so that they stay plain
        text.
        """
        self._templated = True
        backend = self.lm.tokenizer.backend
        if not backend.chat_template:
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
            return str(backend.apply_chat_template(list(chat_history), tokenize=False, **options))
        return self.lm.tokenizer.render_marked(list(chat_history), **options)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers cut before the first of `until`, requests with the same settings in one run.

        Equal requests, as `repeats` makes them, are counted: each draws by a seed of its own.
        """
        seen: Counter[tuple[str, GenerationConfig]] = Counter()
        groups: dict[GenerationConfig, list[Request]] = {}
        for index, request in enumerate(requests):
            context, config = request.args[0], self._config(request.args[1])
            own = replace(config, seed=sample_seed(config.seed, seen[context, config]))
            seen[context, config] += 1
            groups.setdefault(config, []).append(self._row(index, context, own))
        answers: dict[int, str] = {}
        for rows in groups.values():
            rows.sort(key=lambda row: len(row.canvas))
            for row, done in zip(rows, self.lm.collect(rows)):
                answers[row.index] = done.text
                self.cache_hook.add_partial("generate_until", requests[row.index].args, done.text)
        return [answers[i] for i in range(len(requests))]

    def _row(self, index: int, context: str, config: GenerationConfig) -> Request:
        """A context ready for decoding; of one that is too long the end, as lm-eval's other models
        do it.
        """
        ids = self._read(self._context(context)) or self._start()
        room = max(1, self.lm.max_length - config.gen_length)
        return self.lm.new_request(ids[-room:], config, index)

    def _config(self, asked: Mapping[str, Any]) -> GenerationConfig:
        """A task's generation_kwargs, under the arguments of the command line."""
        args, until = self.arguments, asked.get("until") or []
        length = args.gen_length or int(
            asked.get("max_gen_toks") or asked.get("max_new_tokens") or _DEFAULT_LENGTH
        )
        draws = bool(asked.get("do_sample", True))
        temperature = (
            args.temperature
            if args.temperature is not None
            else float(asked.get("temperature") or 0.0)
            if draws
            else 0.0
        )
        decoder, extra = args.decoder, []
        if args.threshold is not None:
            extra.append(f"threshold={args.threshold}")
        if args.steps is not None:
            extra.append(f"k={max(1, -(-length // args.steps))}")
        if extra:
            decoder += ("," if ":" in decoder else ":") + ",".join(extra)
        return GenerationConfig(
            decoder=decoder,
            gen_length=length,
            block_length=args.block_length,
            cache=_CACHES.get(args.use_cache.lower(), args.use_cache),
            temperature=temperature,
            top_p=float(asked["top_p"]) if draws and asked.get("top_p") else None,
            top_k=int(asked["top_k"]) if draws and asked.get("top_k") else None,
            cfg_scale=args.cfg,
            seed=args.seed,
            logits_eos_inf=args.logits_eos_inf,
            confidence_eos_eot_inf=args.confidence_eos_eot_inf,
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
        )

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Monte-Carlo bounds of log p(continuation | context); without the argument is_greedy the
        second value is always False.
        """
        pairs = [self._pair(*request.args) for request in requests]
        found = self._bounds(pairs)
        greedy = self._greedy(pairs) if self.arguments.is_greedy else [False] * len(pairs)
        for request, answer in zip(requests, zip(found, greedy)):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return list(zip(found, greedy))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Bounds of log p(text): in pieces as long as the model's context, each given the start
        token alone.
        """
        pieces = [list(self._pieces(request.args[0])) for request in requests]
        found = iter(self._bounds([pair for each in pieces for pair in each]))
        return [sum(next(found) for _ in each) for each in pieces]

    def _bounds(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        args = self.arguments
        options = {
            "mc_num": args.mc_num,
            "cfg_scale": args.cfg,
            "batch_size": args.batch_size,
            "seed": args.seed,
        }
        return (
            [estimate.mean for estimate in log_likelihoods(self.lm, pairs, **options)]
            if pairs
            else []
        )

    def _greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        """Whether standard decoding, a token a pass, gives exactly the continuation."""
        rows = []
        for index, (given, wanted) in enumerate(pairs):
            block = None if self.lm.geometry.causal_block else len(wanted)
            config = GenerationConfig(
                decoder="fixed",
                gen_length=len(wanted),
                block_length=block,
                cache="none",
                early_stop=False,
            )
            rows.append(
                new_request(
                    index, given, config, self.lm.vocab, self.lm.max_length, self.lm.geometry
                )
            )
        done = self.lm.collect(rows)
        return [
            [each.trace.written.get(len(given) + i) for i in range(len(wanted))] == wanted
            for each, (given, wanted) in zip(done, pairs)
        ]

    def _start(self) -> list[int]:
        """What stands before a text that nothing precedes: the start token, of tokenizers without
        one the end token.
        """
        backend = self.lm.tokenizer.backend
        text = (
            backend.bos_token
            or backend.eos_token
            or self.lm.tokenizer.token_text(self.lm.tokenizer.stop_ids[0])
        )
        return self.lm.tokenizer.encode(str(text))

    def _context(self, text: str) -> str:
        """A context for `_read`: what a template has rendered as it is, else a document's text."""
        return text if self._templated else self._document(text)

    def _document(self, text: str) -> str:
        """A document's text for `_read`, in which names of special tokens are plain text."""
        return text if self.arguments.parse_special else self.lm.tokenizer.mark(text)

    def _read(self, text: str) -> list[int]:
        return self.lm.tokenizer.encode_marked(text)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, split where their joint encoding splits; white space between them belongs to
        the continuation.
        """
        encode, context, continuation = (
            self._read,
            self._context(context),
            self._document(continuation),
        )
        bare = context.rstrip()
        given = encode(bare) or self._start()
        whole = (
            encode(bare + context[len(bare) :] + continuation)
            if bare
            else given + encode(context + continuation)
        )
        wanted = (
            whole[len(given) :]
            if whole[: len(given)] == given
            else encode(context[len(bare) :] + continuation)
        )
        return self._cut(given, wanted or encode(continuation))

    def _cut(self, given: list[int], wanted: list[int]) -> tuple[list[int], list[int]]:
        """The end of the context, where both together are longer than the model's."""
        room = self.lm.max_length - len(wanted)
        if room < 1:
            raise OptionError(
                "a continuation longer than the model's context",
                given=len(wanted),
                allowed=self.lm.max_length - 1,
                hint="Shorten it.",
            )
        return given[-room:], wanted

    def _pieces(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        start, ids = self._start(), self._read(self._document(text))
        width = self.lm.max_length - len(start)
        yield from ((start, ids[at : at + width]) for at in range(0, len(ids), width))


if __name__ == "__main__":
    sys.exit(cli_evaluate())
