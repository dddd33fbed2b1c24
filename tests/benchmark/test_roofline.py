"""The floor of a step: bytes of products as they are counted by hand, and the longer of two times."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.roofline import COPIED, STATE_BYTES, ProductTraffic, copy_work, most_steps, step_bytes
from tests.benchmark import small_training


def test_a_product_moves_its_operands_and_its_result_and_other_operations_nothing():
    x, weight = torch.ones(5, 3), torch.ones(7, 3)
    with ProductTraffic() as counted:
        F.gelu(x @ weight.T).sum()
    assert counted.bytes == 4 * (5 * 3 + 7 * 3 + 5 * 7)


def test_types_of_autocast_count():
    x, weight = torch.ones(5, 3), torch.ones(7, 3)
    with ProductTraffic() as counted, torch.autocast("cpu", torch.bfloat16):
        F.linear(x, weight)
    assert counted.bytes == 2 * (5 * 3 + 7 * 3 + 5 * 7)


def test_a_backward_pass_counts_both_gradients():
    x, weight = torch.ones(5, 3, requires_grad=True), torch.ones(7, 3, requires_grad=True)
    with ProductTraffic() as counted:
        F.linear(x, weight).sum().backward()
    assert counted.bytes == 3 * 4 * (5 * 3 + 7 * 3 + 5 * 7)


@pytest.mark.parametrize("name", small_training.MODELS)
def test_a_step_moves_its_products_and_the_state_of_every_trained_parameter(name):
    model, batches = small_training.build(name)
    whole = step_bytes(model, batches.batch(0))
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        half = step_bytes(model, batches.batch(0))
    state = STATE_BYTES * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert state < half < whole
    assert (half - state) == pytest.approx((whole - state) / 2, rel=0.25)


def test_the_slower_of_operations_and_bytes_is_the_floor():
    assert most_steps(100, 1, 1000, 1000) == pytest.approx(10)
    assert most_steps(1, 100, 1000, 2000) == pytest.approx(20)


def test_a_copy_reads_and_writes_more_than_caches_hold():
    work, moved = copy_work(torch.device("cpu"))
    work()
    assert moved == 2 * COPIED["cpu"] >= 2**29
