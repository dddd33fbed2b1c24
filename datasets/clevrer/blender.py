"""The same scenes through Blender's Cycles, to say how far our ray tracer is from it.

Blender comes as the wheel ``bpy``: an optional extra, GPL, for Python 3.11 alone and with an old numpy. So it runs in a
process of its own, under a Python that may be another one; a JSON file goes there and PNGs come back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.clevrer.scenes import Scenes
from datasets.clevrer.world import (
    AMBIENT,
    FLOOR,
    LAMPS,
    MATERIALS,
    SENSOR,
    SHAPES,
    SUN,
    SUN_ANGLE,
    SUN_STRENGTH,
)

SCRIPT = Path(__file__).with_name("blender_script.py")
NO_BPY = 3  # the script's exit status where it cannot import bpy
BOUNCES = 8  # CLEVR
# Kubric's materials. Its Blender 2.93 takes the reflectance of what is no metal from "specular" alone, 0.08 of it; Blender
# 4 multiplies it with that of the IOR, and only 1.5 gives the same. Kubric's 1.25 would make rubber a third as glossy.
PRINCIPLED = {
    "rubber": {"metallic": 0.0, "roughness": 0.7, "specular": 0.33, "ior": 1.5},
    "metal": {"metallic": 1.0, "roughness": 0.2, "specular": 0.5, "ior": 2.5},
    "floor": {"metallic": 0.0, "roughness": 1.0, "specular": 0.0, "ior": 1.5},
}


class BlenderError(RuntimeError):
    """Blender is not there or has failed."""


def render_with_blender(
    scenes: Scenes, resolution: int, lens: float, python: str = sys.executable, samples: int = 64
) -> Tensor:
    """Render videos with Cycles on the CPU, denoised where the build can.

    Args:
        scenes: B scenes of T frames.
        resolution: width and height in pixels.
        lens: mm.
        python: a Python that has ``bpy``.
        samples: rays a pixel.

    Returns:
        uint8 (B, T, 3, H, W), sRGB.

    Raises:
        BlenderError: there is no such Python, it has no ``bpy``, or it failed; one sentence and its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="blender-") as name:
        folder = Path(name)
        (folder / "scenes.json").write_text(json.dumps(describe_for_blender(scenes, resolution, lens, samples)))
        _run(python, folder)
        videos, frames = scenes.motion.positions.shape[:2]
        pictures = [[_read(folder / f"{v:05d}_{t:05d}.png", resolution) for t in range(frames)] for v in range(videos)]
    return torch.stack([torch.stack(video) for video in pictures])


def blender_python() -> str:
    """The Python that has ``bpy``: the environment's BLENDER_PYTHON, else this one."""
    return os.environ.get("BLENDER_PYTHON", sys.executable)


def describe_for_blender(scenes: Scenes, resolution: int, lens: float, samples: int = 64) -> dict[str, Any]:
    """Everything that the script needs, as plain numbers: lengths in Blender units, angles in rad, colours linear RGB."""
    return {
        "resolution": resolution,
        "lens": lens,
        "sensor": SENSOR,
        "samples": samples,
        "bounces": BOUNCES,
        "ambient": AMBIENT,
        "floor": FLOOR,
        "sun": {"direction": list(SUN), "strength": SUN_STRENGTH, "angle": SUN_ANGLE},
        "materials": PRINCIPLED,
        "scenes": [_scene(scenes, row) for row in range(len(scenes))],
    }


def _scene(scenes: Scenes, row: int) -> dict[str, Any]:
    present = (scenes.shape[row] >= 0).nonzero().squeeze(1).tolist()
    return {
        "frames": scenes.motion.positions.shape[1],
        "eye": scenes.eye[row].tolist(),
        "lamps": [
            {"position": place, "power": lamp.power, "colour": list(lamp.colour), "size": lamp.size}
            for lamp, place in zip(LAMPS, scenes.lamps[row].tolist(), strict=True)
        ],
        "objects": [
            {
                "shape": SHAPES[scenes.shape[row, n]],
                "half": scenes.half[row, n].item(),
                "rgb": scenes.rgb[row, n].tolist(),
                "material": MATERIALS[int(scenes.metal[row, n])],
                "yaw": scenes.yaw[row, n].item(),
                "centres": scenes.centres[row, :, n].tolist(),
            }
            for n in present
        ],
    }


def _run(python: str, folder: Path) -> None:
    command = [python, str(SCRIPT), str(folder / "scenes.json"), str(folder)]
    remedy = 'pip install "bpy>=4.2,<5.1" under Python 3.11, and name that Python in the environment as BLENDER_PYTHON'
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BlenderError(f"python={python} cannot be started ({error.strerror}); {remedy}") from error
    if result.returncode == NO_BPY:
        raise BlenderError(f"{python} has no Blender ({_last_lines(result.stderr, 1)}); {remedy}")
    if result.returncode:
        said = _last_lines(result.stderr or result.stdout, 8)
        raise BlenderError(f"Blender under {python} ended with status {result.returncode}; its last lines:\n{said}")


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def _read(path: Path, resolution: int) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise BlenderError(f"Blender left no readable frame {path.name} ({error})") from error
    if pixels.shape != (resolution, resolution, 3):
        raise BlenderError(f"Blender's frame {path.name} is {pixels.shape[1]} x {pixels.shape[0]} px, not {resolution}")
    return torch.from_numpy(pixels).permute(2, 0, 1)
