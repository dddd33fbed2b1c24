"""Discs on a floor: what mechanics says of them, and that no scene depends on its neighbours."""

import math

import pytest
import torch

from datasets.clevrer.physics import GRAVITY, NEVER, Discs, coast, simulate

SECONDS, FRAMES = 1.0, 9


def discs(mass, restitution=1.0, friction=0.0, radius=0.5):
    mass = torch.as_tensor(mass, dtype=torch.float64)
    full = [torch.full_like(mass, value) for value in (radius, friction, restitution)]
    return Discs(full[0], mass, full[1], full[2], torch.ones_like(mass, dtype=torch.bool))


def crowd(scenes=16, count=4):
    """Discs on a circle, thrown at its middle."""
    generator = torch.Generator().manual_seed(1)
    angle = (
        torch.rand(scenes, 1, generator=generator, dtype=torch.float64) * 6 + torch.arange(count) * 2 * math.pi / count
    )
    start = 2 * torch.stack([angle.cos(), angle.sin()], -1)
    speed = 2 + 2 * torch.rand(scenes, count, 1, generator=generator, dtype=torch.float64)
    mass = 0.5 + 2 * torch.rand(scenes, count, generator=generator, dtype=torch.float64)
    return start, -start / 2 * speed, mass


def momentum(motion, mass):
    return (motion.velocities * mass[:, None, :, None]).sum(2)


def energy(motion, mass):
    return (motion.velocities.square().sum(-1) * mass[:, None]).sum(2) / 2


def test_an_elastic_head_on_hit_of_equals_swaps_their_velocities():
    start = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    velocity = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    motion = simulate(start, velocity, discs([[2.0, 2.0]]), FRAMES, SECONDS)
    torch.testing.assert_close(motion.velocities[:, -1], velocity.flip(1))
    # A gap of 1 closes at 4 a second: after a quarter of the clip, where the right disc's rim is.
    assert motion.contact_frames[0, 0, 1].item() == pytest.approx((FRAMES - 1) / 4)
    torch.testing.assert_close(
        motion.contact_points[0, 0, 1], torch.tensor([0.5, 0.0], dtype=torch.float64), atol=0.02, rtol=0
    )


def test_momentum_stays_and_elastic_hits_keep_the_energy():
    start, velocity, mass = crowd()
    motion = simulate(start, velocity, discs(mass), FRAMES, SECONDS)
    assert (motion.contact_frames != NEVER).any(-1).double().mean() > 0.9, "nearly everybody is hit"
    torch.testing.assert_close(momentum(motion, mass), momentum(motion, mass)[:, :1].expand(-1, FRAMES, -1))
    torch.testing.assert_close(energy(motion, mass), energy(motion, mass)[:, :1].expand(-1, FRAMES))


def test_damped_hits_keep_the_momentum_and_lose_energy():
    start, velocity, mass = crowd()
    motion = simulate(start, velocity, discs(mass, restitution=0.4), FRAMES, SECONDS)
    torch.testing.assert_close(momentum(motion, mass), momentum(motion, mass)[:, :1].expand(-1, FRAMES, -1))
    assert (energy(motion, mass).diff(dim=1) < 1e-12).all()
    assert (energy(motion, mass)[:, -1] < energy(motion, mass)[:, 0]).all()


def test_the_less_bouncy_of_two_says_how_fast_they_part():
    start = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    velocity = torch.tensor([[[4.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    both = discs([[1.0, 3.0]])
    both.restitution = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    last = simulate(start, velocity, both, FRAMES, SECONDS).velocities[0, -1, :, 0]
    assert (last[1] - last[0]).item() == pytest.approx(0.3 * 4)


def test_the_common_centre_of_mass_moves_on_evenly():
    start, velocity, mass = crowd()
    motion = simulate(start, velocity, discs(mass, restitution=0.5), FRAMES, SECONDS)
    centre = (motion.positions * mass[:, None, :, None]).sum(2)
    torch.testing.assert_close(centre.diff(n=2, dim=1), torch.zeros_like(centre[:, 2:]), atol=1e-9, rtol=0)


def test_friction_slows_evenly_and_stops_without_turning_back():
    start = torch.zeros(1, 1, 2, dtype=torch.float64)
    velocity = torch.tensor([[[3.0, 0.0]]], dtype=torch.float64)
    motion = simulate(start, velocity, discs([[1.0]], friction=0.4), FRAMES, SECONDS)
    expected = (3 - 0.4 * GRAVITY * torch.linspace(0, SECONDS, FRAMES, dtype=torch.float64)).clamp(min=0)
    torch.testing.assert_close(motion.velocities[0, :, 0, 0], expected)


def test_absent_discs_touch_nothing():
    start, velocity, mass = crowd(count=2)
    alone = discs(mass)
    alone.present[:, 1] = False
    motion = simulate(start, velocity, alone, FRAMES, SECONDS)
    assert (motion.contact_frames == NEVER).all()
    torch.testing.assert_close(motion.velocities[:, -1], velocity)


def test_without_friction_and_hits_sliding_is_coasting():
    start, velocity, mass = crowd(count=1)
    slid = simulate(start, velocity, discs(mass), FRAMES, SECONDS)
    coasted = coast(start + velocity * SECONDS / 2, velocity, FRAMES, SECONDS)
    torch.testing.assert_close(slid.positions, coasted.positions)
    torch.testing.assert_close(slid.velocities, coasted.velocities)


def test_a_scene_is_moved_as_if_it_were_alone():
    start, velocity, mass = crowd()
    together = simulate(start, velocity, discs(mass, restitution=0.6, friction=0.05), FRAMES, SECONDS)
    alone = simulate(start[5:6], velocity[5:6], discs(mass[5:6], restitution=0.6, friction=0.05), FRAMES, SECONDS)
    assert torch.equal(together.positions[5:6], alone.positions)
    assert torch.equal(together.contact_frames[5:6], alone.contact_frames)
