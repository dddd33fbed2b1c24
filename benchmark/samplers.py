"""The two samplers of a cell: that of its end, and that of points of its curve, which may take fewer steps.

The curve's steps stand in `evaluation` and are read in place of the final ones; all else of both samplers is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.config import LATER

FINAL = {  # key of `evaluation` -> section and key whose place it takes at points of the curve
    "curve_diffusion_steps": ("diffusion", "steps"),
    "curve_decode_steps": ("sampling", "decode_steps"),
}
AS_AT_THE_END = LATER["evaluation"]


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys by which a config asks for another sampler at points of the curve."""
    evaluation = config["evaluation"]
    return {key: evaluation[key] for key in FINAL if evaluation.get(key, AS_AT_THE_END[key]) != AS_AT_THE_END[key]}


def at_the_curve(config: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's config with the steps that its curve is sampled with; an equal one where these are the final steps."""
    sections = {FINAL[key][0]: {**config[FINAL[key][0]], FINAL[key][1]: value} for key, value in _asked(config).items()}
    return {**config, **sections}


def refusal(config: Mapping[str, Any], error: Exception) -> str:
    """What was refused of `at_the_curve`, by the keys that were set in place of those it names."""
    message = str(error)
    for key in _asked(config):
        message = message.replace(".".join(FINAL[key]), f"evaluation.{key}")
    return message


def samplers(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For a record: the steps at points of the ``curve`` and of the ``final`` evaluation, by their dotted keys."""
    both = {"curve": at_the_curve(config), "final": config}
    return {
        name: {f"{section}.{key}": settings[section][key] for section, key in FINAL.values()}
        for name, settings in both.items()
    }
