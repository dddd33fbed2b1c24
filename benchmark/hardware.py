"""What a record says about cost and provenance: device, commit, parameters, operations, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from architectures.base import GenerativeModel
from architectures.conditioning import Condition
from benchmark import ROOT
from datasets.factors import seed_for

COUNTED = 8  # samples over which sampling operations are counted


def revision() -> str:
    """Git commit of the checkout, with ``+dirty`` when tracked files differ from it; empty outside a repository."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return commit + ("+dirty" if commit and _git("status", "--porcelain", "--untracked-files=no") else "")


def hardware() -> dict[str, Any]:
    """The machine and the versions that a result was made with."""
    versions: dict[str, Any] = {
        name: sys.modules[name].__version__ for name in ("torch", "lightning") if name in sys.modules
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {
        "device": device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def why_not_compiled(device: torch.device) -> str:
    """Why torch.compile fails on this machine, in one line; empty where it works.

    On a CPU it needs a C++ compiler and Python's headers, which a machine that only runs things may lack.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""


def cpu_name() -> str:
    """Model of the processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory_mb() -> float:
    """Most memory in use so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


def costs(
    model: GenerativeModel, batch: dict[str, Any], steps: int, curve: GenerativeModel | None = None
) -> dict[str, Any]:
    """What a model costs: parameters, and operations of training and of a sample (multiply-adds count twice).

    Operations are those of matrix products and convolutions, as torch's FLOP counter sees them. What a sample costs is
    told of the final sampler and, with ``curve_``, of ``curve``, from which points of the curve are sampled.
    """
    condition = Condition.of(batch["classes"], batch["values"])
    seen = len(batch["latents"])
    with FlopCounterMode(display=False) as training:
        loss, _ = model.training_loss(batch["latents"], condition, batch["generator"])
        loss.backward()
    model.zero_grad(set_to_none=True)
    few = Condition.of(batch["classes"][:COUNTED], batch["values"][:COUNTED])
    final = _of_a_sample(model, few, batch["latents"].device)
    at_the_curve = final if curve is None or curve is model else _of_a_sample(curve, few, batch["latents"].device)
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "sampled_parameters": sum(p.numel() for p in model.averaged_parameters().values()),
        "target_tokens": steps * seen * model.context.tokens * model.target_share(),
        "flops": training.get_total_flops() * steps,
        **final,
        **{f"curve_{name}": number for name, number in at_the_curve.items()},
    }


def _of_a_sample(model: GenerativeModel, condition: Condition, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(seed_for(0, "costs"))
    calls = _CallCounter(model)
    eager = torch.compiler.set_stance("force_eager")  # compiled products are not seen
    with eager, model.averaged(), FlopCounterMode(display=False) as sampling, calls:
        model.sample(condition, generator)
    return {
        "sample_flops": sampling.get_total_flops() / len(condition),
        "evaluations_per_sample": calls.trunk,
    }


class _CallCounter:
    """How often the trunk runs while a batch is sampled."""

    def __init__(self, model: GenerativeModel) -> None:
        self.module = getattr(model, "trunk", model)
        self.trunk = 0

    def __enter__(self) -> None:
        self._handle = self.module.register_forward_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _count(self, *_: object) -> None:
        self.trunk += 1


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
