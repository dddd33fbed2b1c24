"""StrictFeatures: the strict judge of images that nobody can measure: the trained judge, and two reasons to reject.

An image is rejected when it is farther from real images, in the judge's features, than held-out real ones are; and when a
network that has seen blends, blurs and the like takes it for one of them. Each threshold leaves .995 of held-out real
images, so that together they leave .99. Both are set once, before any generated image was judged.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from datasets.factors import seed_for
from probes.detector import Detector, train_detector
from probes.judgement import Judgement, Reason, first_reason
from probes.linear import LinearProbe, as_float
from probes.negative_images import NegativeImages

VERSION = "features-1"
LEAVES = 0.995  # share of held-out real images that each of the two thresholds leaves
GALLERY = 500  # real images of a composition that others are compared with
LESSONS = 1000  # of a composition that the detector learns from; with negatives of them all are kept in memory
NEGATIVES = 512  # of each kind, to measure how many are accepted
CHUNK = 256  # distances computed at once


class StrictFeatures:
    """The strict judge by the trained judge's features.

    Args:
        probe: reads the classes; its features are compared.
        gallery: (M, D) features of real images.
        detector: tells real images from negatives.
        farthest: greatest distance to the nearest of the gallery.
        least_odds: least log odds of being real.
    """

    name = "strict"
    version = VERSION

    def __init__(
        self, probe: LinearProbe, gallery: Tensor, detector: Detector, farthest: float, least_odds: float
    ) -> None:
        self.probe, self.gallery, self.detector = probe, gallery, detector
        self.farthest, self.least_odds = farthest, least_odds

    def judge(self, images: Tensor) -> Judgement:
        """Read images (B, C, H, W) in [-1, 1]; values beyond are clipped."""
        read = self.probe.judge(images)
        measured = {"distance": self.distance(images), "odds": self.detector.odds(images)}
        reasons = first_reason(
            {
                Reason.FAR_FROM_REAL: ~(measured["distance"] <= self.farthest),  # also catches NaN
                Reason.DISTORTED: ~(measured["odds"] >= self.least_odds),
            }
        )
        return Judgement(
            self.name, read.classes, reasons == Reason.NONE, reasons, logits=read.logits, measurements=measured
        )

    def distance(self, images: Tensor) -> Tensor:
        """From the nearest real image in the judge's features, (B,), on the CPU."""
        return nearest(self.probe.embed(images), self.gallery).cpu()

    def accepted(self, images: Tensor) -> float:
        """Share of images that are accepted, whatever is read from them."""
        return float(self.judge(images).accepted.float().mean())

    def save(self, path: Path) -> None:
        """Write all but the probe to a safetensors file."""
        tensors = {f"detector.{name}": value for name, value in self.detector.state_dict().items()}
        numbers = {"farthest": self.farthest, "least_odds": self.least_odds}
        kinds = self.detector.head.out_features - 1
        metadata = {"version": VERSION, "kinds": str(kinds), "thresholds": json.dumps(numbers)}
        save_file({name: t.contiguous() for name, t in {**tensors, "gallery": self.gallery}.items()}, path, metadata)

    @classmethod
    def load(cls, path: Path, probe: LinearProbe) -> StrictFeatures:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is of another version, whose verdicts are not comparable.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if metadata["version"] != VERSION:
            raise ValueError(f"{path} is {metadata['version']} and not {VERSION}; delete {path.parent} and run again")
        device = probe.heads.weight.device
        detector = Detector(probe.image_shape, int(metadata["kinds"]))
        gallery = tensors.pop("gallery").to(device)
        detector.load_state_dict({name.removeprefix("detector."): value for name, value in tensors.items()})
        return cls(probe, gallery, detector.eval().to(device), **json.loads(metadata["thresholds"]))


def make_strict(
    probe: LinearProbe, real: Tensor, groups: Tensor, held_out: Tensor, held_out_groups: Tensor, seed: int
) -> tuple[StrictFeatures, dict[str, float]]:
    """Build the judge and measure it.

    Every other held-out image of a composition sets the thresholds; the rest, and negatives made of it, measure what is
    accepted.

    Args:
        real: (M, C, H, W) uint8, what the probe was trained on.
        groups: (M,) int64, their compositions.
        held_out: as `real`, of people (or scenes) whom nobody was trained on.

    Returns:
        the judge; and ``accepted_real``, and ``accepted_KIND`` of each kind of negatives.
    """
    device = probe.heads.weight.device
    lessons = _first(groups, LESSONS)
    detector = train_detector(real[lessons], groups[lessons], seed, device)
    gallery = probe.embed(real[_first(groups, GALLERY)])
    judge = StrictFeatures(probe, gallery, detector, float("inf"), float("-inf"))
    sets = _alternate(held_out_groups)
    known = as_float(held_out[sets])
    judge.farthest = float(judge.distance(known).quantile(LEAVES))
    judge.least_odds = float(detector.odds(known).quantile(1 - LEAVES))
    fresh = as_float(held_out[~sets])
    generator = torch.Generator().manual_seed(seed_for(seed, "strict", "negatives"))
    kinds = NegativeImages(fresh, held_out_groups[~sets], generator).kinds
    figures = {"accepted_real": judge.accepted(fresh)}
    return judge, figures | {f"accepted_{kind}": judge.accepted(make(NEGATIVES)) for kind, make in kinds.items()}


def nearest(features: Tensor, gallery: Tensor) -> Tensor:
    """Distance of (B, D) to the nearest of (M, D): (B,)."""
    return torch.cat([torch.cdist(chunk, gallery).amin(1) for chunk in features.split(CHUNK)])


def _rank(groups: Tensor) -> Tensor:
    """The how-manieth of its group each row is, (M,)."""
    members = torch.nn.functional.one_hot(groups).cumsum(0)
    return members.gather(1, groups[:, None])[:, 0] - 1


def _first(groups: Tensor, count: int) -> Tensor:
    """The first rows of every group, (M,) bool."""
    return _rank(groups) < count


def _alternate(groups: Tensor) -> Tensor:
    """Every other row of every group, (M,) bool."""
    return _rank(groups) % 2 == 0
