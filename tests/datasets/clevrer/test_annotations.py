"""CLEVRER's JSON: what is written is read back, and anything else is told in one sentence."""

import json

import pytest
import torch

from datasets.clevrer.annotations import AnnotationError, describe, read_annotation, write_annotation
from datasets.clevrer.camera import project
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.scenes import draw_scenes

CONFIG = ClevrerConfig(nuisance="all", collisions=True)
SCENES = draw_scenes(CONFIG, 7, range(3))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "annotation_00001.json"
    write_annotation(path, SCENES, 1, CONFIG, index=1)
    return path


def test_what_is_written_is_read_back(file):
    found = read_annotation(file)
    assert (found.object_ids, found.shapes[1]) == ([0, 1], "cylinder")
    assert found.colours[0] == ("red", "blue")[SCENES.classes[1, 1]]
    assert found.materials[0] == ("rubber", "metal")[int(SCENES.metal[1, 0])]
    assert torch.equal(found.location, SCENES.centres[1])
    assert torch.equal(found.velocity[..., :2], SCENES.motion.velocities[1])
    assert torch.equal(found.orientation[..., 2], SCENES.yaw[1].expand(CONFIG.frames, 2))
    assert not found.angular_velocity.any() and found.in_view.all()
    assert found.classes == tuple(SCENES.classes[1].tolist())
    assert found.values == pytest.approx(SCENES.values[1].tolist())
    expected = project(SCENES.centres[1], SCENES.eye[1], CONFIG.lens, CONFIG.resolution)
    assert torch.equal(found.pixels(), expected)
    assert [p.name for p in file.parent.iterdir()] == [file.name], "nothing unfinished is left behind"


def test_the_collision_is_where_and_when_the_objects_touch(file):
    (collision,) = read_annotation(file).collisions
    assert collision.object_ids == (0, 1)
    assert abs(collision.frame - SCENES.motion.contact_frames[1, 0, 1]) <= 0.5
    contact = torch.tensor(collision.location[:2], dtype=torch.float64)
    distance = (SCENES.motion.positions[1, collision.frame] - contact).norm(dim=-1)
    assert (distance < SCENES.radius[1] + 0.15).all(), "a frame is .08 s long"


def test_the_keys_are_clevrers():
    content = describe(SCENES, 0, CONFIG)
    assert {"scene_index", "video_filename", "object_property", "motion_trajectory", "collision"} <= content.keys()
    assert content["object_property"][0].keys() == {"object_id", "color", "material", "shape"}
    entry = content["motion_trajectory"][3]
    assert entry["frame_id"] == 3
    vectors = {"location", "orientation", "velocity", "angular_velocity"}
    assert entry["objects"][0].keys() == {"object_id", "inside_camera_view"} | vectors
    assert content["collision"][0].keys() == {"object_ids", "frame_id", "location"}


def test_absent_objects_are_left_out():
    config = ClevrerConfig(distractors=2)
    scenes = draw_scenes(config, 7, range(1))
    scenes.shape[0, 1] = -1
    content = describe(scenes, 0, config)
    assert [entry["object_id"] for entry in content["object_property"]] == [0, 2]


def test_clevrers_own_files_have_tracks_but_no_pixels(file):
    content = json.loads(file.read_text())
    del content["camera"], content["factors"]
    content["motion_trajectory"][0]["objects"].pop()  # not listed in one frame
    file.write_text(json.dumps(content))
    found = read_annotation(file)
    assert found.location[0, 1].isnan().all() and not found.in_view[0, 1]
    assert found.classes == ()
    with pytest.raises(AnnotationError, match="add the key camera"):
        found.pixels()


def broken(content, how):
    trajectory = content["motion_trajectory"]
    if how == "another dataset":
        return {"images": [], "annotations": []}
    if how == "a list":
        return [content]
    if how == "no frames":
        trajectory.clear()
    if how == "a frame is missing":
        del trajectory[4]
    if how == "two numbers":
        trajectory[2]["objects"][0]["location"].pop()
    if how == "words":
        trajectory[2]["objects"][0]["location"] = "here"
    if how == "a key is missing":
        del trajectory[2]["objects"][0]["velocity"]
    if how == "an unknown object":
        trajectory[2]["objects"][0]["object_id"] = 9
    if how == "an unknown collider":
        content["collision"][0]["object_ids"] = [0, 7]
    if how == "half a camera":
        del content["camera"]["lens"]
    return content


HOW = ["another dataset", "a list", "no frames", "a frame is missing", "two numbers", "words", "a key is missing"]
HOW += ["an unknown object", "an unknown collider", "half a camera"]


@pytest.mark.parametrize("how", HOW)
def test_a_foreign_file_is_told_in_one_sentence(file, how):
    file.write_text(json.dumps(broken(json.loads(file.read_text()), how)))
    with pytest.raises(AnnotationError) as caught:
        read_annotation(file)
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    assert "generate it again" in message or "give a file with" in message


@pytest.mark.parametrize("kept", [0, 1, 500, -10])
def test_a_truncated_file_is_told_in_one_sentence(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(AnnotationError, match="ends early or is no JSON") as caught:
        read_annotation(file)
    assert "\n" not in str(caught.value)


def test_binary_and_missing_files_too(file):
    file.write_bytes(b"\xff\xd8\xff\xe0 not text")
    with pytest.raises(AnnotationError, match="no JSON"):
        read_annotation(file)
    with pytest.raises(AnnotationError, match=r"missing.json is missing; copy it to there"):
        read_annotation(file.with_name("missing.json"))
