"""The chunked head and loss against the plain one, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llama_scale.cost.memory import HEAD_LOGITS
from llama_scale.model.loss import linear_cross_entropy, nll_and_grad, nll_and_grad_of_copy

compiled = torch.compile(nll_and_grad_of_copy, dynamic=False)


@pytest.mark.parametrize(
    ("rows", "how"), [(1, nll_and_grad), (7, nll_and_grad), (50, nll_and_grad), (1000, nll_and_grad), (25, compiled)]
)
def test_equals_the_plain_form(rows, how, monkeypatch):
    monkeypatch.setitem(HEAD_LOGITS, "cpu", rows * 40)
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(50, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 40, (50,), generator=generator)
    ours = linear_cross_entropy(hidden, weight, targets, how)
    (3 * ours).backward()
    ours_grads = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    plain = F.cross_entropy(hidden @ weight.T, targets)
    (3 * plain).backward()
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours_grads, (hidden.grad, weight.grad), atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), plain)


def test_a_frozen_head_costs_no_gradient_and_changes_no_other(monkeypatch):
    """The product with the weight's gradient is a third of the head's work."""
    monkeypatch.setitem(HEAD_LOGITS, "cpu", 7 * 40)
    hidden, weight = torch.randn(50, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (50,))
    found = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            found[-1] += function.overloadpacket in (torch.ops.aten.addmm_, torch.ops.aten.mm)
            return function(*arguments, **(options or {}))

    gradients = []
    for frozen in (False, True):
        weight.requires_grad_(not frozen)
        hidden.grad = weight.grad = None
        found.append(0)
        with Products():
            linear_cross_entropy(hidden, weight, targets).backward()
        gradients.append(hidden.grad)
        assert (weight.grad is None) == frozen
    assert torch.equal(*gradients)
    assert found == [24, 16]


def test_gradient_by_finite_differences(monkeypatch):
    monkeypatch.setitem(HEAD_LOGITS, "cpu", 3 * 11)
    hidden = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (8,))
    value = linear_cross_entropy(hidden, weight, targets)
    (slope,) = torch.autograd.grad(value, weight)
    for row, column in ((0, 0), (3, 2), (10, 4)):
        step = torch.zeros_like(weight)
        step[row, column] = 1e-2
        up, down = (F.cross_entropy(hidden @ (weight + sign * step).T, targets) for sign in (1, -1))
        assert slope[row, column].item() == pytest.approx((up - down).item() / 2e-2, abs=1e-4)


def test_large_logits_do_not_overflow():
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]])
    value = linear_cross_entropy(hidden, weight, torch.tensor([0, 2]))
    value.backward()
    assert value.item() == pytest.approx(2500.0)
    assert torch.isfinite(hidden.grad).all()


def test_bf16_autocast_is_close():
    hidden = torch.randn(64, 32, requires_grad=True)
    weight = torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(0, 100, (64,))
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_cross_entropy(hidden, weight, targets)
    value.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    gradient = weight.grad.clone()
    weight.grad = None
    exact = F.cross_entropy(hidden @ weight.T, targets)
    exact.backward()
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)
    assert (gradient - weight.grad).norm() < 2e-2 * weight.grad.norm()


class Casts(TorchDispatchMode):
    """Counts the copies of tensors of one shape to bf16."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (args[0].shape, result.dtype) == (self.shape, torch.bfloat16):
            self.count += 1
        return result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_the_weight_is_cast_once_for_all_parts(training, cache, monkeypatch):
    monkeypatch.setitem(HEAD_LOGITS, "cpu", 7 * 40)
    hidden, weight = torch.randn(24, 16), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (24,))
    casts = Casts(weight.shape)
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, cache_enabled=cache), casts:
        linear_cross_entropy(hidden, weight, targets)
    assert casts.count == 1


def test_bf16_equals_autocast_around_plain_products(monkeypatch):
    """Four parts, each product under autocast by hand: the same bits."""
    monkeypatch.setitem(HEAD_LOGITS, "cpu", 6 * 40)
    hidden = torch.randn(24, 16, requires_grad=True)
    weight = torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (24,))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        value = linear_cross_entropy(hidden, weight, targets)
    (0.25 * value).backward()
    nats, hidden_grad, weight_grad = torch.zeros(()), [], torch.zeros_like(weight)
    with torch.no_grad():
        for h, target in zip(hidden.bfloat16().split(6), targets.split(6), strict=True):
            part, gradient = nll_and_grad(h @ weight.bfloat16().T, target[:, None], 1 / 24)
            nats += part
            hidden_grad.append((gradient @ weight.bfloat16()).float())
            weight_grad += gradient.T @ h
    assert value.item() == (nats * (1 / 24)).item()
    torch.testing.assert_close(hidden.grad, 0.25 * torch.cat(hidden_grad), atol=0, rtol=0)
    torch.testing.assert_close(weight.grad, 0.25 * weight_grad, atol=0, rtol=0)


def test_the_gradient_is_handed_over_without_a_copy():
    """The forward pass's own buffers, scaled in place, become the gradients."""
    hidden, weight = torch.randn(24, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    value = linear_cross_entropy(hidden, weight, torch.randint(0, 40, (24,)))
    made = [tensor.data_ptr() for tensor in value.grad_fn.saved_tensors]
    value.backward()
    assert [hidden.grad.data_ptr(), weight.grad.data_ptr()] == made


@pytest.mark.parametrize("how", [nll_and_grad, compiled])
def test_bf16_logits_are_graded_in_float32(how):
    logits = 5 * torch.randn(25, 40, generator=torch.Generator().manual_seed(0))
    logits = logits.bfloat16()
    target = torch.arange(25)[:, None]  # (R, 1)
    nats, gradient = how(logits.clone(), target, 0.5)
    exact = logits.double().requires_grad_()
    total = F.cross_entropy(exact, target[:, 0], reduction="sum")
    (0.5 * total).backward()
    assert nats.item() == pytest.approx(total.item(), rel=1e-6)
    torch.testing.assert_close(gradient.double(), exact.grad, rtol=2**-8, atol=1e-9)


def test_rows_are_shared_out_evenly(monkeypatch):
    monkeypatch.setitem(HEAD_LOGITS, "cpu", 7 * 40)
    counts = []

    def count(logits, target, share):
        counts.append(len(logits))
        return nll_and_grad(logits, target, share)

    weight = torch.randn(40, 16, requires_grad=True)
    linear_cross_entropy(torch.randn(24, 16), weight, torch.randint(0, 40, (24,)), count)
    assert counts == [6, 6, 6, 6]
