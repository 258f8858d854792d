import pytest
import torch

from pochade.nn.feedforward import GatedFeedForward
from pochade.nn.modulation import Modulation, TimestepEmbedding, modulated_norm, sinusoid
from pochade.nn.positions import PositionTable


def test_sinusoid_tells_times_apart_evenly():
    """Pairs of cosine and sine have length 1, and the angle between two times depends on their distance alone."""
    t = torch.linspace(0, 1, 11)
    embedded = sinusoid(t, 64)
    assert embedded.shape == (11, 64)
    torch.testing.assert_close(embedded[0], torch.cat((torch.ones(32), torch.zeros(32))))
    torch.testing.assert_close(embedded.square().sum(1), torch.full((11,), 32.0))
    products = embedded @ embedded.T
    for distance in range(1, 10):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=2e-3, rtol=0)
    assert products.fill_diagonal_(-99).max() < 31


def test_sinusoid_is_float32_for_half_precision_times():
    assert sinusoid(torch.rand(3).bfloat16(), 8).dtype == torch.float32


def test_timestep_embedding_shape_and_type():
    module = TimestepEmbedding(24, frequencies=16)
    assert module(torch.rand(5)).shape == (5, 24)
    assert module.bfloat16()(torch.rand(5)).dtype == torch.bfloat16


def test_modulated_norm_is_the_norm_scaled_and_shifted():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 2
    zero, shift, scale = torch.zeros(2, 1, 8).double(), torch.randn(2, 1, 8).double(), torch.randn(2, 1, 8).double()
    plain = modulated_norm(x, zero, zero)
    torch.testing.assert_close(plain.mean(-1), torch.zeros(2, 5).double())
    torch.testing.assert_close(plain.var(-1, correction=0), torch.ones(2, 5).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(modulated_norm(x, shift, scale), plain * (1 + scale) + shift)


def test_modulation_gives_a_vector_for_each_name_and_row():
    torch.manual_seed(0)
    module = Modulation(4, 6)
    vectors = module(torch.randn(3, 4))
    assert [v.shape for v in vectors] == [(3, 1, 4)] * 6
    torch.nn.init.zeros_(module.linear.weight)
    torch.nn.init.zeros_(module.linear.bias)
    assert all(v.eq(0).all() for v in module(torch.randn(3, 4)))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_feedforward_is_swiglu_and_drops_in_training_alone(dropout: float):
    torch.manual_seed(0)
    module = GatedFeedForward(6, 10, dropout)
    x = torch.randn(4, 6)
    gate, inner = module.gate_and_in(x)[:, :10], module.gate_and_in(x)[:, 10:]
    expected = module.out(gate * torch.sigmoid(gate) * inner)
    torch.testing.assert_close(module.eval()(x), expected)
    assert torch.allclose(module.train()(x), expected) == (dropout == 0)


def test_positions_are_the_table_at_its_own_size_and_resized_elsewhere():
    torch.manual_seed(0)
    module = PositionTable(3, 4)
    torch.nn.init.normal_(module.table)
    own = module(4, 4)
    assert torch.equal(own[0, 4 * 2 + 1], module.table[0, :, 2, 1])
    for rows, columns in ((8, 8), (2, 2), (3, 7)):
        out = module(rows, columns)
        assert out.shape == (1, rows * columns, 3)
        out.square().sum().backward()
        assert module.table.grad.abs().sum() > 0


def test_resized_positions_keep_constants_orientation_and_slopes():
    module = PositionTable(2, 8)
    with torch.no_grad():
        module.table[0, 0] = 5.0
        module.table[0, 1] = torch.arange(8.0)[:, None].expand(8, 8)  # a slope down the rows
    out = module(16, 4).detach()[0].unflatten(0, (16, 4))
    torch.testing.assert_close(out[..., 0], torch.full((16, 4), 5.0))
    torch.testing.assert_close(out[..., 1], out[:, :1, 1].expand(16, 4))
    inside = out[4:-4, 0, 1]  # away from the border: two fine rows for each row of the table
    torch.testing.assert_close(inside[2:] - inside[:-2], torch.ones(6))
    assert (inside.diff() > 0.4).all()


def test_positions_are_kept_from_weight_decay():
    assert PositionTable(2, 2).table.no_weight_decay
