import pytest
import torch
from torch import Tensor

from pochade.flow.path import diffuse, interpolate, to_data, velocity


def pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z_0, eps = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    return z_0, eps, torch.rand(shape[0], generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (5, 2, 3, 4)])
def test_data_and_noise_come_back_from_the_path(shape: tuple[int, ...]):
    z_0, eps, t = pair(shape)
    z_t, v = interpolate(z_0, eps, t), velocity(z_0, eps)
    torch.testing.assert_close(to_data(z_t, v, t), z_0)


def test_the_path_begins_at_data_and_ends_at_noise():
    z_0, eps, t = pair((4, 3))
    assert torch.equal(interpolate(z_0, eps, torch.zeros_like(t)), z_0)
    assert torch.equal(interpolate(z_0, eps, torch.ones_like(t)), eps)


def test_velocity_is_the_derivative_of_the_path():
    z_0, eps, t = pair((4, 3))
    h = 0.25
    derivative = (interpolate(z_0, eps, t + h) - interpolate(z_0, eps, t - h)) / (2 * h)  # exact: the path is straight
    torch.testing.assert_close(derivative, velocity(z_0, eps))


def test_a_step_towards_data_subtracts_the_velocity():
    z_0, eps, t = pair((4, 3))
    z_t, v, d = interpolate(z_0, eps, t), velocity(z_0, eps), 0.5 * t
    torch.testing.assert_close(z_t - d[:, None] * v, interpolate(z_0, eps, t - d))


def test_diffused_points_have_the_mean_and_variance_of_the_path():
    z_0, eps, t = pair((4, 3))
    s = 0.6 * t
    zeros, ones = torch.zeros_like(z_0), torch.ones_like(z_0)
    of_data = diffuse(interpolate(z_0, zeros, s), zeros, s, t)
    torch.testing.assert_close(of_data, interpolate(z_0, zeros, t))
    old, new = diffuse(s[:, None] * ones, zeros, s, t), diffuse(zeros, ones, s, t)
    torch.testing.assert_close(old.square() + new.square(), t[:, None].square().expand(4, 3))
    torch.testing.assert_close(diffuse(z_0, eps, torch.zeros_like(t), t), interpolate(z_0, eps, t))
    torch.testing.assert_close(diffuse(z_0, eps, t, t), z_0)
