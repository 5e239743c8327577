"""A model and its tokenizer together: text in, text out.

lm = load("pocket")
print(lm.generate("What is the capital of Peru and the language of Japan?").text)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, overload

import torch

from creditdecoding import decoders
from creditdecoding.checkpoint import (
    CheckpointParts,
    find_parts,
    read_optional,
    resolve_checkpoint,
)
from creditdecoding.config import EngineConfig, GenerationConfig, ModelConfig
from creditdecoding.constraints.constraint import Constraint, ConstraintCompiler
from creditdecoding.decoding.constrained import constrained
from creditdecoding.decoding.defaults import checkpoint_defaults, max_turns
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.prefix_cache import PrefixCache
from creditdecoding.decoding.request import (
    Request,
    SpecialTokens,
    new_infill_request,
    new_request,
    sample_seed,
)
from creditdecoding.decoding.streaming import IncrementalDetokenizer, truncate_at_stop
from creditdecoding.errors import OptionError
from creditdecoding.models import (
    load_model,
    read_config,
)
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.models.weights import Progress
from creditdecoding.options import StrPath, from_mapping
from creditdecoding.text.gaps import INFILL_MASK, Gap, split_gaps
from creditdecoding.text.prompts import (
    Message,
    Prompt,
    parse_prompt,
    parse_prompts,
    require_valid_unicode,
)
from creditdecoding.text.token_bytes import token_bytes
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from creditdecoding.trace import Event, Trace
from creditdecoding.trace_svg import html_card, shorten


@dataclass(frozen=True, repr=False)
class Completion:
    """An answer: its text, why it ended ("stop" or "length"), and its trace with every count."""

    text: str
    finish_reason: str
    trace: Trace

    @property
    def nfe(self) -> int:
        """Forward passes that the answer took."""
        return self.trace.nfe

    @property
    def tpf(self) -> float:
        """Answer tokens per forward pass."""
        return self.trace.tpf

    def __repr__(self) -> str:
        return f"<Completion {shorten(self.text, 60)!r}: {self.trace.summary}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_card(self.trace.summary, self.trace.svg(), self.text)

    def to_json(self) -> dict[str, Any]:
        """What `credit generate --json` prints."""
        return {
            "text": self.text,
            "nfe": self.nfe,
            "tokens": self.trace.token_count,
            "tpf": round(self.tpf, 3),
            "seconds": round(self.trace.seconds, 4),
            "finish_reason": self.finish_reason,
            "decoder": self.trace.settings["decoder"],
            "generation": {k: v for k, v in self.trace.settings.items() if k != "decoder"},
        }


class LM:
    """A diffusion language model: any `Denoiser` with its tokenizer. `load` makes one from a
    checkpoint.
    """

    def __init__(
        self,
        model: Denoiser,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        device: torch.device,
        batch_size: int = 16,
        max_turns: int | None = None,
        parse_special: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.device = device
        self.batch_size = batch_size
        self.max_turns = max_turns
        self.parse_special = parse_special
        self.geometry: ModelGeometry = getattr(model, "geometry", ModelGeometry())
        self.defaults: dict[str, Any] = {}  # of requests, from the checkpoint or an operator
        self.base: str | None = None  # the folder of the base, if the checkpoint is an adapter
        self.max_positions: int | None = None  # of a pass; None: one pass for all of a batch
        self.prefixes: PrefixCache | None = None  # what prompts may begin with; set by `chat`
        self.vocab = SpecialTokens(
            tokenizer.mask_id,
            tokenizer.stop_ids,
            tokenizer.size,
            tokenizer.decode,
            tokenizer.control_ids,
        )
        self.constraints = ConstraintCompiler(
            lambda: token_bytes(tokenizer), self.encode_text, tokenizer.decode, tokenizer.stop_ids
        )

    def encode(self, prompt: Prompt, raw: bool = False) -> list[int]:
        """Ids of a prompt, in the chat template, or as plain text if `raw`.

        Names of special tokens in it are plain text, unless the model was loaded with
        `parse_special`. Raises `OptionError` if the prompt is empty.
        """
        prompt = parse_prompt(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = "".join(message["content"] for message in messages)
        if not require_valid_unicode(text).strip():
            raise OptionError("the prompt is empty", hint="Give some text.")
        if not raw:
            return self.tokenizer.encode_chat(messages, self.parse_special)
        if not isinstance(prompt, str):
            raise OptionError(
                "a raw prompt must be text",
                given=type(prompt).__name__,
                hint="Give a string, or leave raw off.",
            )
        return self.encode_text(prompt)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text that a user typed, without a template. Names of special tokens are read as
        in `encode`.
        """
        encode = self.tokenizer.encode if self.parse_special else self.tokenizer.encode_plain
        return encode(text)

    def recent_turns(self, history: Sequence[Message]) -> list[Message]:
        """The last messages of a conversation, as many as the checkpoint was trained on."""
        if self.max_turns is None:
            return list(history)
        return list(history[max(0, len(history) - 2 * (self.max_turns - 1)) :])

    def new_requests(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        raw: bool = False,
        seed_indices: Sequence[int] | None = None,
        constraint: Constraint | None = None,
    ) -> list[Request]:
        """A request for each prompt.

        Request i draws with `sample_seed(config.seed, i)`, or with its number in `seed_indices`
        where the prompts are part of a larger set.
        """
        if seed_indices is None:
            seed_indices = range(len(prompts))
        requests = []
        for i, (prompt, number) in enumerate(zip(prompts, seed_indices, strict=True)):
            seed = sample_seed(config.seed, number)
            own_config = config if seed == config.seed else replace(config, seed=seed)
            ids = self.encode(prompt, raw)
            requests.append(self.new_request(ids, own_config, i, constraint=constraint))
        return requests

    def new_request(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        index: int = 0,
        begun: Sequence[int] = (),
        suffix: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> Request:
        """A request that continues the ids of a prompt.

        `begun` are ids of the answer that are given, `suffix` ids after the answer. With a
        `constraint` the answer satisfies it, in no more positions than its longest text needs.
        Raises `OptionError` if it does not fit, or has a mask or an unknown id.
        """
        self.check_prompt_ids(ids)
        rest = (self.vocab, self.max_length, self.geometry, begun, suffix)
        if constraint is None:
            return new_request(index, ids, config, *rest)
        may_end = not suffix and not config.logits_eos_inf
        automaton = self.constraints.compile(constraint, may_end)
        if may_end and automaton.longest is not None:
            config = replace(config, gen_length=min(config.gen_length, automaton.longest + 1))
        return constrained(new_request(index, ids, config, *rest), automaton)

    def check_prompt_ids(self, ids: Sequence[int]) -> None:
        """Raise `OptionError` for the mask and for ids outside the vocabulary."""
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab.size:
            raise OptionError(
                "ids outside the vocabulary",
                given=(min(ids), max(ids)),
                allowed=f"below {self.vocab.size}",
                hint="Check them.",
            )
        if self.vocab.mask_id in ids:
            raise OptionError(
                "the mask token is in the prompt",
                given=self.vocab.mask_id,
                hint="Take it out. To fill gaps inside a text use infill (suffix over HTTP).",
            )

    def new_infill_request(self, text: str, config: GenerationConfig) -> Request:
        """A request for a text in which `[MASK]` marks a missing token, and `[MASK*n]` n of them.

        The tokenizer's own mask token marks a gap too if the model was loaded with `parse_special`.
        Raises `OptionError` for malformed gaps and for a text that does not fit.
        """
        if not isinstance(text, str):
            hint = "Give one string with [MASK] in it."
            raise OptionError("a text with gaps must be text", given=type(text).__name__, hint=hint)
        if self.parse_special:
            text = text.replace(self.tokenizer.token_text(self.tokenizer.mask_id), INFILL_MASK)
        ids: list[int] = []
        for piece in split_gaps(text, self.max_length):
            if isinstance(piece, Gap):
                ids += [self.tokenizer.mask_id] * piece.length
            else:
                ids += self.encode_text(piece)
        return new_infill_request(0, ids, config, self.vocab, self.max_length, self.geometry)

    def events(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Decode requests; the trace events as they happen."""
        limits = (self.batch_size, self.max_positions, self.prefixes)
        return denoise(self.model, requests, self.vocab, self.device, *limits)

    def collect(
        self, requests: Sequence[Request], on_event: Callable[[Event], None] | None = None
    ) -> list[Completion]:
        """Decode requests to the end; completions in their order. `on_event` gets each event."""
        traces = {request.index: self.new_trace(request) for request in requests}
        for event in self.events(requests):
            traces[event.row].add(event)
            if on_event is not None:
                on_event(event)
        return [self.completion(request, traces[request.index]) for request in requests]

    def new_trace(self, request: Request) -> Trace:
        """An empty trace for a request, its settings filled in."""
        config = request.config
        settings = {
            "decoder": decoders.settings(request.decoder),
            **option_values(config, leave_out=("decoder", "stop")),
            "stop": list(config.stop),
        }
        if request.answer_prefix:
            settings["begun"] = request.answer_prefix
        prompt = request.canvas[: request.answer_start].tolist()
        return Trace(tuple(prompt), settings=settings, tokenizer=self.tokenizer)

    def completion(self, request: Request, trace: Trace) -> Completion:
        """The answer of a finished trace, cut before the first stop string."""
        assert trace.finish is not None
        return Completion(self.text(trace.tokens, request.config), trace.finish.reason, trace)

    def text(self, ids: Sequence[int], config: GenerationConfig) -> str:
        """Text of an answer's ids, cut before the first stop string."""
        return truncate_at_stop(self.tokenizer.decode(ids), config.stop)

    @overload
    def generate(
        self,
        prompt: str | Sequence[Message],
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        **options: Any,
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        **options: Any,
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: str | Sequence[Message] | Sequence[Prompt],
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        **options: Any,
    ) -> Completion | list[Completion]:
        """Answer one prompt, or several in one batch; `options` are fields of `GenerationConfig`,
        and `constraint`, which the answers satisfy (docs/guide/structured-answers.md).

        A text or a list of {"role", "content"} messages is one prompt; a list of texts or of
        conversations is several. Raises `CreditError`s.
        """
        prompts, single = parse_prompts(prompt)
        constraint = options.pop("constraint", None)
        config = self._config(config, options)
        requests = self.new_requests(prompts, config, raw, constraint=constraint)
        completions = self.collect(requests)
        return completions[0] if single else completions

    def infill(
        self, text: str, config: GenerationConfig | None = None, **options: Any
    ) -> Completion:
        """Fill every `[MASK]` of `text` with a token and every `[MASK*n]` with n; the rest of the
        text stays as it is.
        """
        return self.collect([self.new_infill_request(text, self._config(config, options))])[0]

    def score_choices(
        self,
        text: str,
        choices: Sequence[str | Sequence[int]],
        top_logprobs: int = 0,
        **options: Any,
    ) -> Any:
        """The log-probabilities of texts, or of lists of ids, at the gaps of `text`, from one pass.

        A single `[MASK]` is as long as each choice; otherwise choices fill all gaps in order.
        `options` are fields of `GenerationConfig` (`cfg_scale`). Returns a list of `ChoiceScore`.
        """
        module = import_module("creditdecoding.choice_scores")  # it stands above this one
        config = self._config(None, options)
        return module.score_choices(self, text, choices, config, top_logprobs)

    def search(
        self,
        prompt: str | Sequence[Message] | Sequence[Prompt],
        *,
        verifier: StrPath | None = None,
        delimiter: str = ".",
        raw: bool = False,
        **options: Any,
    ) -> Any:
        """Search for an answer step by step: `lm.search("...", verifier="pocket", n=4)`.

        `options` are fields of `SearchConfig` and `GenerationConfig`, the temperature 1 by default.
        Returns a `SearchAnswer`, or a list for several prompts. Raises `CreditError`s.
        """
        module = import_module("creditdecoding.pav.search.answer")  # it stands above this one
        return module.search_prompts(self, prompt, verifier, delimiter, raw, options)

    def __repr__(self) -> str:
        model = type(self.model).__name__
        return f"<LM {model}, {self.max_length} positions, {self.vocab.size} ids, {self.device}>"

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        on_event: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Answer one prompt; pieces of text as soon as they are final.

        `on_event` gets every trace event.
        """
        request = self.new_requests([prompt], self._config(config, options), raw)[0]
        detokenizer = IncrementalDetokenizer(request, self.vocab)
        for event in self.events([request]):
            if on_event is not None:
                on_event(event)
            if text := detokenizer.add(event):
                yield text

    def _config(self, config: Any, options: Mapping[str, Any]) -> GenerationConfig:
        """The config, or without one the checkpoint's, changed by `options`."""
        base = self.defaults if config is None else option_values(config)
        return from_mapping(GenerationConfig, {**base, **options})


def option_values(config: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a config."""
    names = [field.name for field in dataclasses.fields(config)]
    return {name: getattr(config, name) for name in names if name not in leave_out}


def load(
    name: StrPath = "pocket",
    config: EngineConfig | None = None,
    on_progress: Progress | None = None,
    **options: Any,
) -> LM:
    """Load a checkpoint: a folder, a hub id, or "pocket", the embedded one.

    `options` are fields of `EngineConfig`. `on_progress` is called while weights are read, with the
    bytes read so far and in all. Raises `CheckpointError` and `OptionError`.
    """
    engine = config if config is not None else from_mapping(EngineConfig, options)
    parts, architecture, tokenizer = open_checkpoint(name, engine)
    model = load_model(parts.folder, engine, on_progress)
    generation = read_optional(parts.folder_of("config.json") / "generation_config.json")
    lm = LM(
        model,
        tokenizer,
        max_length=architecture.max_length,
        device=next(model.parameters()).device,
        batch_size=engine.batch_size,
        max_turns=max_turns(generation),
        parse_special=engine.parse_special,
    )
    lm.defaults = checkpoint_defaults(generation)
    lm.base = str(parts.weights) if parts.is_adapter else None
    lm.max_positions = engine.max_num_batched_tokens
    return lm


def load_tokenizer(name: StrPath) -> Tokenizer:
    """Load only the tokenizer of a checkpoint. Raises `CheckpointError`."""
    return open_checkpoint(name, EngineConfig())[2]


def open_checkpoint(
    name: StrPath, engine: EngineConfig
) -> tuple[CheckpointParts, ModelConfig, Tokenizer]:
    """Everything of a checkpoint but its weights."""
    folder = resolve_checkpoint(name, engine.revision, engine.offline, engine.cache_dir)
    parts = find_parts(folder, engine.offline, engine.cache_dir)
    architecture, _ = read_config(parts.folder_of("config.json"), engine.ignore_config_keys)
    tokenizer_folder = parts.folder_of("tokenizer.json", "vocab.json")
    return parts, architecture, read_tokenizer(tokenizer_folder, architecture)
