"""Which object of a video is its target, and where it goes: CLEVRER's files with other objects, no factors and no camera."""

import json
from dataclasses import replace

import pytest

from datasets.clevrer.annotations import describe, read_annotation
from datasets.clevrer.camera import to_floor
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.labels import ELSEWHERE, HARDLY_SEEN, NO_CANDIDATE, SEVERAL, STILL, Label, label_of
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer.world import RIGHT, linear_colour
from datasets.clevrer_files import ClevrerFilesConfig

OURS = ClevrerConfig(resolution=16, frames=4, nuisance="all")


def actor(shape, colour, velocity, seen=(0, 9)):
    """An object that moves at a velocity (along RIGHT, along AWAY), in view from one frame to another of 10."""
    return {"shape": shape, "color": colour, "velocity": velocity, "seen": seen}


def scene_of(actors, seconds=3.0):
    """A file in CLEVRER's keys of 10 frames."""
    frames = []
    for t in range(10):
        objects = []
        for n, one in enumerate(actors):
            along, away = (v * seconds * t / 9 for v in one["velocity"])
            place = [along * RIGHT[0] - away * RIGHT[1] + n, along * RIGHT[1] + away * RIGHT[0], 0.2]
            objects.append(
                {
                    "object_id": n,
                    "location": place,
                    "orientation": [0.0] * 3,
                    "velocity": [0.0] * 3,
                    "angular_velocity": [0.0] * 3,
                    "inside_camera_view": one["seen"][0] <= t <= one["seen"][1],
                }
            )
        frames.append({"frame_id": t, "objects": objects})
    properties = [
        {"object_id": n, "color": one["color"], "material": "metal", "shape": one["shape"]}
        for n, one in enumerate(actors)
    ]
    return {"object_property": properties, "motion_trajectory": frames, "collision": []}


def label(tmp_path, content):
    path = tmp_path / "annotation_0.json"
    path.write_text(json.dumps(content))
    return label_of(read_annotation(path), ClevrerFilesConfig().space, seconds=3.0, slowest=0.2, least_seen=0.5)


OTHERS = [actor("cylinder", "red", (1.0, 0.0)), actor("cube", "gray", (2.0, 1.0)), actor("sphere", "red", (0.0, 0.1))]


@pytest.mark.parametrize(
    ("actors", "expected"),
    [
        ([*OTHERS, actor("cube", "red", (-1.5, 0.4))], ((0, 0, 0), -1.5)),
        ([actor("sphere", "blue", (0.7, -0.4)), *OTHERS], ((1, 1, 1), 0.7)),
        ([actor("sphere", "blue", (0.7, -0.4), seen=(4, 8))], ((1, 1, 1), 0.7)),
        (OTHERS[:2], NO_CANDIDATE),
        ([], NO_CANDIDATE),
        (OTHERS, STILL),
        ([*OTHERS, actor("cube", "red", (1.0, 0.0)), actor("cube", "blue", (0.0, 1.0))], SEVERAL),
        ([actor("cube", "red", (1.0, 0.0), seen=(4, 7))], HARDLY_SEEN),
        ([actor("cube", "red", (1.0, 0.0), seen=(4, 4))], STILL),
        ([actor("cube", "red", (0.1, 1.0))], ELSEWHERE),
    ],
    ids=["left", "right", "enters", "none", "empty", "still", "several", "hardly", "once", "away"],
)
def test_the_target_is_the_one_that_moves(tmp_path, actors, expected):
    found = label(tmp_path, scene_of(actors))
    if isinstance(expected, str):
        assert found == expected
        return
    classes, speed = expected
    rgb = linear_colour(("red", "blue")[classes[1]])
    assert found == Label(classes, (*rgb, pytest.approx(speed)), 10)


def test_the_track_says_what_we_wrote_as_factors(tmp_path):
    """Without its factors a clip of ours gets the same classes, and the speed along the right of its own camera."""
    scenes = draw_scenes(replace(OURS, distractors=2, frames=10), 5, range(8))
    for row in range(8):
        content = describe(scenes, row, OURS)
        del content["factors"]
        path = tmp_path / f"{row}.json"
        path.write_text(json.dumps(content))
        found = label_of(read_annotation(path), OURS.space, OURS.seconds, slowest=0.2, least_seen=0.5)
        assert found.classes == tuple(scenes.classes[row].tolist())
        assert abs(found.values[3]) <= abs(scenes.values[row, 3].item()) + 1e-6
        assert found.values[3] == pytest.approx(scenes.values[row, 3].item(), rel=0.1)
        assert found.values[:3] == OURS.space.centre("".join(map(str, found.classes)))[:3]
        turned = to_floor(scenes.motion.velocities[row, 0, 0])[0].item()
        del content["camera"]
        path.write_text(json.dumps(content))
        found = label_of(read_annotation(path), OURS.space, OURS.seconds, slowest=0.2, least_seen=0.5)
        assert found.values[3] == pytest.approx(turned, abs=1e-6)
