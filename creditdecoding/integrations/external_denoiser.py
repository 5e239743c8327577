"""A network of another project as a `Denoiser`, and the probe that finds which mask it needs.

The network is run on three ids, on the same with padding, and with one of them changed. So padding
never leaks into a row, and a causal network is refused.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from creditdecoding.errors import ModelError, OptionError
from creditdecoding.models.attention import block_causal_mask
from creditdecoding.models.kv_cache import ModelGeometry

MASK_KINDS = ("2d", "4d", "none")


@dataclass(frozen=True)
class ExternalDenoiser:
    """A network from ids [rows, length] to logits [rows, length, vocab] (or to an object that has
    them as `.logits`) as a `Denoiser`.

    `mask_kind` is the attention mask it gets:

    - "none": no mask; rows of different lengths go through it separately.
    - "2d": [rows, length], 1 where there is a token.
    - "4d": additive, [rows, 1, length, length]. It also makes transformers' causal classes two-way,
      or block-causal as `geometry` says.

    `mask_name` is the mask's argument, the second one if empty; a network that `needs_mask` gets
    ones where there is none. `fixed_arguments` go with every call. With `takes_logits_to_keep` it
    is told which columns to compute.
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
            return self._logits_at(tokens, row, column, allowed)
        lengths = allowed[:, 0].sum(-1)
        parts = []
        order = []
        for length in lengths.unique().tolist():
            same_length = lengths == length
            index = same_length[row].nonzero()[:, 0]
            renumbered = same_length.cumsum(0) - 1
            rows = tokens[same_length, :length]
            parts.append(self._logits_at(rows, renumbered[row[index]], column[index]))
            order.append(index)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _logits_at(
        self, tokens: Tensor, row: Tensor, column: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Logits [n, vocab] at (row, column) [n]."""
        if not self.takes_logits_to_keep:
            return self.logits(tokens, allowed)[row, column]
        kept, position = column.unique(return_inverse=True)
        return self.logits(tokens, allowed, kept)[row, position]

    @torch.inference_mode()
    def logits(
        self, tokens: Tensor, allowed: Tensor | None = None, columns: Tensor | None = None
    ) -> Tensor:
        """Logits [rows, length, vocab], or with `takes_logits_to_keep` of some `columns`.

        `allowed` [rows, 1, length] is False on padding. Raises `ModelError` for another shape.
        """
        positional = [tokens]
        named = dict(self.fixed_arguments)
        if self.mask_kind != "none" or self.needs_mask:
            mask = self._mask(tokens, allowed)
            if self.mask_name:
                named[self.mask_name] = mask
            else:
                positional.append(mask)
        if columns is not None:
            named["logits_to_keep"] = columns
        with eval_mode(self.model):
            output = self.model(*positional, **named)
        if isinstance(output, tuple) and output:
            output = output[0]
        logits: Any = getattr(output, "logits", output)
        shape = (len(tokens), tokens.shape[1] if columns is None else len(columns))
        is_tensor = isinstance(logits, Tensor)
        if not is_tensor or logits.dim() != 3 or logits.shape[:2] != shape:
            raise ModelError(
                "the model returned logits of the wrong shape",
                given=tuple(logits.shape) if is_tensor else type(logits).__name__,
                allowed=f"({shape[0]}, {shape[1]}, vocab)",
                hint="Check the model; a class of transformers needs a language-model head.",
            )
        checked: Tensor = logits
        return checked

    def _mask(self, tokens: Tensor, allowed: Tensor | None) -> Tensor:
        rows, length = tokens.shape
        if allowed is None:
            allowed = torch.ones(rows, 1, length, dtype=torch.bool, device=tokens.device)
        if self.mask_kind != "4d":
            return allowed[:, 0].long()
        if self.geometry.causal_block is not None:
            position = torch.arange(length, device=tokens.device)
            allowed = allowed & block_causal_mask(position, position, self.geometry.causal_block)
        dtype = float_parameter(self.model).dtype
        square = allowed.expand(-1, length, -1)[:, None]
        additive = torch.zeros(square.shape, dtype=dtype, device=tokens.device)
        return additive.masked_fill(~square, torch.finfo(dtype).min)


def float_parameter(model: Any) -> Tensor:
    """A weight, for its device and type; of a function a float32 scalar on the CPU."""
    if isinstance(model, nn.Module):
        for weight in model.parameters():
            if weight.is_floating_point():
                return weight
    return torch.zeros(())


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """The body runs without dropout; the modules' modes are restored afterwards."""
    training = []
    if isinstance(model, nn.Module) and model.training:
        training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
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
    """A network as a `Denoiser` with the first mask kind that works, and its number of ids.

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
            hint="See docs/guide/your-model.md.",
        )
    device = device or float_parameter(model).device
    reasons = []
    for net in _candidates(model, mask_kind, ModelGeometry(causal_block, logit_shift)):
        reason, size = probe(net, mask_id, device)
        if not reason:
            return net, size
        reasons.append(f"{net.mask_kind}: {reason}")
    summary = "; ".join(dict.fromkeys(reasons)) or "it takes no attention_mask"
    raise OptionError(
        f"this network cannot denoise ({summary})",
        given=type(model).__name__,
        allowed="a callable from ids (and mask) to logits in which every position sees every other",
        hint="See docs/guide/your-model.md.",
    )


def _candidates(model: Any, mask_kind: str, geometry: ModelGeometry) -> Iterator[ExternalDenoiser]:
    """The ways to call a network that its signature allows, the preferred one first."""
    signature = _read_signature(model)
    kinds = list(MASK_KINDS) if mask_kind == "auto" else [mask_kind]
    if geometry.causal_block is not None:
        kinds = [kind for kind in kinds if kind == "4d"]
    if signature.mask is None:
        kinds = [kind for kind in kinds if kind == "none"]
    column_choices = (True, False) if signature.takes_logits_to_keep else (False,)
    for kind, takes_columns in itertools.product(kinds, column_choices):
        yield ExternalDenoiser(
            model,
            kind,
            geometry,
            fixed_arguments=signature.fixed_arguments,
            takes_logits_to_keep=takes_columns,
            **(signature.mask or {}),
        )


@dataclass(frozen=True)
class _Signature:
    """What a network's arguments say: how it takes a mask (fields of `ExternalDenoiser`, None where
    it takes none), and the rest.
    """

    mask: dict[str, Any] | None = None
    fixed_arguments: Mapping[str, Any] = field(default_factory=dict)
    takes_logits_to_keep: bool = False


def _read_signature(model: Any) -> _Signature:
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return _Signature()
    fixed = {"use_cache": False} if "use_cache" in parameters else {}
    return _Signature(_mask_argument(parameters), fixed, "logits_to_keep" in parameters)


def _mask_argument(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any] | None:
    """How the mask is passed: as attention_mask, or as the second positional argument."""
    empty = inspect.Parameter.empty
    if "attention_mask" in parameters:
        required = parameters["attention_mask"].default is empty
        return {"mask_name": "attention_mask", "needs_mask": required}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {"mask_name": "attention_mask", "needs_mask": False}
    positional = [
        p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 2:
        return None
    second = positional[1]
    if second.default is not empty and "mask" not in second.name:
        return None
    return {"mask_name": "", "needs_mask": second.default is empty}


def probe(net: ExternalDenoiser, mask_id: int, device: torch.device) -> tuple[str, int]:
    """What is wrong with a network and its mask kind, empty if nothing, and its number of ids.

    Raises `ModelError` for logits of the wrong shape or that are not numbers, `OptionError` for a
    mask id outside the vocabulary.
    """
    try:
        size = net.logits(torch.zeros(1, 1, dtype=torch.long, device=device)).shape[2]
        check_mask_id(mask_id, size)
        logits = _probe_logits(net, _probe_ids(size, mask_id), mask_id, device)
    except (ModelError, OptionError):
        raise
    except Exception as error:  # whatever a network raises for arguments that it does not take
        return f"{type(error).__name__}, {next(iter(str(error).splitlines()), '')}", 0
    return _probe_verdict(net, logits), size


@dataclass(frozen=True)
class _ProbeLogits:
    """Logits [3, vocab] of three ids: alone, padded in a batch, with the last or the first
    changed.
    """

    alone: Tensor
    padded: Tensor
    last_changed: Tensor
    first_changed: Tensor


def _probe_ids(size: int, mask_id: int) -> list[int]:
    """Three ids other than the mask, different ones where the vocabulary is large enough."""
    ids = [i for i in (size // 2, size // 3, size // 4, 0, 1) if i != mask_id][:3]
    return (ids * 3)[:3]


def _probe_logits(
    net: ExternalDenoiser, ids: list[int], mask_id: int, device: torch.device
) -> _ProbeLogits:
    def row_logits(row: list[int]) -> Tensor:
        return net.logits(torch.tensor([row], device=device))[0].float()

    batch = torch.tensor([[*ids, mask_id, mask_id], [*ids, *ids[:2]]], device=device)
    allowed = torch.tensor([[[1, 1, 1, 0, 0]], [[1] * 5]], device=device).bool()
    read = (torch.zeros(3, dtype=torch.long, device=device), torch.arange(3, device=device))
    unshifted = replace(net, geometry=replace(net.geometry, logit_shift=False))
    return _ProbeLogits(
        alone=row_logits(ids),
        last_changed=row_logits([*ids[:2], mask_id]),
        first_changed=row_logits([mask_id, *ids[1:]]),
        padded=unshifted(batch, read, allowed).float(),
    )


def _probe_verdict(net: ExternalDenoiser, logits: _ProbeLogits) -> str:
    alone = logits.alone
    if not bool(torch.isfinite(alone.logsumexp(-1)).all()):
        raise ModelError(
            "the model returned logits that are not numbers",
            given="NaN or infinity",
            hint="Check the weights.",
        )

    def largest(values: Tensor) -> float:
        return float(values.abs().nan_to_num().amax())

    centred = (alone - alone.mean(-1, keepdim=True)).abs()
    scale = largest(centred.masked_fill(centred.isinf(), 0.0))
    half_precision = float_parameter(net.model).dtype in (torch.bfloat16, torch.float16)
    tolerance = 0.05 if half_precision else 1e-4
    if largest(logits.padded - alone) > tolerance * scale:
        return "padding changes what a row gets"
    sees_later = largest(logits.last_changed[0] - alone[0]) > 1e-6 * scale
    sees_earlier = largest(logits.first_changed[2] - alone[2]) > 1e-6 * scale
    is_causal = sees_earlier and not sees_later
    return "it is causal" if is_causal and net.geometry.causal_block is None else ""


def check_mask_id(mask_id: int, size: int) -> None:
    """Raise `OptionError` for a mask id outside a vocabulary of `size` ids."""
    if not 0 <= mask_id < size:
        raise OptionError(
            "the mask id is outside the vocabulary",
            given=mask_id,
            allowed=f"below {size}",
            hint="Give the right mask id.",
        )
