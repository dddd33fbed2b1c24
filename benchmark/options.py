"""Options that argparse hands on as they were given: what they mean, or a sentence on what is wrong with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmark.config import ConfigError, nearest
from benchmark.grid import parse_only
from benchmark.states import STATES
from benchmark.tables import FORMS

MOST_SEEDS = 1000  # of a setting; beyond that it is a slip, and composing the cells alone takes minutes


def check_seeds(arguments: argparse.Namespace, only: Sequence[str]) -> None:
    """Ask whether --seeds means something.

    Raises:
        ConfigError: for a number that cannot be meant, and for one beside seeds that --only names.
    """
    if arguments.seeds is None:
        return
    if not 1 <= arguments.seeds <= MOST_SEEDS:
        bound = "at least 1" if arguments.seeds < 1 else f"at most {MOST_SEEDS}"
        raise ConfigError(f"--seeds {arguments.seeds} must be {bound}")
    if "seed" in parse_only(only):
        raise ConfigError("--only seed=N names the seeds and --seeds N counts them: leave one of them out")


def jobs_at_once(text: str) -> int | str:
    """What --jobs says: ``auto`` or a number.

    Raises:
        ConfigError: for anything else.
    """
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return text if text == "auto" else int(text)
    raise ConfigError(f"--jobs {text} is neither auto nor a number of cells to run side by side")


def only_states_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The states that --only-state names; none where it is not given.

    Raises:
        ConfigError: for a state that there is not, with the nearest one.
    """
    names = tuple(filter(None, (arguments.only_state or "").split(",")))
    for name in names:
        if name not in STATES:
            raise ConfigError(f"--only-state: there is no state '{name}'{nearest(name, STATES)}")
    return names


def form_of(name: str) -> str:
    """What --format says.

    Raises:
        ConfigError: for a form that there is not, with the nearest one.
    """
    if name not in FORMS:
        raise ConfigError(f"There is no format '{name}'{nearest(name, FORMS)}")
    return name
