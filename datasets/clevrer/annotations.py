"""What happens in a video, in the JSON keys of CLEVRER's annotations: tracks of objects, their pixels, collisions.

The keys ``scene_index``, ``video_filename``, ``object_property``, ``motion_trajectory`` and ``collision`` are CLEVRER's, so
its own files are read too. Ours add ``camera``, without which a track has no pixels, and ``factors``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.clevrer.camera import project
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.scenes import Scenes
from datasets.clevrer.world import COLOURS, MATERIALS, SHAPES

VECTORS = ("location", "orientation", "velocity", "angular_velocity")


class AnnotationError(ValueError):
    """A file of annotations is missing, truncated, or something else."""


@dataclass
class Camera:
    """Where the video was seen from; it looks at the origin."""

    eye: Tensor  # (3,) float64
    lens: float  # mm
    resolution: int  # px


@dataclass
class Collision:
    """Two objects that touch for the first time."""

    object_ids: tuple[int, int]
    frame: int
    location: tuple[float, float, float]


@dataclass
class Annotation:
    """N objects over T frames; lengths in Blender units, angles in rad, float64."""

    object_ids: list[int]
    colours: list[str]
    materials: list[str]
    shapes: list[str]
    location: Tensor  # (T, N, 3) centres; NaN where a frame does not list an object
    orientation: Tensor  # (T, N, 3) about x, y and z
    velocity: Tensor  # (T, N, 3) a second
    angular_velocity: Tensor  # (T, N, 3) a second
    in_view: Tensor  # (T, N) bool
    collisions: list[Collision]
    camera: Camera | None = None  # CLEVRER's files have none
    classes: tuple[int, ...] = ()  # of the factors; empty in CLEVRER's files
    values: tuple[float, ...] = ()

    def pixels(self) -> Tensor:
        """Where the centres fall in the image: (T, N, 2), x to the right and y downwards.

        Raises:
            AnnotationError: the file tells no camera.
        """
        if self.camera is None:
            raise AnnotationError("these annotations tell no camera; add the key camera with eye, lens and resolution")
        return project(self.location, self.camera.eye, self.camera.lens, self.camera.resolution)


def describe(scenes: Scenes, row: int, config: ClevrerConfig, index: int = 0) -> dict[str, Any]:
    """One scene in CLEVRER's keys; an object's id is its place among the scene's objects.

    Args:
        scenes: as drawn.
        row: which of them.
        config: that they were drawn with.
        index: the number of the video.
    """
    present = (scenes.shape[row] >= 0).nonzero().squeeze(1).tolist()
    return {
        "scene_index": index,
        "video_filename": f"video_{index:05d}",
        "object_property": [
            {
                "object_id": n,
                "color": list(COLOURS)[scenes.colour[row, n]],
                "material": MATERIALS[int(scenes.metal[row, n])],
                "shape": SHAPES[scenes.shape[row, n]],
            }
            for n in present
        ],
        "motion_trajectory": _trajectory(scenes, row, present, config),
        "collision": _contacts(scenes, row, present, config),
        "camera": {"eye": scenes.eye[row].tolist(), "lens": config.lens, "resolution": config.resolution},
        "factors": {"classes": scenes.classes[row].tolist(), "values": scenes.values[row].tolist()},
    }


def write_annotation(path: Path, scenes: Scenes, row: int, config: ClevrerConfig, index: int = 0) -> None:
    """Write one scene, whole or not at all; arguments as for :func:`describe`."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(describe(scenes, row, config, index)) + "\n")
    os.replace(unfinished, path)


def read_annotation(path: Path) -> Annotation:
    """Read annotations, ours or CLEVRER's.

    Raises:
        AnnotationError: one sentence that says what is wrong with the file and what to do.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} is missing; copy it to there or generate it again") from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} ends early or is no JSON ({error}); copy or generate it again") from error
    if not isinstance(content, dict) or not {"object_property", "motion_trajectory", "collision"} <= content.keys():
        raise AnnotationError(
            f"{path} is no annotation of CLEVRER; give a file with object_property, motion_trajectory and collision"
        )
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise AnnotationError(
            f"{path} is not as CLEVRER's annotations are ({what}); copy or generate it again"
        ) from error


def _trajectory(scenes: Scenes, row: int, present: list[int], config: ClevrerConfig) -> list[dict[str, Any]]:
    centres, velocities = scenes.centres[row], scenes.motion.velocities[row]  # (T, N, 3), (T, N, 2)
    pixels = project(centres, scenes.eye[row], config.lens, config.resolution)
    inside = ((pixels >= 0) & (pixels <= config.resolution)).all(-1)
    return [
        {
            "frame_id": frame,
            "objects": [
                {
                    "object_id": n,
                    "location": centres[frame, n].tolist(),
                    "orientation": [0.0, 0.0, scenes.yaw[row, n].item()],
                    "velocity": [*velocities[frame, n].tolist(), 0.0],
                    "angular_velocity": [0.0, 0.0, 0.0],
                    "inside_camera_view": bool(inside[frame, n]),
                }
                for n in present
            ],
        }
        for frame in range(len(centres))
    ]


def _contacts(scenes: Scenes, row: int, present: list[int], config: ClevrerConfig) -> list[dict[str, Any]]:
    motion, half = scenes.motion, scenes.half[row]
    contacts = []
    for i in present:
        for j in (n for n in present if n > i and motion.contact_frames[row, i, n] >= 0):
            frame = min(round(motion.contact_frames[row, i, j].item()), config.frames - 1)
            height = torch.minimum(half[i], half[j]).item()  # both discs reach there
            location = [*motion.contact_points[row, i, j].tolist(), height]
            contacts.append({"object_ids": [i, j], "frame_id": frame, "location": location})
    return sorted(contacts, key=lambda contact: contact["frame_id"])


def _parse(content: dict[str, Any]) -> Annotation:
    properties = content["object_property"]
    ids = [int(entry["object_id"]) for entry in properties]
    places = {object_id: place for place, object_id in enumerate(ids)}
    frames = content["motion_trajectory"]
    if not frames:
        raise ValueError("motion_trajectory is empty")
    tracks = {key: torch.full((len(frames), len(ids), 3), torch.nan, dtype=torch.float64) for key in VECTORS}
    in_view = torch.zeros(len(frames), len(ids), dtype=torch.bool)
    for t, frame in enumerate(frames):
        if frame["frame_id"] != t:
            raise ValueError(f"frame {t} is missing from motion_trajectory")
        for entry in frame["objects"]:
            n = places[entry["object_id"]]
            in_view[t, n] = bool(entry["inside_camera_view"])
            for key in VECTORS:
                tracks[key][t, n] = torch.tensor(_vector(entry, key), dtype=torch.float64)
    factors = content.get("factors", {})
    return Annotation(
        object_ids=ids,
        colours=[str(entry["color"]) for entry in properties],
        materials=[str(entry["material"]) for entry in properties],
        shapes=[str(entry["shape"]) for entry in properties],
        **tracks,
        in_view=in_view,
        collisions=[_collision(entry, places) for entry in content["collision"]],
        camera=_camera(content["camera"]) if "camera" in content else None,
        classes=tuple(int(c) for c in factors.get("classes", ())),
        values=tuple(float(v) for v in factors.get("values", ())),
    )


def _collision(entry: dict[str, Any], places: dict[int, int]) -> Collision:
    first, second = (int(object_id) for object_id in entry["object_ids"])
    if first not in places or second not in places:
        raise ValueError(f"objects {first} and {second} collide, but are not both in object_property")
    return Collision((first, second), int(entry["frame_id"]), _vector(entry, "location"))


def _camera(entry: dict[str, Any]) -> Camera:
    return Camera(
        torch.tensor(_vector(entry, "eye"), dtype=torch.float64), float(entry["lens"]), int(entry["resolution"])
    )


def _vector(entry: dict[str, Any], key: str) -> tuple[float, float, float]:
    numbers = entry[key]
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise ValueError(f"{key} is {numbers!r} instead of three numbers")
    x, y, z = (float(number) for number in numbers)
    return x, y, z
