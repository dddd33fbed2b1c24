"""Run by a Python that has ``bpy``: renders the scenes of a JSON file with Cycles, one PNG a frame.

Nothing but the standard library and ``bpy``, which is GPL and wants an old numpy: the two programs share a file format and
no process. ``datasets.clevrer.blender`` writes the file, says what its keys mean, and reads the frames back.

    python blender_script.py scenes.json FOLDER

Ends with status 3 where ``bpy`` cannot be imported.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

NO_BPY = 3
SEGMENTS = 128  # of a circle: its outline is off by less than a thousandth of the radius

try:
    import bpy
    from mathutils import Vector
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(NO_BPY)


def main(scene_file: Path, folder: Path) -> None:
    """Render every frame of every scene as ``VIDEO_FRAME.png``, both with five digits."""
    content = json.loads(scene_file.read_text())
    for video, scene in enumerate(content["scenes"]):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        _configure(content)
        _surround(content, scene)
        solids = [_solid(entry, content["materials"]) for entry in scene["objects"]]
        for frame in range(scene["frames"]):
            for solid, entry in zip(solids, scene["objects"], strict=True):
                solid.location = entry["centres"][frame]
            bpy.context.scene.render.filepath = str(folder / f"{video:05d}_{frame:05d}.png")
            bpy.ops.render.render(write_still=True)


def _configure(content: dict[str, Any]) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = content["resolution"]
    scene.render.resolution_percentage = 100
    scene.render.use_persistent_data = True  # between the frames of a scene
    scene.render.dither_intensity = 0.0
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.view_settings.view_transform = "Standard"  # sRGB and no film's curve
    scene.view_settings.look = "None"
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples = content["samples"]
    cycles.use_adaptive_sampling = False
    cycles.max_bounces = content["bounces"]
    cycles.seed = 0
    cycles.use_denoising = False
    with suppress(TypeError, AttributeError):  # some builds have no OpenImageDenoise
        cycles.denoiser = "OPENIMAGEDENOISE"
        cycles.use_denoising = True


def _surround(content: dict[str, Any], scene: dict[str, Any]) -> None:
    """Camera, lights, surroundings and floor."""
    camera = bpy.data.cameras.new("camera")
    camera.lens, camera.sensor_width = content["lens"], content["sensor"]
    bpy.context.scene.camera = _facing_origin("camera", camera, scene["eye"])
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle = content["sun"]["strength"], content["sun"]["angle"]
    _facing_origin("sun", sun, content["sun"]["direction"])
    for index, entry in enumerate(scene["lamps"]):
        lamp = bpy.data.lights.new(f"lamp {index}", "AREA")
        lamp.shape, lamp.size = "SQUARE", entry["size"]
        lamp.energy, lamp.color = entry["power"], entry["colour"]
        _facing_origin(lamp.name, lamp, entry["position"])
    world = bpy.data.worlds.new("world")
    bpy.context.scene.world = world
    world.use_nodes = True
    background = world.node_tree.nodes.get("Background") or world.node_tree.nodes.new("ShaderNodeBackground")
    background.inputs["Color"].default_value = (*[content["ambient"]] * 3, 1.0)
    background.inputs["Strength"].default_value = 1.0
    bpy.ops.mesh.primitive_plane_add(size=2000)
    bpy.context.object.data.materials.append(_material([content["floor"]] * 3, content["materials"]["floor"]))


def _facing_origin(name: str, data: Any, position: list[float]) -> Any:
    thing = bpy.data.objects.new(name, data)
    thing.location = position
    thing.rotation_mode = "QUATERNION"
    thing.rotation_quaternion = (-Vector(position)).to_track_quat("-Z", "Y")
    bpy.context.scene.collection.objects.link(thing)
    return thing


def _solid(entry: dict[str, Any], materials: dict[str, Any]) -> Any:
    """A sphere, cube or cylinder of some half height, turned by its yaw."""
    half = entry["half"]
    if entry["shape"] == "sphere":
        bpy.ops.mesh.primitive_uv_sphere_add(radius=half, segments=SEGMENTS, ring_count=SEGMENTS // 2)
    elif entry["shape"] == "cube":
        bpy.ops.mesh.primitive_cube_add(size=2 * half)
    else:
        bpy.ops.mesh.primitive_cylinder_add(radius=half, depth=2 * half, vertices=SEGMENTS)
    solid = bpy.context.object
    for polygon in solid.data.polygons:
        flat = entry["shape"] == "cube" or (entry["shape"] == "cylinder" and abs(polygon.normal.z) > 0.5)
        polygon.use_smooth = not flat
    if entry["shape"] == "cylinder":  # or the lids' normals would bend those of the side
        solid.data.set_sharp_from_angle(angle=math.radians(40))
    solid.rotation_euler = (0.0, 0.0, entry["yaw"])
    solid.data.materials.append(_material(entry["rgb"], materials[entry["material"]]))
    return solid


def _material(rgb: list[float], properties: dict[str, float]) -> Any:
    """A Principled BSDF; ``rgb`` is linear, as Blender's sockets are."""
    material = bpy.data.materials.new("material")
    material.use_nodes = True
    sockets = material.node_tree.nodes["Principled BSDF"].inputs
    sockets["Base Color"].default_value = (*rgb, 1.0)
    sockets["Metallic"].default_value = properties["metallic"]
    sockets["Roughness"].default_value = properties["roughness"]
    sockets["IOR"].default_value = properties["ior"]
    sockets["Specular IOR Level"].default_value = properties["specular"]
    return material


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
