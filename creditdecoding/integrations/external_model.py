"""Networks that are not ours as `Denoiser`s, and with a tokenizer as an `LM`: a transformers model,
a fine-tune, one inside PEFT, a function.

    lm = wrap(model, tokenizer)
    print(lm.generate("The capital of Peru is", raw=True).text)

How a network is to be asked is found out by asking it: three ids, then the same with padding behind
them and with one of them
changed. So padding never leaks into a row and a causal network is never taken for a two-way one.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError, ModelError, OptionError
from creditdecoding.lm import LM
from creditdecoding.models import known_config
from creditdecoding.models.attention import block_causal_mask
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.models.transformer import Transformer
from creditdecoding.text.tokenizer import Tokenizer, from_transformers

MASK_KINDS = ("2d", "4d", "none")
_LENGTHS = ("max_position_embeddings", "max_sequence_length", "n_positions", "max_seq_len")


@dataclass(frozen=True)
class ExternalDenoiser:
    """A network from ids [rows, length] to logits [rows, length, vocab] (or an object that has them
    as `.logits`) as a `Denoiser`.

    `way`: what it is told of padding. "none" nothing, so rows of different lengths go through it
    separately; "2d" a mask
    [rows, length], 1 where there is a token; "4d" an additive one [rows, 1, length, length],
    which also makes transformers' causal
    classes two-way, or block-causal as `layout` says. `mask_name` is the mask's argument, the
    second one where empty; a network that
    `needs_mask` is given ones when alone. `fixed` goes along with every call; `keeps_some`: the
    network takes `logits_to_keep`, the columns
    that are read.
    """

    model: Callable[..., Any]
    mask_kind: str = "none"
    geometry: ModelGeometry = ModelGeometry()
    mask_name: str = "attention_mask"
    needs_mask: bool = False
    fixed_arguments: Mapping[str, Any] = field(default_factory=dict)
    takes_logits_to_keep: bool = False

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        row, column = read
        if self.geometry.logit_shift:
            column = (column - 1).clamp(min=0)
        if allowed is None or self.mask_kind != "none":
            return self._read(tokens, row, column, allowed)
        lengths = allowed[:, 0].sum(-1)
        found: Tensor | None = None
        for length in lengths.unique().tolist():
            here = lengths == length
            mine = here[row]
            logits = self._read(
                tokens[here, :length], (here.cumsum(0) - 1)[row[mine]], column[mine]
            )
            found = logits.new_empty(len(row), logits.shape[1]) if found is None else found
            found[mine] = logits
        assert found is not None
        return found

    def _read(
        self, tokens: Tensor, row: Tensor, column: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Logits at (row, column) [n]."""
        kept, place = (
            column.unique(return_inverse=True) if self.takes_logits_to_keep else (None, column)
        )
        return self.logits(tokens, allowed, kept)[row, place]

    @torch.inference_mode()
    def logits(
        self, tokens: Tensor, allowed: Tensor | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """Logits of every position, or with `keeps_some` of the columns `kept`; `allowed` [rows, 1,
        length].

        Raises `ModelError` for another shape.
        """
        arguments, options = [tokens], dict(self.fixed_arguments)
        if self.mask_kind != "none" or self.needs_mask:
            mask = self._mask(tokens, allowed)
            if self.mask_name:
                options[self.mask_name] = mask
            else:
                arguments.append(mask)
        if kept is not None:
            options["logits_to_keep"] = kept
        with eval_mode(self.model):
            found = self.model(*arguments, **options)
        logits = getattr(found, "logits", found[0] if isinstance(found, tuple) and found else found)
        wanted = (len(tokens), tokens.shape[1] if kept is None else len(kept))
        if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != wanted:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            told = f"({wanted[0]}, {wanted[1]}, vocab)"
            hint = "Check the model; of transformers' classes take one with a language-model head."
            raise ModelError(
                "the model returned logits of the wrong shape", given=shape, allowed=told, hint=hint
            )
        return logits

    def _mask(self, tokens: Tensor, allowed: Tensor | None) -> Tensor:
        seen = (
            torch.ones(len(tokens), 1, tokens.shape[1], dtype=torch.bool, device=tokens.device)
            if allowed is None
            else allowed
        )
        if self.mask_kind != "4d":
            return seen[:, 0].long()
        if self.geometry.causal_block is not None:
            at = torch.arange(tokens.shape[1], device=tokens.device)
            seen = seen & block_causal_mask(at, at, self.geometry.causal_block)
        dtype = _parameter(self.model).dtype
        square = seen.expand(-1, tokens.shape[1], -1)[:, None]
        return torch.zeros(square.shape, dtype=dtype, device=tokens.device).masked_fill(
            ~square, torch.finfo(dtype).min
        )


def _parameter(model: Any) -> Tensor:
    """A weight of a module, to see where it is and in what type; of anything else a float on the
    CPU.
    """
    weights = (
        (w for w in model.parameters() if w.is_floating_point())
        if isinstance(model, torch.nn.Module)
        else iter(())
    )
    return next(weights, torch.zeros(()))


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """The body runs without dropout, whatever mode the modules are in."""
    busy = (
        [m for m in model.modules() if m.training]
        if isinstance(model, torch.nn.Module) and model.training
        else []
    )
    for module in busy:
        module.training = False
    try:
        yield
    finally:
        for module in busy:
            module.training = True


def find_denoiser(
    model: Any,
    mask_id: int,
    *,
    mask_kind: str = "auto",
    logit_shift: bool = False,
    causal_block: int | None = None,
    device: torch.device | None = None,
) -> tuple[ExternalDenoiser, int]:
    """A network as a `Denoiser`, and how many ids its logits have; asked in the first of `WAYS`
    that is right, or in the one given.

    Raises `ModelError` for logits of the wrong shape or that are not numbers, `OptionError` where
    the network cannot be used.
    """
    if mask_kind not in ("auto", *MASK_KINDS):
        raise OptionError(
            "mask_kind is out of range",
            given=mask_kind,
            allowed=", ".join(("auto", *MASK_KINDS)),
            hint="Leave mask_kind out.",
        )
    if not callable(model):
        raise OptionError(
            "not a model",
            given=type(model).__name__,
            allowed="a callable from ids to logits",
            hint="See docs/your-model.md.",
        )
    mask, others = _arguments(model)
    usable = [
        w
        for w in MASK_KINDS
        if mask_kind in ("auto", w)
        and (w == "4d" or causal_block is None)
        and (w == "none" or mask is not None)
    ]
    place, reasons = device or _parameter(model).device, []
    for each, some in itertools.product(
        usable, (True, False) if others.get("takes_logits_to_keep") else (False,)
    ):
        found = ExternalDenoiser(
            model,
            each,
            ModelGeometry(causal_block, logit_shift),
            **{**(mask or {}), **others, "takes_logits_to_keep": some},
        )
        reason, size = probe(found, mask_id, place)
        if not reason:
            return found, size
        reasons.append(f"{each}: {reason}")
    told = "; ".join(dict.fromkeys(reasons)) or "it takes no attention_mask"
    raise OptionError(
        f"this network cannot denoise ({told})",
        given=type(model).__name__,
        allowed="a callable from ids (and mask) to logits in which every position sees every other",
        hint="See docs/your-model.md.",
    )


def _arguments(model: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """How a network's signature wants its mask, None where it takes none, and what else to say;
    both as fields of `Foreign`.
    """
    try:
        known = inspect.signature(
            model.forward if isinstance(model, torch.nn.Module) else model
        ).parameters
    except (TypeError, ValueError):  # a builtin
        return None, {}
    others = {
        "fixed_arguments": {"use_cache": False} if "use_cache" in known else {},
        "takes_logits_to_keep": "logits_to_keep" in known,
    }
    plain = [p for p in known.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = known.get(
        "attention_mask", next((p for p in known.values() if p.kind is p.VAR_KEYWORD), None)
    )
    if named is not None:
        return {
            "mask_name": "attention_mask",
            "needs_mask": named.name == "attention_mask" and named.default is named.empty,
        }, others
    second = plain[1] if len(plain) > 1 else None
    if second is None or (second.default is not second.empty and "mask" not in second.name):
        return None, others
    return {"mask_name": "", "needs_mask": second.default is second.empty}, others


def probe(net: ExternalDenoiser, mask_id: int, device: torch.device) -> tuple[str, int]:
    """What is wrong with asking a network in this way, empty where it is right, and the width of
    its logits.

    Raises `ModelError` for a wrong shape and for logits that are not numbers.
    """
    try:
        size = net.logits(torch.zeros(1, 1, dtype=torch.long, device=device)).shape[2]
        if not 0 <= mask_id < size:
            raise OptionError(
                "the mask id is outside the vocabulary",
                given=mask_id,
                allowed=f"below {size}",
                hint="Give the right mask id.",
            )
        ids = [i for i in (size // 2, size // 3, size // 4, 0, 1) if i != mask_id][:3]
        ids = (ids * 3)[:3]
        rows = [ids, [*ids[:2], mask_id], [mask_id, *ids[1:]]]
        plain, later, earlier = (
            net.logits(torch.tensor([row], device=device))[0].float() for row in rows
        )
        both = torch.tensor([[*ids, mask_id, mask_id], [*ids, *ids[:2]]], device=device)
        seen = torch.tensor([[[1, 1, 1, 0, 0]], [[1] * 5]], device=device).bool()
        read = (torch.zeros(3, dtype=torch.long, device=device), torch.arange(3, device=device))
        padded = replace(net, geometry=replace(net.geometry, logit_shift=False))(
            both, read, seen
        ).float()
    except (ModelError, OptionError):
        raise
    except (
        Exception
    ) as error:  # whatever a network raises when it is asked in a way it does not know
        return f"{type(error).__name__}, {next(iter(str(error).splitlines()), '')}", 0
    if not bool(torch.isfinite(plain.logsumexp(-1)).all()):
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint="Check the weights.",
        )
    scale = float((plain - plain.mean(-1, keepdim=True)).abs().nan_to_num(posinf=0.0).amax())
    rough = _parameter(net.model).dtype in (torch.bfloat16, torch.float16)
    if float((padded - plain).abs().nan_to_num().amax()) > (0.05 if rough else 1e-4) * scale:
        return "padding changes what a row gets", size
    reaches = [
        float((changed[at] - plain[at]).abs().nan_to_num().amax()) > 1e-6 * scale
        for changed, at in ((later, 0), (earlier, 2))
    ]
    causal = reaches == [False, True] and net.geometry.causal_block is None
    return ("it is causal" if causal else ""), size


def wrap(
    model: Any,
    tokenizer: Any,
    *,
    mask_token_id: int | None = None,
    stop_token_ids: Sequence[int] | None = None,
    logit_shift: bool | None = None,
    causal_block: int | None = None,
    mask_kind: str = "auto",
    max_length: int | None = None,
    batch_size: int = 16,
    device: str | torch.device | None = None,
) -> LM:
    """An `LM` over a network of your own: ids [rows, length], and if it likes an attention mask, to
    logits [rows, length, vocab].

    `tokenizer` is a transformers tokenizer, one of ours, or None where ids are enough (the `LM`
    then has rows and events, no text). What
    is not given is read from the model's config and the tokenizer. `logit_shift`: logits of
    position i lie at i-1 (Dream);
    `causal_block`: attention is two-way inside blocks of this length and causal between them;
    `attention`: see `Foreign.way`.
    `device`: where a function wants its ids; a module says it itself. Raises `OptionError` and
    `ModelError`.
    """
    config = getattr(model, "config", None)
    known = model.config if isinstance(model, Transformer) else known_config(_mapping(config))
    mask_id = _first(mask_token_id, known, config)
    words = _words(tokenizer, mask_id, stop_token_ids, config, known)
    if mask_token_id is not None and mask_token_id != words.mask_id:
        hint = "Leave mask_token_id out, or give the tokenizer that belongs to it."
        raise OptionError(
            "mask_token_id is not the tokenizer's",
            given=mask_token_id,
            allowed=words.mask_id,
            hint=hint,
        )
    place = _parameter(model).device if device is None else torch.device(device)
    longest = max_length or _longest(model, config, known, words.backend)
    if isinstance(model, Transformer):
        _hold_to(model.config, words.mask_id, logit_shift, causal_block, mask_kind)
        words = _sized(words, model.config.embedding_rows, stop_token_ids)
        return LM(model, words, max_length=longest, device=place, batch_size=batch_size)
    shift = logit_shift if logit_shift is not None else known is not None and known.logit_shift
    block = causal_block if causal_block is not None or known is None else known.causal_block
    net, size = find_denoiser(
        model,
        words.mask_id,
        mask_kind=mask_kind,
        logit_shift=shift,
        causal_block=block,
        device=place,
    )
    words = _sized(words, size, stop_token_ids)
    return LM(net, words, max_length=longest, device=place, batch_size=batch_size)


def _mapping(config: Any) -> Mapping[str, Any]:
    found = config.to_dict() if callable(getattr(config, "to_dict", None)) else {}
    return found if isinstance(found, Mapping) else {}


def _first(given: int | None, known: ModelConfig | None, config: Any) -> int | None:
    """The mask id: given, the family's, the config's."""
    family = None if known is None else known.mask_token_id
    return next(
        (i for i in (given, family, getattr(config, "mask_token_id", None)) if i is not None), None
    )


def _hold_to(
    config: ModelConfig,
    mask_id: int,
    logit_shift: bool | None,
    causal_block: int | None,
    mask_kind: str,
) -> None:
    """Raises `OptionError` for what contradicts the config of a network of ours, which knows these
    things itself.
    """
    if mask_kind != "auto":
        raise OptionError(
            "mask_kind is not chosen for a network of ours",
            given=mask_kind,
            allowed="auto",
            hint="Leave mask_kind out.",
        )
    given = {"logit_shift": logit_shift, "causal_block": causal_block}
    if config.mask_token_id is not None:
        given["mask_token_id"] = mask_id
    for name, value in given.items():
        own = getattr(config, name)
        if value is not None and value != own:
            raise OptionError(
                f"{name} is not this model's", given=value, allowed=own, hint=f"Leave {name} out."
            )


def _sized(words: Tokenizer, size: int, stops: Sequence[int] | None) -> Tokenizer:
    """The words beside logits of `size` ids: without a tokenizer all of them; ends outside, as a
    config's default may be, are left out.
    """
    words = replace(words, size=words.size or size)
    if words.size > size:
        raise OptionError(
            "the tokenizer has more ids than the model's logits",
            given=words.size,
            allowed=f"at most {size}",
            hint="Check the two.",
        )
    if not 0 <= words.mask_id < words.size:
        raise OptionError(
            "the mask id is outside the vocabulary",
            given=words.mask_id,
            allowed=f"below {words.size}",
            hint="Give the right mask id.",
        )
    if stops is not None and not all(0 <= i < size for i in stops):
        raise OptionError(
            "stop_token_ids outside the vocabulary",
            given=tuple(stops),
            allowed=f"below {size}",
            hint="Correct them.",
        )
    return replace(words, stop_ids=tuple(i for i in words.stop_ids if i < size))


def _words(
    backend: Any,
    mask_id: int | None,
    stops: Sequence[int] | None,
    config: Any,
    known: ModelConfig | None,
) -> Tokenizer:
    """A tokenizer with the ids that decoding needs; of None the size is to be seen from the logits."""
    if isinstance(backend, Tokenizer):
        return backend if stops is None else replace(backend, stop_ids=tuple(sorted(stops)))
    own = getattr(config, "eos_token_id", None)
    ends = (
        known.stop_token_ids
        if known is not None
        else ()
        if own is None
        else (own,)
        if isinstance(own, int)
        else tuple(own)
    )
    if backend is None:
        if mask_id is None:
            raise OptionError(
                "this model does not say what its mask is", hint="Give mask_token_id."
            )
        return Tokenizer(None, mask_id, tuple(sorted(ends if stops is None else stops)), 0)
    if not all(
        callable(getattr(backend, name, None))
        for name in ("encode", "decode", "get_vocab", "get_added_vocab")
    ):
        raise OptionError(
            "not a tokenizer",
            given=type(backend).__name__,
            allowed="a transformers tokenizer",
            hint="See docs/your-model.md.",
        )
    try:
        found = from_transformers(backend, mask_id, ends)
    except CheckpointError as error:
        raise OptionError(
            error.what,
            given=error.given,
            allowed=error.allowed,
            hint="Give mask_token_id, an id that the tokenizer has.",
        ) from error
    return found if stops is None else replace(found, stop_ids=tuple(sorted(stops)))


def _longest(model: Any, config: Any, known: ModelConfig | None, backend: Any) -> int:
    """Positions the model has, as its config, its tokenizer or its table of positions says; without
    any there is no limit.
    """
    told: list[Any] = (
        [known.max_length]
        if known is not None
        else [getattr(config, name, None) for name in _LENGTHS]
    )
    told.append(getattr(backend, "model_max_length", None))
    for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        if (
            name.endswith("position_embeddings")
            and isinstance(module, torch.nn.Embedding)
            and module.padding_idx is not None
        ):
            told.append(
                module.num_embeddings - module.padding_idx - 1
            )  # RoBERTa counts from behind its padding id
    return min([n for n in told if isinstance(n, int) and n > 0] + [sys.maxsize])
