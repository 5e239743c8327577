"""A checkpoint ready to use: model and tokenizer together, text in, text out.

lm = load("pocket")
print(lm.generate("What is the capital of Peru and the language of Japan?").text)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from creditdecoding.checkpoint import read_optional, resolve_checkpoint, shards
from creditdecoding.config import EngineConfig, GenerationConfig, ModelConfig
from creditdecoding.decoders import resolve, settings
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import (
    Request,
    SpecialTokens,
    new_infill_request,
    new_request,
    sample_seed,
)
from creditdecoding.decoding.streaming import IncrementalDetokenizer, truncate_at_stop
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import build_on_meta, load_model, memory, read_config, resolve_device
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.models.weights import DTYPES, Progress, check_weights, read_headers
from creditdecoding.options import from_mapping
from creditdecoding.text.prompts import (
    Message,
    Prompt,
    parse_prompt,
    parse_prompts,
    require_valid_unicode,
)
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from creditdecoding.trace import Event, Trace
from creditdecoding.trace_svg import html_card, shorten

INFILL_MASK = "[MASK]"


@dataclass(frozen=True, repr=False)
class Completion:
    """An answer: its text, why it ended ("stop" or "length"), and the trace that holds every count."""

    text: str
    finish_reason: str
    trace: Trace

    @property
    def nfe(self) -> int:
        """Forward passes it took."""
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
        self.model, self.tokenizer, self.max_length, self.max_turns = (
            model,
            tokenizer,
            max_length,
            max_turns,
        )
        self.device, self.batch_size, self.parse_special = device, batch_size, parse_special
        self.geometry: ModelGeometry = getattr(model, "geometry", ModelGeometry())
        self.defaults: dict[
            str, Any
        ] = {}  # options of requests where these say nothing: of the checkpoint, or of an operator
        self.vocab = SpecialTokens(
            tokenizer.mask_id,
            tokenizer.stop_ids,
            tokenizer.size,
            tokenizer.decode,
            tokenizer.control_ids,
        )

    def encode(self, prompt: Prompt, raw: bool = False) -> list[int]:
        """Ids of a prompt: through the chat template, or as plain text if `raw`. Raises
        `OptionError` if it is empty.

        Names of special tokens in it are plain text too, unless the model was loaded with
        `parse_special`.
        """
        prompt = parse_prompt(prompt)
        text = (
            prompt if isinstance(prompt, str) else "".join(message["content"] for message in prompt)
        )
        if not require_valid_unicode(text).strip():
            raise OptionError("the prompt is empty", hint="Give some text.")
        if raw:
            if not isinstance(prompt, str):
                raise OptionError(
                    "a raw prompt must be text",
                    given=type(prompt).__name__,
                    hint="Give a string, or leave raw off.",
                )
            return self.encode_text(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.tokenizer.encode_chat(messages, self.parse_special)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text that somebody typed, without a template; names of special tokens as in
        `encode`.
        """
        return (
            self.tokenizer.encode(text) if self.parse_special else self.tokenizer.encode_plain(text)
        )

    def recent_turns(self, history: Sequence[Message]) -> list[Message]:
        """The last turns of a conversation that the checkpoint was trained to take into account."""
        return (
            list(history)
            if self.max_turns is None
            else list(history[max(0, len(history) - 2 * (self.max_turns - 1)) :])
        )

    def new_requests(
        self,
        prompts: Sequence[Prompt],
        config: GenerationConfig,
        raw: bool = False,
        seed_indices: Sequence[int] | None = None,
    ) -> list[Request]:
        """One row a prompt, ready for `generate.run`.

        Each row has a seed of its own (`sample_seed`), by its place among the prompts, or by
        `numbers`, one a prompt, where the prompts are a part of something larger.
        """
        seed_indices = range(len(prompts)) if seed_indices is None else seed_indices
        return [
            self.new_request(
                self.encode(prompt, raw),
                dataclasses.replace(config, seed=sample_seed(config.seed, number)),
                i,
            )
            for i, (prompt, number) in enumerate(zip(prompts, seed_indices, strict=True))
        ]

    def new_request(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        index: int = 0,
        begun: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> Request:
        """A row that continues the ids of a prompt, and of an answer that is `begun`, up to the ids
        of a `suffix`.

        Raises `OptionError` if it does not fit, or has a mask.
        """
        if self.vocab.mask_id in ids:
            hint = "Take it out; gaps inside a text are filled by LM.infill."
            raise OptionError(
                "the mask token is in the prompt", given=self.vocab.mask_id, hint=hint
            )
        return new_request(
            index, ids, config, self.vocab, self.max_length, self.geometry, begun, suffix
        )

    def new_infill_request(self, text: str, config: GenerationConfig) -> Request:
        """A row for a text in which `[MASK]` marks each missing token.

        A blank before `[MASK]` belongs to the gap: in most vocabularies it is the first character
        of the token to find.
        The tokenizer's own mask token marks one too in a model loaded with `parse_special`.
        """
        first, *others = text.replace(f" {INFILL_MASK}", INFILL_MASK).split(INFILL_MASK)
        ids = self.encode_text(first)
        for part in others:
            ids += [self.tokenizer.mask_id, *self.encode_text(part)]
        return new_infill_request(0, ids, config, self.vocab, self.max_length, self.geometry)

    def events(self, rows: Sequence[Request]) -> Iterator[Event]:
        """Decode rows; the trace events as they happen."""
        return denoise(self.model, rows, self.vocab, self.device, self.batch_size)

    def collect(
        self, rows: Sequence[Request], on_event: Callable[[Event], None] | None = None
    ) -> list[Completion]:
        """Decode rows to the end, showing each event to `on_event`; completions in the order of
        `rows`.
        """
        traces = {row.index: self.new_trace(row) for row in rows}
        for event in self.events(rows):
            traces[event.row].add(event)
            if on_event is not None:
                on_event(event)
        return [self.completion(row, traces[row.index]) for row in rows]

    def new_trace(self, row: Request) -> Trace:
        """An empty trace for a row, its settings filled in."""
        config = {
            f.name: getattr(row.config, f.name)
            for f in dataclasses.fields(row.config)
            if f.name not in ("decoder", "stop")
        }
        begun = row.answer_prefix
        more = {"begun": begun} if begun else {}
        known = {"decoder": settings(row.decoder), **config, "stop": list(row.config.stop), **more}
        return Trace(tuple(row.canvas[: row.answer_start].tolist()), settings=known)

    def completion(self, row: Request, trace: Trace) -> Completion:
        """Text of a finished trace, cut before the first stop string."""
        assert trace.finish is not None
        return Completion(self.text(trace.tokens, row.config), trace.finish.reason, trace)

    def text(self, ids: Sequence[int], config: GenerationConfig) -> str:
        """Text of an answer's ids, cut before the first stop string."""
        return truncate_at_stop(self.tokenizer.decode(ids), config.stop)

    @overload
    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        **options: Any,
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Sequence[Message],
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
        """Answer one prompt, or many in one batch; `options` are fields of `GenerationConfig`.
        Raises `CreditError`s.

        A text and a list of {"role", "content"} messages are one prompt each; a list of texts or of
        conversations is many.
        """
        config = _config(config, options)
        given, single = parse_prompts(prompt)
        found = self.collect(self.new_requests(given, config, raw))
        return found[0] if single else found

    def infill(
        self, text: str, config: GenerationConfig | None = None, **options: Any
    ) -> Completion:
        """Fill every `[MASK]` of `text`, one token each; the rest of the text stays as it is."""
        return self.collect([self.new_infill_request(text, _config(config, options))])[0]

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        raw: bool = False,
        **options: Any,
    ) -> Iterator[str]:
        """Answer one prompt; pieces of text as soon as no later step can change them."""
        row = self.new_requests([prompt], _config(config, options), raw)[0]
        reading = IncrementalDetokenizer(row, self.vocab)
        yield from filter(None, map(reading.add, self.events([row])))


def _config(config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
    """`config` with `options` laid over it."""
    if config is None:
        return from_mapping(GenerationConfig, options)
    return from_mapping(
        GenerationConfig,
        {**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, **options},
    )


def load(
    name: str = "pocket",
    config: EngineConfig | None = None,
    on_progress: Progress | None = None,
    **options: Any,
) -> LM:
    """Load a checkpoint: a folder, a hub id, or "pocket", the embedded one; `options` are fields of
    `EngineConfig`.

    `on_progress` is called while weights are read, with the bytes read so far and the bytes there
    are.
    """
    engine = config if config is not None else from_mapping(EngineConfig, options)
    folder, architecture, tokenizer = _open(name, engine)
    model = load_model(folder, engine, on_progress)
    device = next(model.parameters()).device
    generation = read_optional(folder / "generation_config.json")
    turns = generation.get("max_turns")
    lm = LM(
        model,
        tokenizer,
        max_length=architecture.max_length,
        device=device,
        batch_size=engine.batch_size,
        max_turns=turns,
        parse_special=engine.parse_special,
    )
    lm.defaults = _defaults(generation)
    return lm


NO_DEFAULTS = ("temperature", "top_k", "top_p", "seed", "stop")
"""Never taken from a checkpoint: answers are greedy unless somebody asks."""


def _defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a generation_config.json names by our names. Raises `CheckpointError`."""
    names = {field.name for field in dataclasses.fields(GenerationConfig)} - {*NO_DEFAULTS}
    given = {name: generation[name] for name in names if generation.get(name) is not None}
    try:
        if "decoder" in given:
            given["decoder"] = resolve(given["decoder"])
        from_mapping(GenerationConfig, given)
    except OptionError as error:
        what = f"generation_config.json has an option that is not allowed ({error.what})"
        raise CheckpointError(
            what, given=error.given, allowed=error.allowed, hint="Correct the file."
        ) from error
    return given


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a checkpoint alone. Raises `CheckpointError`."""
    return _open(name, EngineConfig())[2]


def _open(name: str, engine: EngineConfig) -> tuple[Path, ModelConfig, Tokenizer]:
    """Everything of a checkpoint but its weights."""
    folder = resolve_checkpoint(name, engine.revision, engine.offline, engine.cache_dir)
    architecture, _ = read_config(folder, engine.ignore_config_keys)
    return folder, architecture, read_tokenizer(folder, architecture)


def describe(name: str, engine: EngineConfig | None = None) -> dict[str, Any]:
    """What `credit info` shows: what would be loaded and what it needs, from names and shapes
    alone. Raises `CheckpointError`.
    """
    engine = engine if engine is not None else EngineConfig()
    folder, _, tokenizer = _open(name, engine)
    model, family = build_on_meta(folder, engine.causal_block, engine.ignore_config_keys)
    architecture, files = model.config, shards(folder)
    found = read_headers(files)
    check_weights(model, found, family.RENAME)
    shown = dataclasses.asdict(architecture)
    for key in ("mask_token_id", "stop_token_ids", "causal_block", "logit_shift", "moe"):
        shown.pop(key)
    block = architecture.causal_block
    device, dtype = resolve_device(engine)
    free = memory.free_bytes(device)
    kinds = {
        "float32": (torch.float32, "none"),
        "bfloat16": (torch.bfloat16, "none"),
        "int8 and bfloat16": (torch.bfloat16, "int8"),
    }
    piece = tokenizer.token_text
    return {
        "checkpoint": str(folder),
        "parameters": architecture.num_parameters(),
        "weight files": [
            f"{path.name} ({memory.format_bytes(path.stat().st_size)})" for path in files
        ],
        "dtype of the files": sorted(
            {str(DTYPES[header.dtype]).removeprefix("torch.") for header in found.values()}
        ),
        **{
            f"memory in {kind}": memory.format_bytes(memory.weight_bytes(model, *how))
            for kind, how in kinds.items()
        },
        f"available on {device}": "unknown" if free is None else memory.format_bytes(free),
        "loads in": f"{'int8 and ' if engine.quantize == 'int8' else ''}{str(dtype).removeprefix('torch.')}",
        **shown,
        "experts": None
        if architecture.moe is None
        else {k: v for k, v in dataclasses.asdict(architecture.moe).items() if v != 0},
        "attention": "full"
        if block is None
        else f"two-way inside blocks of {block}, causal between them",
        "block length": "any" if block is None else block,
        "caches": supported_policies(model.geometry),
        "logits of position i": "at row i-1" if architecture.logit_shift else "at row i",
        "tokenizer ids": tokenizer.size,
        "mask token": f"{piece(tokenizer.mask_id)} = {tokenizer.mask_id}",
        "stop tokens": [f"{piece(i)} = {i}" for i in tokenizer.stop_ids],
        "chat template": "yes" if tokenizer.backend.chat_template else "no",
        "defaults": {
            f.name: getattr(GenerationConfig(), f.name)
            for f in dataclasses.fields(GenerationConfig)
        },
    }
