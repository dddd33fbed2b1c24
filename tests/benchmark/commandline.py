"""Commands as tests give them."""

from pathlib import Path

from benchmark.cli import main


def run(results: Path, *argv: str) -> list[str]:
    return ["run", "--preset", "smoke", "--results", str(results), "--only", "dataset=shapes2d", *argv]


def fails(capsys, *argv: str) -> str:
    """Run a command that is wrong; what it says. It must not have begun anything."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err
