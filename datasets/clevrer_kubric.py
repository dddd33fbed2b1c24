"""CLEVRER-Kubric: short videos of one cube or sphere, red or blue, that slides to the left or to the right.

After the videos of Farid et al. 2025, whose generator, resolution and number of frames are not public: CLEVR's shapes,
colours and materials under Kubric's camera and lamps, drawn by the scenes and the ray tracer of ``datasets.clevrer``.
Digits of a composition: shape, colour, direction. Values, V = 4: linear r, g, b of the material in [0, 1], and the speed
in units a second, negative to the left; shape has none. What varies besides follows with ``tell_nuisances``.

Direction is a property of time alone: position at mid-clip is drawn without it, and speed is constant, so that a clip to
the right played backwards is a draw of a clip to the left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.base import CompositionalDataModule, dataset
from datasets.clevrer.blender import blender_python, render_with_blender
from datasets.clevrer.config import ClevrerConfig
from datasets.clevrer.render import render
from datasets.clevrer.scenes import Scenes, draw_scenes
from datasets.clevrer.world import AWAY, EYE, HALF, RIGHT, SHAPES, half_extent
from datasets.factors import Composition, Factor, FactorSpace, seed_for


@dataclass
class ClevrerKubricConfig(ClevrerConfig):
    """What may vary in a video, what of it the model is told, and how many videos there are."""

    tell_nuisances: bool = (
        False  # whether the model is told what varies besides the factors; paper A tells factors alone
    )
    renderer: str = (
        "analytic"  # analytic: our ray tracer; blender: Cycles, from the extra of that name, 100 times slower
    )
    train_per_composition: int = 1250  # videos for tokenizers and generators
    probe_per_composition: int = 500  # videos for training judges
    test_per_composition: int = 256  # videos held out from everybody

    @property
    def space(self) -> FactorSpace:
        """Shape, colour and direction; nuisances that vary as factors of one class, where the model is told them."""
        centres = self.nuisance_centres()
        told = [Factor(name, ("any",), (centres[name],)) for name in self.nuisances if self.tell_nuisances]
        return FactorSpace((*super().space.factors, *told))

    def validate(self) -> None:
        """Refuse what cannot be drawn or judged; raises ValueError, naming the key and the remedy."""
        super().validate()
        if self.renderer not in ("analytic", "blender"):
            raise ValueError(f"dataset.clevrer_kubric.renderer={self.renderer} is unknown; use analytic or blender")
        for key in ("train_per_composition", "probe_per_composition", "test_per_composition"):
            if getattr(self, key) < 1:
                raise ValueError(f"dataset.clevrer_kubric.{key}={getattr(self, key)}: use 1 or more")


@dataset("clevrer_kubric", ClevrerKubricConfig)
class ClevrerKubric(CompositionalDataModule):
    """Videos (T, C, H, W); video ``i`` of a part shows composition ``i`` modulo their number."""

    config: ClevrerKubricConfig
    block = 64  # videos drawn at once: a second or two of one core
    parallel = True

    def __init__(self, config: ClevrerKubricConfig, seed: int, folder: Path) -> None:
        config.validate()
        super().__init__(config, seed, folder)
        # The analytic judge follows one object that slides at constant speed.
        company = config.distractors or config.collisions or config.friction
        self.strict_judge = "" if company or config.frames < 4 else "clips"

    @property
    def space(self) -> FactorSpace:
        return self.config.space

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.config.frames, 3, self.config.resolution, self.config.resolution

    def judge_geometry(self) -> dict[str, Any]:
        """How videos look, and where the camera stands.

        ``half_heights`` are those of a cube and of a sphere of radius 1; ``right`` and ``away`` are the directions on the
        floor that the camera sees as image-right and as away from it.
        """
        drawn = {key: value for key, value in asdict(self.config).items() if not key.endswith("_per_composition")}
        classes = self.space.factors[0].classes
        return {
            **drawn,
            "eye": list(EYE),
            "half_extent": half_extent(self.config.lens),
            "half_heights": {name: HALF[SHAPES.index(name)] for name in classes},
            "right": list(RIGHT),
            "away": list(AWAY),
        }

    def scenes(self, part: str, start: int, stop: int) -> Scenes:
        """The scenes behind videos ``start`` to ``stop`` of a part."""
        return draw_scenes(self.config, seed_for(self.seed, self.name, part), range(start, stop))

    def draw_block(self, part: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
        scenes = self.scenes(part, block * self.block, (block + 1) * self.block)
        size = self.config.resolution, self.config.lens
        blender = self.config.renderer == "blender"
        frames = render_with_blender(scenes, *size, blender_python()) if blender else render(scenes, *size).frames
        return frames, self._told_values(scenes), self._told_classes(scenes)

    def draw_values(self, composition: Composition, count: int, generator: torch.Generator) -> Tensor:
        classes = torch.tensor([self.space.controlled.class_indices(composition)]).expand(count, -1)
        seed = int(torch.randint(2**62, (), generator=generator))
        return self._told_values(draw_scenes(self.config, seed, range(count), classes))

    def compare_renderers(self, folder: Path, count: int) -> str:
        """Render some scenes by both renderers and write ``renderers.csv`` and ``renderers.png``; the table as text.

        Raises:
            BlenderError: there is no Blender, or it failed.
        """
        from datasets.clevrer.comparison import write_comparison

        table = write_comparison(folder, self.config, self.seed, count, blender_python())
        return table.round(1).to_string(index=False)

    def _told_values(self, scenes: Scenes) -> Tensor:
        """What the model is told of scenes, as ``space`` lists it: (B, V)."""
        told = {factor.name for factor in self.space.factors[self.space.controlled.num_factors :]}
        kept = [name in told for name, centre in self.config.nuisance_centres().items() for _ in centre]
        return torch.cat([scenes.values, scenes.nuisances[:, torch.tensor(kept)]], 1)

    def _told_classes(self, scenes: Scenes) -> Tensor:
        """(B, F); nuisances have one class."""
        return F.pad(scenes.classes, (0, self.space.num_factors - scenes.classes.shape[1]))
