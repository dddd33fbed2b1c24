"""What may vary in a video of CLEVRER-Kubric, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from datasets.clevrer.world import DISTANCE, ELEVATION, half_extent, linear_colour
from datasets.factors import Factor, FactorSpace

if TYPE_CHECKING:
    from torch import Tensor

# Everything that varies besides the factors and says nothing of them.
ON_THE_FLOOR = ("position", "depth", "heading", "size", "yaw", "material")
NUISANCES = (*ON_THE_FLOOR, "lights", "camera")
YAW = 0.4  # rad, where yaw does not vary: two sides of a cube are seen
Number = TypeVar("Number", float, "Tensor")


@dataclass
class ClevrerConfig:
    """The defaults are 16 frames of 64 px; at 8 frames of 32 px shapes are told apart with ``radius=0.95, depth_jitter=0.8``.

    With an even number of frames none is at mid-clip: only the two middle ones together, like all frames together, say
    nothing of the direction; either alone lies a little before or after the middle of the path.
    """

    resolution: int = 64  # px; the paper preset's
    frames: int = 16  # a clip
    seconds: float = 1.25  # from the first frame to the last: 12 frames a second at 16 (MOVi-A), at 8 the same path
    lens: float = 45.0  # mm; Kubric has 35, which leaves objects 5 to 12 px wide at 64 px
    radius: float = 0.7  # of a sphere, CLEVR's large size; cubes and cylinders are as large to the eye
    radius_jitter: float = 0.08  # uniform +-; our choice: about a tenth
    speed_slow: float = 1.2  # units a second; the slowest clip still moves by two radii
    speed_fast: float = 2.4  # units a second; the fastest one crosses a third of the image
    colour_jitter: float = 0.05  # uniform +- per channel of the linear RGB, clipped to [0, 1]; our choice
    depth_jitter: float = 1.2  # units towards and away from the camera, uniform +-
    heading_jitter: float = 0.25  # rad, uniform +-: how far the path turns away from image-right
    lamp_jitter: float = 1.0  # units per axis, uniform +-, the three lamps; CLEVR
    camera_jitter: float = 0.5  # units per axis, uniform +-; CLEVR
    nuisance: str = "default"  # none | default (all but lights and camera) | all | names with commas: position,yaw
    distractors: int = 0  # cylinders of other colours that pass by, at most 4; fewer where there is no room
    collisions: bool = False  # the target runs into a cylinder; the label is its initial direction
    friction: float = 0.0  # of the floor; 0 keeps speeds constant, so that only the order of frames tells the direction

    @property
    def space(self) -> FactorSpace:
        """Shape, colour and direction, in digit order; the value behind a direction is a signed speed."""
        middle = (self.speed_slow + self.speed_fast) / 2
        return FactorSpace(
            (
                Factor("shape", ("cube", "sphere")),
                Factor("colour", ("red", "blue"), (linear_colour("red"), linear_colour("blue"))),
                Factor("direction", ("left", "right"), ((-middle,), (middle,))),
            )
        )

    def nuisance_centres(self) -> dict[str, tuple[float, ...]]:
        """The numbers behind each nuisance where it does not vary, in the order in which `Scenes.nuisances` has them.

        Position and depth in units at mid-clip, heading in rad, the radius, cosine and sine of the yaw, 1 for metal, and
        by how much lamps and camera are moved.
        """
        return {
            "position": (0.0,),
            "depth": (0.0,),
            "heading": (0.0,),
            "size": (self.radius,),
            "yaw": (math.cos(YAW), math.sin(YAW)),
            "material": (0.0,),
            "lights": (0.0,) * 9,
            "camera": (0.0,) * 3,
        }

    @property
    def nuisances(self) -> tuple[str, ...]:
        """The nuisances that vary."""
        named = {"none": (), "default": ON_THE_FLOOR, "all": NUISANCES}
        if self.nuisance in named:
            return named[self.nuisance]
        return tuple(name.strip() for name in self.nuisance.split(","))

    def spread(self, nuisance: str, width: float) -> float:
        """``width`` where the nuisance varies, else 0."""
        return width if nuisance in self.nuisances else 0.0

    @property
    def largest(self) -> float:
        """The largest radius, which is also the floor's radius of a disc that holds any of the shapes."""
        return self.radius + self.spread("size", self.radius_jitter)

    def room(self, away: Number, radius: Number) -> Number:
        """How far along RIGHT an object may stand from the middle and be seen whole, at a distance AWAY."""
        # A camera moved by c along each axis stands nearer by at most |c| and looks at the floor from another side.
        jitter = self.spread("camera", self.camera_jitter)
        depth = DISTANCE - math.sqrt(3) * jitter + away * math.cos(ELEVATION) - radius * math.sin(ELEVATION)
        turned = math.sqrt(2) * jitter / DISTANCE * abs(away)
        return depth * half_extent(self.lens) - 1.06 * radius - turned  # a sphere's outline is wider off the middle

    @property
    def nearest(self) -> float:
        """The smallest distance AWAY that the target comes to."""
        tilt = math.sin(self.spread("heading", self.heading_jitter)) * self.speed_fast * self.seconds / 2
        return -self.spread("depth", self.depth_jitter) - tilt

    @property
    def slack(self) -> float:
        """How far the middle of the path may lie from the image's, +-, such that the fastest clip stays in view.

        It is the same for all speeds: the position at mid-clip then says nothing of the velocity.
        """
        return self.room(self.nearest, self.largest) - self.speed_fast * self.seconds / 2

    def validate(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: naming the key and the remedy.
        """
        for key in ("radius_jitter", "colour_jitter", "depth_jitter", "heading_jitter", "lamp_jitter", "camera_jitter"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "use 0 or more")
        _require(self.resolution >= 8, "resolution", self.resolution, "use 8 or more")
        _require(self.frames >= 2, "frames", self.frames, "use 2 or more, for one frame has no direction")
        for key in ("seconds", "lens", "radius", "speed_slow"):
            _require(getattr(self, key) > 0, key, getattr(self, key), "use more than 0")
        _require(self.colour_jitter < 0.25, "colour_jitter", self.colour_jitter, "red meets blue; use less than 0.25")
        _require(self.radius_jitter < self.radius, "radius_jitter", self.radius_jitter, "use less than radius")
        _require(self.speed_slow <= self.speed_fast, "speed_fast", self.speed_fast, "use speed_slow or more")
        _require(self.friction >= 0, "friction", self.friction, "use 0 or more")
        _require(0 <= self.distractors <= 4, "distractors", self.distractors, "use 0 to 4")
        clear = not self.distractors or not (self.collisions or self.friction)
        remedy = "use 0 with collisions or friction, where the target could hit them"
        _require(clear, "distractors", self.distractors, remedy)
        unknown = [name for name in self.nuisances if name not in NUISANCES]
        remedy = f"use none, default, all, or some of {', '.join(NUISANCES)} with commas"
        _require(not unknown, "nuisance", self.nuisance, remedy)
        _require(self.lamp_jitter <= 1.5, "lamp_jitter", self.lamp_jitter, "lamps would meet objects; use at most 1.5")
        _require(self.camera_jitter <= 1.5, "camera_jitter", self.camera_jitter, "use at most 1.5")
        _require(self.depth_jitter <= 2.5, "depth_jitter", self.depth_jitter, "use at most 2.5")
        remedy = f"objects leave the image by {-self.slack:.2f} units; use a smaller speed, radius or lens"
        _require(self.slack >= 0, "speed_fast", self.speed_fast, remedy)


def _require(condition: bool, key: str, value: float | str, remedy: str) -> None:
    if not condition:
        shown = value if isinstance(value, str) else f"{value:g}"
        raise ValueError(f"dataset.clevrer_kubric.{key}={shown}: {remedy}")
