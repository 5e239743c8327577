"""What a released package defines, read from its files and never imported, against what code of
ours uses of it.

    python -m tests.helpers.released_package FOLDER

FOLDER holds vLLM's unpacked wheel (`pip download vllm==0.33.0 --no-deps`, then unzip); prints what
the plug-in uses and the wheel lacks, a line each.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNKNOWN = ast.Pass()
"""Stands for what no statement says: an attribute of a value."""


@dataclass(frozen=True)
class Definition:
    """What a name stands for: its statement, or a whole file, and the module where that is."""

    module: str
    node: ast.AST


class ReleasedPackage:
    """The package `name` in a folder of unpacked files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._trees: dict[str, ast.Module | None] = {}

    def owns(self, module: str | None) -> bool:
        """Whether a module is the package or in it."""
        return module is not None and f"{module}.".startswith(f"{self.name}.")

    def definition(self, dotted: str) -> Definition | None:
        """What `package.module.name`, or `package.module.Class.member`, is; None where the release
        has no such name. Imports are followed within the package.
        """
        tree = self._tree(dotted)
        if tree is not None:
            return Definition(dotted, tree)
        owner_name, _, name = dotted.rpartition(".")
        owner = self.definition(owner_name) if owner_name else None
        if owner is None:
            return None
        if isinstance(owner.node, ast.ClassDef):
            return self._member(owner, name)
        if isinstance(owner.node, ast.Module):
            return self._bound(owner.module, owner.node, name)
        return Definition(owner.module, UNKNOWN)

    def signature(self, dotted: str) -> inspect.Signature | None:
        """How a function, a class or a method of a class is called; None where its statement does
        not say.
        """
        definition = self.definition(dotted)
        if definition is None:
            return None
        if isinstance(definition.node, ast.FunctionDef):
            owner = self.definition(dotted.rpartition(".")[0])
            is_method = owner is not None and isinstance(owner.node, ast.ClassDef)
            is_static = "staticmethod" in map(ast.unparse, definition.node.decorator_list)
            return signature_of(definition.node, is_bound=is_method and not is_static)
        if not isinstance(definition.node, ast.ClassDef):
            return None
        made = self._member(definition, "__init__")
        if made is not None and isinstance(made.node, ast.FunctionDef):
            return signature_of(made.node, is_bound=True)
        return self._dataclass_signature(definition)

    def _dataclass_signature(self, definition: Definition) -> inspect.Signature | None:
        assert isinstance(definition.node, ast.ClassDef)
        if not definition.node.decorator_list:
            return None
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        fields = [node for node in definition.node.body if isinstance(node, ast.AnnAssign)]
        return inspect.Signature(
            [
                inspect.Parameter(ast.unparse(field.target), kind, default=_default(field.value))
                for field in fields
            ]
        )

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            file = self.folder.joinpath(*module.split("."))
            files = (file.with_suffix(".py"), file / "__init__.py")
            path = next((path for path in files if path.is_file()), None)
            self._trees[module] = ast.parse(path.read_text("utf-8")) if path else None
        return self._trees[module]

    def _bound(self, module: str, tree: ast.Module, name: str) -> Definition | None:
        """What a module's own statements bind a name to."""
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom) and name in _local_names(node):
                return self._imported(module, node, name)
            if name in _local_names(node):
                return Definition(module, node)
        return None

    def _imported(self, module: str, node: ast.ImportFrom, name: str) -> Definition | None:
        source = self._source_of(module, node)
        (original,) = (a.name for a in node.names if (a.asname or a.name) == name)
        if self.owns(source):
            return self.definition(f"{source}.{original}")
        return Definition(module, node)

    def _source_of(self, module: str, node: ast.ImportFrom) -> str:
        """The module that a `from ... import` names, which may be relative."""
        if not node.level:
            return node.module or ""
        is_folder = (self.folder.joinpath(*module.split(".")) / "__init__.py").is_file()
        parts = module.split(".")
        kept = parts[: len(parts) + is_folder - node.level]
        return ".".join([*kept, *filter(None, [node.module])])

    def _member(self, owner: Definition, name: str) -> Definition | None:
        """What a class, or one that it derives from, says of a name: in its body, or as `self.name`
        in a method.
        """
        assert isinstance(owner.node, ast.ClassDef)
        body = [*_statements(owner.node.body)]
        for node in body:
            if name in _local_names(node):
                return Definition(owner.module, node)
        if any(name in set(_attributes_set(node)) for node in body):
            return Definition(owner.module, UNKNOWN)
        for base in owner.node.bases:
            inherited = self.definition(f"{owner.module}.{ast.unparse(base).partition('[')[0]}")
            if inherited is None or not isinstance(inherited.node, ast.ClassDef):
                continue
            member = self._member(inherited, name)
            if member is not None:
                return member
        return None


def signature_of(node: ast.FunctionDef, is_bound: bool = False) -> inspect.Signature:
    """How a function is called; without its first parameter if it `is_bound` to an object."""
    arguments = node.args
    by_position = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(by_position) - len(arguments.defaults)) + [*arguments.defaults]
    parameters = [
        inspect.Parameter(argument.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for argument, default in zip(by_position, map(_default, defaults))
    ]
    if arguments.vararg:
        parameters.append(inspect.Parameter(arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    parameters += [
        inspect.Parameter(argument.arg, inspect.Parameter.KEYWORD_ONLY, default=_default(value))
        for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults)
    ]
    if arguments.kwarg:
        parameters.append(inspect.Parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters[1:] if is_bound else parameters)


def _default(value: ast.expr | None) -> object:
    return inspect.Parameter.empty if value is None else value


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, and of what is decided there (`if`, `try`, `with`)."""
    for node in body:
        yield node
        branches = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
        branches += [handler.body for handler in getattr(node, "handlers", [])]
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _statements([*itertools.chain(*branches)])


def _local_names(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return {node.name}
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    named = (part for target in targets if target for part in ast.walk(target))
    return {part.id for part in named if isinstance(part, ast.Name)}


def _attributes_set(node: ast.stmt) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.attr


def lacks(package: ReleasedPackage, own: Path, types: Mapping[str, str]) -> list[str]:
    """What the Python files below `own` use of the package that it does not offer: names,
    arguments, attributes, and functions that are called otherwise than ours which replace them.

    `types`: the class, in the package, of what our code calls by a name.
    """
    return [
        f"{path.relative_to(own)}:{line}: {what}"
        for path in sorted(own.rglob("*.py"))
        for line, what in _Uses(package, ast.parse(path.read_text("utf-8")), types).lacking()
    ]


def keys_of(path: Path, name: str) -> list[str]:
    """The keys of a dictionary that a file writes out under a name."""
    (node,) = (n for n in ast.parse(path.read_text("utf-8")).body if name in _local_names(n))
    return [*ast.literal_eval(node.value)]


class _Uses:
    """What one file of ours uses of a package."""

    def __init__(
        self, package: ReleasedPackage, tree: ast.Module, types: Mapping[str, str]
    ) -> None:
        self.package = package
        self.nodes = [*ast.walk(tree)]
        self.types = types
        self.imports = [
            (node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}")
            for node in self.nodes
            if isinstance(node, ast.ImportFrom) and package.owns(node.module)
            for alias in node.names
        ]
        self.names = {name: dotted for _, name, dotted in self.imports}
        self.functions = {
            node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)
        }
        self.guarded = {
            ast.literal_eval(node.args[1])
            for node in self.nodes
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "hasattr")
            and isinstance(node.args[1], ast.Constant)
        }

    def lacking(self) -> Iterator[tuple[int, str]]:
        """Lines, and what they use that the package does not offer."""
        for line, _, dotted in self.imports:
            if self.package.definition(dotted) is None:
                yield line, dotted
        for node in self.nodes:
            line = getattr(node, "lineno", 0)
            yield from ((line, what) for what in self._lacking_at(node))

    def _lacking_at(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call):
            yield from self._refused_arguments(node)
        if isinstance(node, ast.Attribute):
            yield from self._unknown_attribute(node)
        if isinstance(node, ast.Assign):
            yield from self._replaced_function(node)
        if isinstance(node, ast.ClassDef):
            yield from self._replaced_methods(node)

    def _named(self, node: ast.expr) -> str | None:
        """The full name of what was imported, or of one of its attributes."""
        head, dot, attributes = ast.unparse(node).partition(".")
        return f"{self.names[head]}{dot}{attributes}" if head in self.names else None

    def _refused_arguments(self, call: ast.Call) -> Iterator[str]:
        """Why the function or class that a call names does not take its arguments."""
        dotted = self._named(call.func)
        signature = self.package.signature(dotted) if dotted else None
        if signature is None:
            return
        has_more = any(isinstance(argument, ast.Starred) for argument in call.args)
        has_more |= any(keyword.arg is None for keyword in call.keywords)
        named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        try:
            (signature.bind_partial if has_more else signature.bind)(*call.args, **named)
        except TypeError as error:
            yield f"{dotted}: {error}"

    def _unknown_attribute(self, node: ast.Attribute) -> Iterator[str]:
        """An attribute that its owner lacks: an imported module or class, or a value of known
        type. Those that the file asks for by `getattr` may be missing.
        """
        called = ast.unparse(node.value).rpartition(".")[2]
        owner = self._named(node.value) or self.types.get(called)
        if owner is None or node.attr in self.guarded:
            return
        if self.package.definition(f"{owner}.{node.attr}") is None:
            yield f"{owner}.{node.attr}"

    def _replaced_function(self, node: ast.Assign) -> Iterator[str]:
        """Why a function of ours that is put in place of the package's cannot be called as it."""
        own = self.functions.get(ast.unparse(node.value))
        for target in node.targets:
            dotted = self._named(target)
            if dotted and own:
                yield from self._called_otherwise(dotted, own)

    def _replaced_methods(self, node: ast.ClassDef) -> Iterator[str]:
        """Why methods of a class of ours cannot be called as those of its base."""
        bases = [dotted for base in node.bases if (dotted := self._named(base))]
        methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
        for base, method in itertools.product(bases, methods):
            yield from self._called_otherwise(f"{base}.{method.name}", method)

    def _called_otherwise(self, dotted: str, own: ast.FunctionDef) -> Iterator[str]:
        """Why a function of ours cannot be called as the package's. What callers may leave out they
        give by name, unless ours takes any number of arguments.
        """
        replaced = self.package.definition(dotted)
        if replaced is None or not isinstance(replaced.node, ast.FunctionDef):
            return
        signature = signature_of(own)
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
        called = signature_of(replaced.node).parameters.values()
        by_position = [
            p
            for p in called
            if p.kind is p.POSITIONAL_OR_KEYWORD and (takes_any or p.default is p.empty)
        ]
        named = {
            p.name: None for p in called if p not in by_position and p.kind is not p.VAR_KEYWORD
        }
        try:
            signature.bind(*by_position, **named)
        except TypeError as error:
            yield f"{dotted}: ours has {error}"


VLLM_PLUGIN = ROOT / "creditdecoding" / "integrations" / "vllm"
VLLM_TYPES = {
    "vllm_config": "vllm.config.VllmConfig",
    "model_config": "vllm.config.ModelConfig",
    "scheduler": "vllm.config.SchedulerConfig",
    "cache_config": "vllm.config.CacheConfig",
    "attention_config": "vllm.config.AttentionConfig",
    "diffusion_config": "vllm.config.DiffusionConfig",
    "input_batch": "vllm.v1.worker.gpu.input_batch.InputBatch",
    "req_states": "vllm.v1.worker.gpu.states.RequestState",
    "sampler": "vllm.v1.worker.gpu.sample.sampler.Sampler",
    "sampling_states": "vllm.v1.worker.gpu.sample.states.SamplingStates",
    "request": "vllm.v1.core.sched.output.NewRequestData",
    "params": "vllm.sampling_params.SamplingParams",
}
"""vLLM's classes of what the plug-in's code calls by these names."""

SGLANG_PLUGIN = ROOT / "creditdecoding" / "integrations" / "sglang"
SGLANG_TYPES = {
    "forward_batch": "sglang.srt.model_executor.forward_batch_info.ForwardBatch",
    "model_runner": "sglang.srt.model_executor.model_runner.ModelRunner",
    "processor": "sglang.srt.layers.logits_processor.LogitsProcessor",
    "info": "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo",
    "req": "sglang.srt.managers.schedule_batch.Req",
    "config": "sglang.srt.dllm.config.DllmConfig",
}
"""SGLang's, likewise."""


def lacks_of_vllm(folder: Path) -> list[str]:
    """What the vLLM plug-in uses and the vLLM in a folder lacks: also the sampling parameters that
    it refuses, which it asks for by name.
    """
    package = ReleasedPackage(folder, "vllm")
    refused = keys_of(VLLM_PLUGIN / "launch.py", "UNSUPPORTED")
    asked_for = [f"{VLLM_TYPES['params']}.{name}" for name in refused]
    unknown = [name for name in asked_for if package.definition(name) is None]
    return [*lacks(package, VLLM_PLUGIN, VLLM_TYPES), *unknown]


def lacks_of_sglang(folder: Path) -> list[str]:
    """What the SGLang plug-in uses and the SGLang in a folder lacks, likewise, and what
    `vocab_parallel` looks for.
    """
    package = ReleasedPackage(folder, "sglang")
    refused = keys_of(SGLANG_PLUGIN / "algorithm.py", "_UNSUPPORTED")
    asked_for = [
        *(f"sglang.srt.sampling.sampling_params.SamplingParams.{name}" for name in refused),
        f"{SGLANG_TYPES['model_runner']}.decode_cuda_graph_capture_bs",
        f"{SGLANG_TYPES['processor']}.do_tensor_parallel_all_gather_dp_attn",
        f"{SGLANG_TYPES['processor']}.use_attn_tp_group",
        "sglang.srt.distributed.parallel_state.GroupCoordinator.device_group",
    ]
    unknown = [name for name in asked_for if package.definition(name) is None]
    return [*lacks(package, SGLANG_PLUGIN, SGLANG_TYPES), *unknown]


if __name__ == "__main__":
    lacking = lacks_of_vllm(Path(sys.argv[1]))
    for line in lacking:
        print(line)
    sys.exit(bool(lacking))
