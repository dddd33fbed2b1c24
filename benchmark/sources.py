"""Read what a module declares without running it.

Names, views and config dataclasses stand in the same file as the network that they describe, and that file imports
torch and Lightning, which takes seconds. `plan`, `status` and every error message need only the declarations, so they
are read from the syntax tree: the decorators, and the top-level constants, plain functions, exceptions and dataclasses,
which are executed in a module of their own without the heavy imports.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

ROOMS = ("datasets", "architectures", "probes", "benchmark")
_LIGHT = {"datasets.factors", "datasets.ranges"}  # modules of ours that import nothing heavy

_PURE = {"math", "tuple", "frozenset", "dict", "list", "range", "sorted", "len", "float", "int"}  # calls in constants
_NAME = re.compile(r"\w[\w-]*", re.ASCII)  # it stands in paths, in keys and in lists with commas


class Unreadable(SyntaxError):
    """A declaration that cannot be read from the text, with the file, the line and what to write."""


@dataclass(frozen=True)
class Registration:
    """One use of a decorator: ``@architecture("dit", DiTConfig)`` above ``class DiT``."""

    kind: str
    name: str
    class_name: str
    config_name: str


class Source:
    """One module as text.

    Raises:
        SyntaxError, OSError: if the file cannot be read.
    """

    def __init__(self, path: Path, module: str) -> None:
        self.path, self.module = path, module
        self.tree = ast.parse(path.read_bytes(), filename=str(path))  # bytes may say what they are encoded in

    def registrations(self, kinds: tuple[str, ...]) -> Iterator[Registration]:
        """Every class under a decorator named like one of the kinds.

        Raises:
            Unreadable: for a decorator without a name that can stand in paths and keys, or without a config class.
        """
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                ours = (decorator for decorator in node.decorator_list if _last_name(decorator) in kinds)
                yield from (self._registration(node.name, decorator) for decorator in ours)

    def _registration(self, class_name: str, decorator: ast.expr) -> Registration:
        kind = _last_name(decorator)
        given = []
        if isinstance(decorator, ast.Call):
            named = sorted(decorator.keywords, key=lambda each: each.arg != "name")  # the name first, then its config
            given = [*decorator.args, *(each.value for each in named)]
        if len(given) != 2 or not _last_name(given[1]):
            raise self._unreadable(decorator, f'write @{kind}("NAME", CONFIG), where CONFIG is a dataclass')
        name = self._constant(given[0], f"the name in @{kind}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self._unreadable(decorator, f"@{kind}({name!r}): a name is a word of letters, digits, - and _")
        return Registration(kind, name, class_name, _last_name(given[1]))

    def _constant(self, node: ast.expr, what: str) -> Any:
        """The value of a literal, or of what is made of constants of this module."""
        calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
        try:
            with suppress(ValueError):
                return ast.literal_eval(node)
            if all(_first_name(function) in _PURE for function in calls):
                return eval(compile(ast.Expression(node), str(self.path), "eval"), self._declarations.__dict__)
        except Exception as error:
            raise self._unreadable(node, f"{what} cannot be read without importing the file; write it out") from error
        raise self._unreadable(node, f"{what} cannot be read without importing the file; write it out")

    def _unreadable(self, node: ast.expr, what: str) -> Unreadable:
        return Unreadable(f"{self.path}, line {node.lineno}: {what}")

    def class_constant(self, class_name: str, attribute: str) -> Any:
        """A constant attribute of a class, looked up through its bases; None where it is not to be found.

        Raises:
            Unreadable: if it is made of more than literals and constants of the module.
        """
        node = next((n for n in self.tree.body if isinstance(n, ast.ClassDef) and n.name == class_name), None)
        if node is None:
            origin = self._origins.get(class_name)
            return origin.class_constant(class_name, attribute) if origin else None
        for statement in node.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == attribute for target in targets):
                return self._constant(statement.value, f"{class_name}.{attribute}")  # type: ignore[attr-defined]
        found = (self.class_constant(_last_name(base), attribute) for base in node.bases)
        return next((value for value in found if value is not None), None)

    def _literal(self, node: ast.expr) -> Any:
        """A value that stands there, or under a constant's name; None for what only running the module would tell."""
        with suppress(ValueError, AttributeError):
            return self.declared(node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)
        return None

    def declared(self, name: str) -> Any:
        """A dataclass, constant or plain function of this module, without the module's heavy imports.

        Raises:
            AttributeError: if it needs something that only a real import gives.
        """
        return getattr(self._declarations, name)

    @cached_property
    def imported_files(self) -> frozenset[Path]:
        """Files of our own rooms that this module imports."""
        return frozenset(path for module in imported_modules(self.tree) if (path := find_module(module)))

    def missing_packages(self) -> list[str]:
        """Top-level imports of packages that are not installed."""
        roots = {m.partition(".")[0] for m in imported_modules(self.tree, top_level_only=True)}
        return sorted(root for root in roots if root not in sys.modules and importlib.util.find_spec(root) is None)

    @cached_property
    def _origins(self) -> dict[str, Source]:
        """Name -> the module of ours from which ``from x import Name`` takes it."""
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and (path := find_module(node.module)):
                found.update({alias.name: source(path, node.module) for alias in node.names})
        return found

    @cached_property
    def _declarations(self) -> ModuleType:
        light = ModuleType(f"benchmark.light.{self.module}")
        sys.modules[light.__name__] = light  # where dataclasses and get_type_hints look annotations up
        for node in self.tree.body:
            self._execute(node, light.__dict__)
        return light

    def _execute(self, node: ast.stmt, namespace: dict[str, Any]) -> None:
        if isinstance(node, ast.ImportFrom) and node.module not in _LIGHT and find_module(node.module or ""):
            for alias in node.names:
                with suppress(AttributeError):  # not a declaration
                    namespace[alias.asname or alias.name] = self._origins[alias.name].declared(alias.name)
            return
        if not _is_declaration(node):
            return
        code = compile(
            ast.Module([node], type_ignores=[]), str(self.path), "exec", __future__.annotations.compiler_flag
        )
        try:
            exec(code, namespace)
        except Exception:
            return  # it needs an import that was left out, or is wrong: who asks for it imports the module, which says so


@cache
def source(path: Path, module: str) -> Source:
    """The module at a path, parsed once a process."""
    return Source(path, module)


def find_module(module: str) -> Path | None:
    """File of a module of our rooms; None for everybody else's. Nothing is imported."""
    if module.partition(".")[0] not in ROOMS:
        return None
    base = Path(__file__).resolve().parent.parent.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported_modules(tree: ast.Module, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports; ``from architectures import dit`` gives ``architectures.dit`` too."""
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names if node.module in ROOMS)
    return found


def _is_declaration(node: ast.stmt) -> bool:
    """Whether a statement may run on its own: a light import, a constant, a plain function, a dataclass."""
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] in sys.stdlib_module_names for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        return module in _LIGHT or module.partition(".")[0] in sys.stdlib_module_names
    if isinstance(node, ast.Assign | ast.AnnAssign):
        calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
        return all(_first_name(function) in _PURE for function in calls)
    if isinstance(node, ast.FunctionDef):
        return not node.decorator_list
    if not isinstance(node, ast.ClassDef):
        return False
    bases = [getattr(builtins, _last_name(base), None) for base in node.bases]
    is_exception = bool(bases) and all(isinstance(base, type) and issubclass(base, Exception) for base in bases)
    return [_last_name(d) for d in node.decorator_list] == ["dataclass"] or (is_exception and not node.decorator_list)


def _first_name(node: ast.expr) -> str:
    """``math`` of ``math.sqrt``."""
    return _first_name(node.value) if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _last_name(node: ast.expr) -> str:
    """``tokenizer`` of ``tokenizer``, ``base.tokenizer`` and ``dataclass(frozen=True)``."""
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
