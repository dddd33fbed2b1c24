"""The house: imports go one way, and the four rooms come from this checkout whatever else is installed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import ROOT
from benchmark.sources import ROOMS, imported_modules

SHARED = ("datasets.factors", "datasets.ranges")
ALLOWED = {  # room -> what it may import of the others
    "datasets": (),
    "architectures": SHARED,
    "probes": SHARED,
    "benchmark": ("datasets", "architectures", "probes"),
}
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    room = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    others = {m for m in modules if m.partition(".")[0] in ROOMS and m.partition(".")[0] != room}
    wrong = {m for m in others if not any(m == allowed or m.startswith(f"{allowed}.") for allowed in ALLOWED[room])}
    assert not wrong
    assert not any(node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), "use absolute imports"


def test_the_vocabulary_imports_nothing_heavy():
    heavy = {"torch", "lightning", "numpy", "torchvision"}
    rooms = ("datasets/__init__.py", "architectures/__init__.py", "probes/__init__.py")
    for module in (*rooms, "datasets/factors.py", "datasets/ranges.py", "probes/files.py"):
        roots = {name.partition(".")[0] for name in imported_modules(ast.parse((ROOT / module).read_text()))}
        assert not roots & heavy, module


@pytest.mark.parametrize("how", ["cwd", "PYTHONPATH"])
def test_hugging_faces_datasets_does_not_shadow_ours(tmp_path: Path, how: str):
    other = tmp_path / "datasets"
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('the other datasets was imported')")
    paths = [str(tmp_path), str(ROOT)] if how == "PYTHONPATH" else [str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    folder = tmp_path if how == "cwd" else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmark", "plan", "--preset", "smoke", "--results", str(tmp_path / "results")]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "shapes2d-dit-vq-full-s0-" in result.stdout


def test_a_foreign_datasets_imported_first_is_told_in_one_sentence(tmp_path: Path):
    other = tmp_path / "datasets"
    other.mkdir()
    (other / "__init__.py").write_text("")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import datasets"
    code = f"{first}; sys.path.append({str(ROOT)!r}); import benchmark"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "datasets" in result.stderr and "Traceback" not in result.stderr
