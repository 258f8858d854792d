import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pochade import denoisers
from pochade.denoisers.iris import VARIANTS, IRISDenoiser
from pochade.denoisers.iris.mixer import GRFM, BidirectionalRGLRU
from pochade.errors import PochadeError
from pochade.nn.manhattan import manhattan_decay_reference
from pochade.nn.scan import rg_lru_reference
from pochade.nn.spectral import spectral_reference
from pochade.types import Conditioning

TOY: dict[str, Any] = {"latent_channels": 3, "sample_size": 8, "dim": 16, "heads": 2, "hidden": 24, "blocks": 2}
TOY |= {"text_dim": 6, "pooled_dim": 5, "num_classes": 3, "iterations": 3, "depths": (2, 3, 4)}


def make(stirred: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = IRISDenoiser(**{**TOY, **changes}).eval()
    if stirred:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(batch: int = 2, rows: int = 8, columns: int | None = None) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, rows, columns or rows, generator=g), torch.rand(batch, generator=g)


def text(batch: int = 2) -> Conditioning:
    g = torch.Generator().manual_seed(2)
    mask = torch.arange(3) < torch.arange(batch)[:, None] % 3 + 1
    return Conditioning(
        torch.randn(batch, 3, 6, generator=g) * mask[..., None], mask, torch.randn(batch, 5, generator=g)
    )


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The mixer


def stirred_mixer(dim: int, heads: int) -> GRFM:
    torch.manual_seed(3)
    mixer = GRFM(dim, heads).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer


def grfm_reference(mixer: GRFM, x: Tensor, height: int, width: int) -> Tensor:
    """SPEC's formula, each path by its plain reference."""
    recurrent = mixer.recurrent
    both: list[Tensor] = []
    for direction, reverse in enumerate((False, True)):
        rows = slice(direction * x.shape[2], (direction + 1) * x.shape[2])
        r = torch.sigmoid(F.linear(x, recurrent.recurrence_gate.weight[rows], recurrent.recurrence_gate.bias[rows]))
        i = torch.sigmoid(F.linear(x, recurrent.input_gate.weight[rows], recurrent.input_gate.bias[rows]))
        both.append(rg_lru_reference(x, r, i, recurrent.decay[direction], reverse=reverse))
    spectral = spectral_reference(x, height, width, mixer.spectral.weights())
    spatial = manhattan_decay_reference(mixer.spatial.value(x), mixer.spatial.gamma(), height, width)
    g = torch.sigmoid(mixer.gate(x))
    fused = g * spectral + (1 - g) * recurrent.join(torch.cat(both, -1)) + mixer.alpha * spatial
    return mixer.out(mixer.norm(fused))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 4), (6, 2)])
def test_grfm_is_its_formula(height: int, width: int):
    mixer = stirred_mixer(16, 2)
    x = torch.randn(2, height * width, 16, dtype=torch.float64, requires_grad=True)
    weights = [x, *mixer.parameters()]
    fast, plain = mixer(x, height, width), grfm_reference(mixer, x, height, width)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=1e-10)
    towards = torch.randn_like(fast)
    for a, b in zip(
        torch.autograd.grad(fast, weights, towards), torch.autograd.grad(plain, weights, towards), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_the_gate_decides_between_frequency_and_recurrence():
    mixer = stirred_mixer(16, 2)
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    with torch.no_grad():
        mixer.alpha.zero_()
        mixer.gate.weight.zero_()
        for bias, path in ((40.0, mixer.spectral(x, 3, 4)), (-40.0, mixer.recurrent(x))):
            mixer.gate.bias.fill_(bias)
            torch.testing.assert_close(mixer(x, 3, 4), mixer.out(mixer.norm(path)), atol=1e-10, rtol=0)


def test_every_token_hears_of_every_other_through_the_recurrence():
    """The states of all tokens are used, in both directions."""
    recurrence = BidirectionalRGLRU(8).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda v: recurrence(v)[0].sum(-1), x)[:, 0].abs().sum(-1)
    assert (slopes > 1e-6).all()


def test_decays_begin_between_09_and_0999():
    for block in make(stirred=False).requires_grad_(False).core.blocks:
        recurrence = block.mixer.recurrent
        r = torch.sigmoid(recurrence.recurrence_gate(torch.randn(50, 16)))
        a = torch.exp(-8 * r * F.softplus(recurrence.decay.flatten()))
        assert float(a.min()) == pytest.approx(0.9, abs=1e-4)
        assert float(a.max()) == pytest.approx(0.999, abs=1e-5)
        assert (block.mixer.alpha == 0.1).all()


def test_parameters_without_weight_decay_are_marked():
    model = make()
    kept = {n for n, p in model.named_parameters() if getattr(p, "no_weight_decay", False)}
    for name in ("positions.table", "text.null_token", "core.blocks.0.mixer.recurrent.decay"):
        assert name in kept
    assert any("gamma_logit" in name for name in kept)


# The iteration


def test_before_training_the_core_ignores_its_initial_state():
    """s <- A [s; e] alone: the mean square stays near 1 and what s_0 was dies out, so noise is never the output."""
    model = make(stirred=False, dim=64, hidden=64)
    _, t = inputs(2, 16)
    e = model.prelude_norm(torch.randn(2, 64, 64))
    given = model._given(e, model.steering(t, text()), text(), (8, 8))
    with torch.no_grad():
        one, ended = model._iterate(torch.randn(2, 64, 64), given, 12)
        other, _ = model._iterate(torch.zeros(2, 64, 64), given, 12)
        assert (one - other).square().mean().sqrt() < 0.05
        assert (ended["residual"] < 0.1).all()
        assert ((ended["state_norm"] > 0.7) & (ended["state_norm"] < 1.4)).all()
        different = model._given(e.flip(0), model.steering(t, text()), text(), (8, 8))
        assert (model._iterate(torch.zeros(2, 64, 64), different, 12)[0] - other).square().mean().sqrt() > 0.5


def test_the_pass_is_the_adapter_the_blocks_and_the_norm():
    """s <- norm(core(A [s; e])) with A as one matrix."""
    model = make().double()
    core = model.core
    _, t = inputs()
    s, e = torch.randn(2, 16, 16, dtype=torch.float64), torch.randn(2, 16, 16, dtype=torch.float64)
    given = model._given(e, model.steering(t, text()), text().to(dtype=torch.float64), (4, 4))
    adapter = torch.cat((core.carry.weight, core.inject.weight), 1)
    x = torch.cat((s, e), -1) @ adapter.T + core.inject.bias
    embedding = given.embedding + core.iteration(5)[1]
    for block, context in zip(core.blocks, given.contexts, strict=True):
        x = block(x, embedding, context, given.mask, (4, 4))
    torch.testing.assert_close(core(s, given, core.iteration(5)[1]), (core.norm(x), x), atol=1e-12, rtol=0)


def test_depths_differ_and_the_pass_knows_its_number():
    model = make()
    z, t = inputs()
    with torch.no_grad():
        outputs = [model(z, t, text(), depth=depth).velocity for depth in (1, 2, 3, 4)]
        assert torch.equal(model(z, t, text()).velocity, outputs[2])
        for i in range(4):
            assert torch.isfinite(outputs[i]).all()
            for j in range(i):
                assert (outputs[i] - outputs[j]).abs().max() > 1e-4
        given = model._given(torch.randn(2, 16, 16), model.steering(t, text()), text(), (4, 4))
        s = torch.randn(2, 16, 16)
        passes = [model.core(s, given, model.core.iteration(r)[i - 1])[0] for i, r in ((1, 2), (2, 2), (1, 4))]
        assert (passes[0] - passes[1]).abs().max() > 1e-4
        assert (passes[0] - passes[2]).abs().max() > 1e-4


def test_beyond_training_it_warns_and_goes_no_further_than_its_limit():
    model = make()
    z, t = inputs()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        model(z, t, text(), depth=4)
    with pytest.warns(UserWarning, match="depth: 5 iterations given, training had 4"), torch.no_grad():
        assert torch.isfinite(model(z, t, text(), depth=5).velocity).all()
    for wrong in (0, -3, 65, 1000):
        with pytest.raises(PochadeError, match=rf"depth: {wrong} given, allowed are 1 to 64"):
            model(z, t, text(), depth=wrong)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (6, 10), (8, 8), (18, 8)])
def test_grids_other_than_the_trained_one(rows: int, columns: int):
    """Odd numbers of tokens and more than a window holds among them; the batch does not mix."""
    model = make()
    z, t = inputs(2, rows, columns)
    with torch.no_grad():
        both = model(z, t, text()).velocity
        assert both.shape == z.shape
        alone = model(z[1:], t[1:], text().map(lambda v: v[1:])).velocity
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


def test_only_the_last_iterations_have_gradients():
    """k at least the depth is full back-propagation; k = 1 is the slope with the state before it held fixed."""
    z, t = inputs()
    slopes: dict[int, Tensor] = {}
    for k in (1, 2, 3, 9):
        model = make(gradient_iterations=k)
        model(z, t, text(), depth=3).velocity.square().sum().backward()
        slopes[k] = model.core.blocks[0].feedforward.out.weight.grad
    assert torch.equal(slopes[3], slopes[9])
    assert (slopes[1] - slopes[2]).abs().max() > 1e-4
    assert (slopes[2] - slopes[3]).abs().max() > 1e-4
    model = make()
    grid = (4, 4)
    e = model.embed(z).flatten(2).transpose(1, 2) + model.positions(*grid)
    for block in model.prelude:
        e = block(e, *grid)
    embedding = model.steering(t, text())
    given = model._given(model.prelude_norm(e), embedding, text(), grid)
    s = torch.zeros_like(e)
    first, second, third = model.core.iteration(3).unbind()
    for iteration in (first, second):
        s = model.core(s, given, iteration)[0].detach()
    model._read(model.core(s, given, third)[0], embedding, grid).square().sum().backward()
    torch.testing.assert_close(model.core.blocks[0].feedforward.out.weight.grad, slopes[1], rtol=1e-4, atol=1e-5)


# Training


def test_training_draws_state_and_depth_and_evaluation_neither():
    model = make()
    z, t = inputs()
    assert torch.equal(model(z, t, text()).velocity, model(z, t, text()).velocity)
    model.train()
    torch.manual_seed(5)
    drawn = [model(z, t, text()).velocity for _ in range(12)]
    fixed = [model(z, t, text(), depth=depth).velocity for depth in (2, 3, 4)]
    assert {next(i for i, f in enumerate(fixed) if torch.equal(f, d)) for d in drawn} == {0, 1, 2}
    torch.manual_seed(5)
    assert torch.equal(model(z, t, text()).velocity, drawn[0])


def test_the_first_state_differs_between_samples():
    """Neither the rest of the batch nor any generator changes it; other latents at the same time do."""
    model = make().train()
    z, t = inputs(3)
    c = text(3)
    together = model(z, t, c, depth=2).velocity
    torch.manual_seed(77)
    alone = model(z[2:], t[2:], c.map(lambda v: v[2:]), depth=2).velocity
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=0)
    assert (model.eval()(z, t, c, depth=2).velocity - together).abs().max() > 1e-4


def test_smaller_depths_learn_from_larger_ones():
    z, t = inputs()
    model = make(distillation=2.0).train()
    torch.manual_seed(1)
    out = model(z, t, text(), depth=4)
    loss = out.aux["loss_depth"]
    assert loss.shape == (2,)
    assert loss.min() > 0
    # The error at one of the smaller depths, from the same first state.
    short = [model(z, t, text(), depth=depth).velocity for depth in (1, 2, 3)]
    errors = [2 * (v - out.velocity).square().mean((1, 2, 3)) for v in short]
    assert any(torch.allclose(loss, error, rtol=1e-4) for error in errors)
    # The larger depth is the teacher: following the slope of the loss brings the smaller one nearer to it.
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    gaps: list[float] = []
    for _ in range(30):
        optimizer.zero_grad()
        torch.manual_seed(1)
        gap = model(z, t, text(), depth=4).aux["loss_depth"].mean()
        gap.backward()
        optimizer.step()
        gaps.append(float(gap.detach()))
    assert gaps[-1] < 0.3 * gaps[0]
    assert "loss_depth" not in model.eval()(z, t, text()).aux
    assert "loss_depth" not in make().train()(z, t, text()).aux
    assert (make(distillation=2.0).train()(z, t, text(), depth=1).aux["loss_depth"] == 0).all()


def test_aux_describes_the_last_state():
    model = make(depths=(5,))
    z, t = inputs()
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.core.register_forward_hook(lambda _, __, out: seen.append(tuple(v.detach() for v in out)))
    aux = model(z, t, text(), depth=5).aux
    handle.remove()
    assert len(seen) == 5
    for i in range(2):
        change = (seen[4][0] - seen[3][0])[i].norm() / seen[4][0][i].norm()
        assert float(aux["residual"][i]) == pytest.approx(float(change), rel=1e-4)
        assert float(aux["state_norm"][i]) == pytest.approx(float(seen[4][1][i].square().mean().sqrt()), rel=1e-4)
    assert not any(value.requires_grad for value in aux.values())


def peak_bytes(run: Any) -> int:
    """The most memory that torch held at once beyond what it held before, by its allocator's own record."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    assert peak > 0
    return peak


@pytest.mark.filterwarnings("ignore:depth. ")
def test_memory_of_inference_does_not_grow_with_the_depth():
    model = make(sample_size=16)
    z, t = inputs(2, 16)

    def run(depth: int) -> int:
        with torch.no_grad():
            return peak_bytes(lambda: model(z, t, text(), depth=depth))

    shallow = run(2)
    assert run(16) <= 1.02 * shallow
    assert run(32) <= 1.02 * shallow


@pytest.mark.filterwarnings("ignore:depth. ")
def test_memory_of_training_does_not_grow_with_the_depth_beyond_the_gradient():
    z, t = inputs(2, 16)

    def run(depth: int, k: int) -> int:
        model = make(sample_size=16, gradient_iterations=k).train()

        def step() -> None:
            model.zero_grad(set_to_none=False)
            model(z, t, text(), depth=depth).velocity.square().mean().backward()

        return peak_bytes(step)

    truncated = run(3, 2)
    assert run(16, 2) <= 1.02 * truncated
    assert run(16, 16) > 3 * truncated


# Sizes, conditioning, arguments


@pytest.mark.parametrize(
    ("variant", "least", "most"),
    [("nano", 4e6, 6e6), ("tiny", 17.1e6, 20.9e6), ("small", 42.3e6, 51.7e6), ("base", 121.5e6, 148.5e6)],
)
def test_sizes_of_the_variants(variant: str, least: float, most: float):
    with torch.device("meta"):
        model = denoisers.build("iris", variant)
    unique, core = count(model), count(model.core)
    assert least <= unique <= most
    assert model.effective_parameters(1) == unique
    for depth in (4, 8, 16):
        assert model.effective_parameters(depth) == unique - core + depth * core
    # The documents' small: 270 to 524 M at 8 to 16 passes.
    assert variant != "small" or 0.9 * 270e6 < model.effective_parameters(8) < model.effective_parameters(16) < 600e6


def test_every_variant_has_its_size_tested():
    assert set(VARIANTS) == {"nano", "tiny", "small", "base"}
    assert all(tuple(IRISDenoiser(**TOY | {"depths": d}).config.depths) == d for d in ((4, 6), (1,)))


def test_text_and_labels_are_optional(tmp_path: Path):
    model = make(text_dim=0, pooled_dim=0)
    z, t = inputs()
    with torch.no_grad():
        labelled = model(z, t, Conditioning(class_label=torch.tensor([0, 2]))).velocity
        assert (labelled - model(z, t, Conditioning()).velocity).abs().max() > 1e-3
        model.save_pretrained(tmp_path)
        again: Any = IRISDenoiser.from_pretrained(tmp_path).eval()
        assert torch.equal(again(z, t, Conditioning(class_label=torch.tensor([0, 2]))).velocity, labelled)


def test_half_precision_stays_near():
    model = make()
    z, t = inputs()
    with torch.no_grad():
        exact = model(z, t, text()).velocity
        half = model.to(torch.bfloat16)(z.bfloat16(), t, text().to(dtype=torch.bfloat16)).velocity
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"dim": 12}, "dim: 12"),
        ({"heads": 3}, "heads: 3|dim: 16"),
        ({"sample_size": 5}, "sample_size: 5"),
        ({"blocks": 0}, "blocks: 0"),
        ({"iterations": 0}, "iterations: 0"),
        ({"depths": ()}, "depths: "),
        ({"depths": (4, 65)}, "depths: "),
        ({"gradient_iterations": 0}, "gradient_iterations: 0"),
        ({"distillation": -1.0}, "distillation: -1"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], name: str):
    with pytest.raises(PochadeError, match=name):
        make(**changes)


def test_a_source_is_refused_by_name():
    z, t = inputs()
    with pytest.raises(PochadeError, match="source: "):
        make()(z, t, Conditioning(source=z))
