"""Blender: what is written for it, what comes back, what is said where it fails; and how near our pictures are to its.

The last needs a Python with bpy: ``BLENDER_PYTHON=PATH pytest tests/datasets/clevrer/test_blender.py``.
"""

import ast
import importlib.util
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from datasets.clevrer.blender import SCRIPT, BlenderError, describe_for_blender, render_with_blender
from datasets.clevrer.comparison import Pair, compare, in_rubber, psnr, side_by_side, tabulate
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.render import render
from datasets.clevrer.scenes import draw_scenes
from datasets.clevrer.world import EYE, LAMPS, SUN

CONFIG = ClevrerConfig(resolution=16, frames=3, nuisance="all", distractors=1)
SCENES = draw_scenes(CONFIG, 5, range(4))


def has_bpy(python):
    return python and not subprocess.run([python, "-c", "import bpy"], capture_output=True, check=False).returncode


BLENDER = next(filter(has_bpy, [os.environ.get("BLENDER_PYTHON")]), None)


@pytest.fixture
def python(tmp_path):
    """A program in place of Python: called with a script of its own, given as text."""

    def make(code):
        program = tmp_path / "python"
        (tmp_path / "fake.py").write_text(code)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "fake.py"}" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    return make


# -- what is written ------------------------------------------------------------------------------------------------------


def test_the_file_has_every_object_where_it_is_and_as_it_looks():
    content = describe_for_blender(SCENES, 16, 45.0, samples=8)
    assert (content["resolution"], content["lens"], content["samples"]) == (16, 45.0, 8)
    for row, scene in enumerate(content["scenes"]):
        present = (SCENES.shape[row] >= 0).nonzero().squeeze(1).tolist()
        assert (scene["frames"], len(scene["objects"])) == (3, len(present))
        for n, entry in zip(present, scene["objects"], strict=True):
            assert entry["shape"] == ("sphere", "cube", "cylinder")[SCENES.shape[row, n]]
            assert entry["material"] == ("rubber", "metal")[int(SCENES.metal[row, n])]
            assert torch.equal(torch.tensor(entry["centres"], dtype=torch.float64), SCENES.centres[row, :, n])
            assert entry["half"] == pytest.approx(entry["centres"][0][2]), "objects stand on the floor"
            assert entry["rgb"] == SCENES.rgb[row, n].tolist(), "linear, as it is"
            assert entry["yaw"] == SCENES.yaw[row, n].item()


def test_the_file_has_the_camera_and_lamps_of_each_scene():
    content = describe_for_blender(SCENES, 16, 45.0)
    assert content["sun"]["direction"] == list(SUN)
    for row, scene in enumerate(content["scenes"]):
        assert scene["eye"] == SCENES.eye[row].tolist() != list(EYE)
        assert [lamp["position"] for lamp in scene["lamps"]] == SCENES.lamps[row].tolist()
        assert [lamp["power"] for lamp in scene["lamps"]] == [lamp.power for lamp in LAMPS]
        assert scene["lamps"][0]["colour"] == pytest.approx([255 / 255, 237 / 255, 208 / 255], abs=1e-3)


def test_the_script_needs_nothing_but_bpy_and_the_standard_library():
    roots = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.partition(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"bpy", "mathutils"}


# -- what comes back ------------------------------------------------------------------------------------------------------

PAINTER = """
import json, sys
from pathlib import Path
from PIL import Image
content, folder = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
for v, scene in enumerate(content["scenes"]):
    for t in range(scene["frames"]):
        side = content["resolution"]
        Image.new("RGB", (side, side), (10 * v, t, 200)).save(folder / f"{v:05d}_{t:05d}.png")
"""


def test_frames_come_back_in_their_order(python):
    frames = render_with_blender(SCENES, 16, 45.0, python(PAINTER))
    assert frames.shape == (4, 3, 3, 16, 16) and frames.dtype == torch.uint8
    assert frames[:, :, 0, 5, 5].tolist() == [[10 * v] * 3 for v in range(4)]
    assert frames[:, :, 1, 5, 5].tolist() == [[0, 1, 2]] * 4
    assert (frames[:, :, 2] == 200).all()


def test_nothing_is_left_behind(python, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = python(PAINTER)
    before = sorted(tmp_path.iterdir())
    render_with_blender(SCENES.rows(0, 1), 16, 45.0, program)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('a line\\nCycles is out of memory')", "status 1; its last lines:\n.*out of memory"),
        ("import os; os.abort()", "ended with status"),
        ("", r"left no readable frame 00000_00000.png"),
        (PAINTER.replace("(side, side)", "(side, 5)"), "is 16 x 5 px, not 16"),
        ("import sys; print('No module named bpy', file=sys.stderr); sys.exit(3)", r"has no Blender \(No module"),
    ],
    ids=["failed", "killed", "no frames", "wrong size", "no bpy"],
)
def test_what_went_wrong_is_told(python, code, said):
    with pytest.raises(BlenderError, match=f"(?s){said}"):
        render_with_blender(SCENES, 16, 45.0, python(code))


@pytest.mark.skipif(importlib.util.find_spec("bpy") is not None, reason="this Python has bpy")
def test_without_bpy_one_sentence_says_what_to_install():
    with pytest.raises(BlenderError, match=r'pip install "bpy>=4.2,<5.1" under Python 3.11') as caught:
        render_with_blender(SCENES, 16, 45.0)
    assert "\n" not in str(caught.value) and "BLENDER_PYTHON" in str(caught.value)


def test_a_python_that_is_not_there_is_told(tmp_path):
    with pytest.raises(BlenderError, match=r"nowhere cannot be started .*pip install"):
        render_with_blender(SCENES, 16, 45.0, str(tmp_path / "nowhere"))


# -- the comparison -------------------------------------------------------------------------------------------------------


def test_psnr_is_in_decibels():
    black = torch.zeros(4, dtype=torch.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)


def test_the_table_tells_objects_from_the_floor():
    videos = render(SCENES, CONFIG.resolution, CONFIG.lens)
    theirs = videos.frames + (videos.segmentation > 0).unsqueeze(2)
    table = tabulate(Pair("as drawn", SCENES, videos, theirs))
    assert table.composition.tolist() == ["000", "001", "010", "011"]
    assert table.metal.tolist() == SCENES.metal[:, 0].tolist()
    assert (table.object_psnr < table.psnr).all() and table.object_psnr.tolist() == pytest.approx([48.13] * 4, abs=0.01)
    assert side_by_side(videos.frames, theirs).size == (3 * 16 * 3, 4 * 16 * 3)


def test_in_rubber_only_the_material_differs():
    rubber = in_rubber(SCENES)
    assert SCENES.metal.any() and not rubber.metal.any()
    assert torch.equal(rubber.centres, SCENES.centres)


def test_both_materials_are_compared(python):
    table = compare(CONFIG, 5, 2, python(PAINTER))
    assert table.material.tolist() == ["rubber"] * 2 + ["as drawn"] * 2


@pytest.mark.skipif(BLENDER is None, reason="BLENDER_PYTHON names no Python that has bpy")
def test_rubber_looks_as_in_blender():
    config = replace(ClevrerConfig(), frames=2)
    table = compare(config, 3, 6, BLENDER, samples=32)  # cubes of both colours, and spheres
    rubber = table[table.material == "rubber"]
    assert (rubber.psnr >= 33).all(), table.to_string()
    assert (rubber.object_psnr >= 25).all(), table.to_string()
