"""The command line: parse and call. Everything heavy is imported by who needs it, after the input has been checked."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from benchmark.config import ConfigError, Override, check_name, nearest
from benchmark.files import NoHardLinks, Unwritable, unwritable_explained

NOT_OK, WRONG_INPUT, CUT_OFF = 1, 2, 75  # of these, 1 and 75 are the launcher's as well
EPILOG = """\
examples:
  python -m benchmark run                                      every architecture, sized for this machine
  python -m benchmark plan --grid all --seeds 3                what would run, how long, from which measurement
  python -m benchmark run --only architecture=dit,maskgit trainer.max_steps=6000
  python -m benchmark status --format md                       states and reasons
  python -m benchmark leaderboard --format latex               the whole table: csv, md, json, latex or html
  python -m benchmark report                                   one page of all results: report/index.html
"""


@dataclass
class Tokens:
    """A command line in three parts: options for argparse, --only AXIS=VALUE, and KEY=VALUE."""

    options: list[str]
    only: list[str]
    overrides: list[Override]


def split_tokens(argv: Sequence[str], takes_value: frozenset[str]) -> Tokens:
    """Tell overrides from what belongs to options.

    Any token with '=' that does not start with '-' is an override, wherever it stands, but for values of options and
    for undotted ones right behind ``--only``; a dotted one ends ``--only``.
    """
    parts = Tokens([], [], [])
    after_only = value_next = False
    for token in argv:
        if value_next:
            parts.options.append(token)
            value_next = False
        elif token == "--only" or token.startswith("--only="):
            parts.only += [token.removeprefix("--only=")] if "=" in token else []
            after_only = True
        elif "=" in token and not token.startswith("-"):
            after_only = after_only and "." not in token.partition("=")[0]
            if after_only:
                parts.only.append(token)
            else:
                parts.overrides.append(Override.parse(token))
        else:
            parts.options.append(token)
            after_only, value_next = False, token in takes_value
    return parts


def build_parser() -> argparse.ArgumentParser:
    """Options only; AXIS=VALUE and KEY=VALUE were taken out before (``split_tokens``)."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark",
        description="Train every architecture under the same conditions and measure compositional generalisation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_plan_and_status(commands)
    _add_prepare(commands)
    _add_evaluate(commands)
    _add_command(commands, "cancel", "cancel what is left in SLURM's queue of this results folder")
    _add_leaderboard(commands)
    _add_report(commands)
    _add_claims(commands)
    _add_speed(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    help_text = "train and judge the cells of a grid that are not finished, and write the leaderboard"
    run = _add_command(commands, "run", help_text)
    _add_selection(run)
    run.add_argument("--jobs", default="auto", metavar="N|auto", help="cells side by side")
    run.add_argument(
        "--allow-different-hardware", action="store_true", help="resume what began on another kind of device"
    )
    run.add_argument("--slurm", action="store_true", help="submit to SLURM instead of running here")
    run.add_argument("--dry-run", action="store_true", help="with --slurm: print, submit nothing")


def _add_plan_and_status(commands: argparse._SubParsersAction) -> None:
    for name, help_text in (
        ("plan", "show what `run` would do, how long it takes and what that is taken from; start nothing"),
        ("status", "show the state of every cell, with the reason"),
    ):
        parser = _add_command(commands, name, help_text)
        _add_selection(parser)
        _add_format(parser)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = _add_command(commands, "prepare", "write a dataset's images, and check those that are there")
    what = prepare.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="D")
    what.add_argument(
        "--cell", metavar="ID", help="all that a cell shares with others: images, tokenizer, judges, latents"
    )
    prepare.add_argument("--preset", default="auto", metavar="P")
    prepare.add_argument(
        "--compare-renderers",
        type=int,
        nargs="?",
        const=4,
        metavar="N",
        help="N scenes by both of a dataset's renderers",
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = _add_command(commands, "evaluate", "sample and judge a finished cell again, with other settings")
    evaluate.add_argument("--cell", required=True, metavar="ID")
    evaluate.add_argument("--name", default="again", metavar="N", help="of evaluations/N.json (default: again)")


def _add_leaderboard(commands: argparse._SubParsersAction) -> None:
    _add_format(_add_command(commands, "leaderboard", "write leaderboard.csv and summary.csv from all records"))


def _add_report(commands: argparse._SubParsersAction) -> None:
    _add_command(
        commands,
        "report",
        "write report/index.html: one page with tables, verdicts, curves, samples, costs, failures and commands, "
        "which needs no network and no other file; its figures lie beside it as PNG",
    )


def _add_claims(commands: argparse._SubParsersAction) -> None:
    claims = _add_command(commands, "claims", "decide the claims of configs/claims.yaml and write verdicts.csv")
    claims.add_argument("--preset", default="auto", metavar="P", help="of the cells: smoke, laptop, paper, or auto")
    claims.add_argument("--table", type=Path, metavar="FILE", help="decide from a leaderboard's rows, not from records")
    claims.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write them; default: DIR/verdicts.csv, of --table nowhere"
    )
    _add_format(claims)


def _add_speed(commands: argparse._SubParsersAction) -> None:
    speed = _add_command(commands, "speed", "measure how fast this machine trains, samples and judges; needs no run")
    speed.add_argument("--preset", default="auto", metavar="P", help="sizes: smoke, laptop, paper, or auto")
    speed.add_argument("--only", metavar="AXIS=V[,V]", help="default: dataset=shapes2d and every architecture")
    speed.add_argument("--out", type=Path, metavar="FILE", help="write the whole table as CSV")
    speed.add_argument("--seconds", type=float, default=0.5, metavar="S", help="length of a window (default: 0.5)")


def _add_command(commands: argparse._SubParsersAction, name: str, help_text: str) -> argparse.ArgumentParser:
    description = f"{help_text[0].upper()}{help_text[1:]}."  # `capitalize` would make slurm of SLURM
    parser = commands.add_parser(name, help=help_text, description=description, allow_abbrev=False)
    if name != "speed":
        parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: ./results")
    if name not in ("leaderboard", "cancel"):
        parser.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE", help="repeatable")
        parser.usage = f"{parser.prog} [OPTION ...]" + " [KEY=VALUE ...]" * (name != "report")
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument("--grid", metavar="NAME", help="default: all")
    selection.add_argument("--cell", metavar="ID", help="one cell that a run has written before")
    parser.add_argument("--preset", metavar="P", help="smoke, laptop, paper, or auto (the default)")
    parser.add_argument("--only", metavar="AXIS=V[,V]", help="dataset, architecture, tokenizer, conditioning or seed")
    parser.add_argument("--only-state", metavar="S[,S]", help="cells in these states only, such as failed,stale")
    parser.add_argument("--seeds", type=int, metavar="N", help="replicates: seed, seed+1, ... (default: the grid's)")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", metavar="F", help="md, csv, json, latex or html; default: a table for the terminal")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 all ok, 1 some not, 2 wrong input, 75 cut off and resumable."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if "SLURM_JOB_ID" in os.environ and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _end_now)  # the warning may come before anything has begun
    try:
        arguments, tokens = _parse(parser, argv)
        from benchmark import commands

        with unwritable_explained(getattr(arguments, "results", Path.cwd())):
            return getattr(commands, arguments.command)(arguments, tokens)
    except ConfigError as error:
        _complain(f"{str(error).rstrip('.')}.".replace("?.", "?"))
        return WRONG_INPUT
    except (Unwritable, NoHardLinks) as error:
        _complain(f"{error}.")
        return _unwritable()
    except SystemExit as end:  # argparse's own: --help, or what it found wrong
        return int(end.code or 0)
    except BrokenPipeError:  # `plan | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (so that the interpreter's last flush does not fail too)
        return 0


def _complain(sentence: str) -> None:
    with suppress(OSError):  # where the output is kept on a full disk, the exit code has to say it all
        print(f"error: {sentence}", file=sys.stderr, flush=True)


def _unwritable() -> int:
    """The exit code where nothing can be written; a worker, whose log may be on the same disk, has one of its own."""
    from benchmark.workers import IO_ERROR, PIPE

    return IO_ERROR if PIPE in os.environ else NOT_OK


def _end_now(signum: int, frame: FrameType | None) -> None:
    os._exit(CUT_OFF)  # nothing is held yet; an exception would leave a library half imported, and who knows what then


def _parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, Tokens]:
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise ConfigError(f"There is no command '{argv[0]}'{nearest(argv[0], commands)}")
    actions = commands[argv[0]]._actions if argv and argv[0] in commands else []
    options = [option for action in actions for option in action.option_strings]
    takes_value = frozenset(o for a in actions if a.nargs is None and a.dest != "only" for o in a.option_strings)
    tokens = split_tokens(argv, takes_value)
    arguments, unknown = parser.parse_known_args(tokens.options)
    if unknown:
        raise ConfigError(f"{arguments.command} knows no '{unknown[0]}'{nearest(unknown[0], options)}")
    if tokens.overrides and arguments.command in ("leaderboard", "cancel", "report"):
        raise ConfigError(f"{arguments.command} takes no KEY=VALUE: leave {tokens.overrides[0].key} out")
    _check_names(arguments)
    return arguments, tokens


def _check_names(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for a name of a cell or an evaluation that could lead out of its folder."""
    for option in ("cell", "name"):
        if (given := getattr(arguments, option, None)) is not None:
            check_name(given, f"--{option}")
