"""What exists: datasets, architectures and tokenizers of the rooms, of installed packages and of ``--plugin`` files.

One decorator in a file registers it; nothing is listed twice. Names are found in the text of the modules
(``sources.py``), so that a wrong one is answered at once; only what a cell uses is imported. A module that cannot work
here is set aside with one line, and is an error only for who selects it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from benchmark import ROOT
from benchmark.config import ConfigError, nearest
from benchmark.sources import Registration, Source, Unreadable, source

PACKAGES = {"dataset": "datasets", "architecture": "architectures", "tokenizer": "architectures.tokenizers"}
KINDS = tuple(PACKAGES)
ENTRY_POINTS = "compositional_benchmark"


@dataclass(frozen=True)
class Entry:
    """A registered class, not imported yet."""

    registration: Registration
    source: Source

    @property
    def name(self) -> str:
        return self.registration.name

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def views(self) -> tuple[str, ...]:
        """The latents that an architecture models or a tokenizer offers, the default first.

        Raises:
            ConfigError: if they cannot be read.
        """
        try:
            return tuple(self.source.class_constant(self.registration.class_name, "views") or ())
        except Unreadable as error:
            raise ConfigError(f"{self.registration.kind} {self.name} cannot be used: {error}") from error

    def config_class(self) -> type:
        """Its config dataclass, read from the text where that is possible.

        Raises:
            ConfigError: if it is none, or the module fails to import.
        """
        name = self.registration.config_name
        try:
            found = self.source.declared(name)
        except (AttributeError, NameError, TypeError):
            found = getattr(self.module(), name, None)
        if not (isinstance(found, type) and is_dataclass(found)):
            raise ConfigError(
                f"{self.registration.kind} {self.name} cannot be used: {name} of {self.path} is no dataclass; put @dataclass "
                f"above it."
            )
        return found

    def module(self) -> Any:
        """The module, imported; a plug-in file under a name of its own.

        Raises:
            ConfigError: if it fails to import.
        """
        name = self.source.module
        try:
            if name in sys.modules:
                return sys.modules[name]
            return importlib.import_module(name) if not name.startswith("plugin:") else _import_file(self.path, name)
        except Exception as error:
            what = f"{self.registration.kind} {self.name}"
            raise ConfigError(f"{what} cannot be used: {self.path} failed to import ({error!r}).") from error

    def load(self) -> type:
        """The class itself, imported."""
        return getattr(self.module(), self.registration.class_name)


@dataclass
class Registry:
    """Everything that can be selected, by kind and name, and what was set aside and why."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    aside: dict[str, str] = field(default_factory=dict)  # name (or file name, where that is all we know) -> reason

    def names(self, kind: str) -> list[str]:
        return list(self.entries[kind])

    def entry(self, kind: str, name: str) -> Entry:
        """Look a name up.

        Raises:
            ConfigError: for a name that is not registered, with the nearest one; or that was set aside.
        """
        if name in self.entries[kind]:
            return self.entries[kind][name]
        if name in self.aside:
            raise ConfigError(f"{kind} {name} cannot be used: {self.aside[name]}.")
        raise ConfigError(f"There is no {kind} '{name}'{nearest(name, self.names(kind))}")

    def add(self, module: Source) -> None:
        """Register what a module declares, or set it aside."""
        missing = module.missing_packages()
        for registration in module.registrations(KINDS):
            known = self.entries[registration.kind].get(registration.name)
            if missing:
                self.aside[registration.name] = f"{module.path} needs {', '.join(missing)}, which is not installed"
            elif known and (known.path, known.registration.class_name) != (module.path, registration.class_name):
                raise ConfigError(
                    f"{registration.kind} '{registration.name}' is registered twice: in {known.path} and {module.path}."
                )
            else:
                self.entries[registration.kind][registration.name] = Entry(registration, module)


def discover(plugins: Iterable[Path] = ()) -> Registry:
    """The registry of this checkout, of installed entry points and of plug-in files, without importing any of them.

    Raises:
        ConfigError: for a plug-in that does not exist, cannot be parsed or registers nothing; for a name used twice.
    """
    registry = Registry()
    for module, path in [*_room_modules(), *_entry_point_modules(registry)]:
        try:
            registry.add(source(path, module))
        except (SyntaxError, OSError, UnicodeError) as error:
            registry.aside[path.stem] = f"{path} cannot be read ({error})"
    for path in plugins:
        _add_plugin(registry, path.resolve())
    return registry


def _room_modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES.values():
        folder = ROOT.joinpath(*package.split("."))
        for info in pkgutil.iter_modules([str(folder)]):
            if not info.ispkg:
                yield f"{package}.{info.name}", folder / f"{info.name}.py"


def _entry_point_modules(registry: Registry) -> Iterator[tuple[str, Path]]:
    """Modules that installed packages name; one that cannot be found is set aside."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            spec = importlib.util.find_spec(point.module)  # imports the packages around the module
            reason = "is missing"
        except Exception as error:
            spec, reason = None, f"cannot be imported ({error!r})"
        if spec and spec.origin:
            yield point.module, Path(spec.origin)
        else:
            package = point.dist.name if point.dist else "its package"
            registry.aside[point.name] = (
                f"entry point {point.name} of {package} names {point.module}, which {reason}; repair {package} or uninstall it"
            )


def _add_plugin(registry: Registry, path: Path) -> None:
    try:
        module = source(path, f"plugin:{path}")
        registered = list(module.registrations(KINDS))
    except Unreadable as error:
        raise ConfigError(f"--plugin {error}.") from error
    except (SyntaxError, OSError) as error:
        raise ConfigError(f"--plugin {path} cannot be read: {error}.") from error
    if not registered:
        raise ConfigError(f"--plugin {path} registers nothing: put @architecture, for instance, above a class.")
    registry.add(module)


def _import_file(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, so that its dataclasses can look their annotations up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
