from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pochade import denoisers
from pochade.denoisers.lrf import VARIANTS, LRFDenoiser
from pochade.denoisers.lrf.model import SOFTMAX_TOKENS
from pochade.errors import PochadeError
from pochade.types import Conditioning

TOY: dict[str, Any] = {"latent_channels": 3, "sample_size": 4, "dim": 16, "heads": 2, "hidden": 24, "blocks": 2}
TEXT: dict[str, Any] = {"text_dim": 6, "pooled_dim": 5, "num_classes": 3}


def make(stirred: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = LRFDenoiser(**{**TOY, **TEXT, **changes})
    if stirred:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(batch: int = 2, size: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=g), torch.rand(batch, generator=g)


def text(batch: int = 2) -> Conditioning:
    g = torch.Generator().manual_seed(2)
    mask = torch.tensor([[True, True, False], [True, True, True]])[:batch]
    tokens = torch.randn(batch, 3, 6, generator=g) * mask[..., None]
    return Conditioning(tokens, mask, torch.randn(batch, 5, generator=g))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("variant", "least", "most"),
    [("cifar", 0.98 * 1.47e6, 1.02 * 1.47e6), ("nano", 4e6, 6e6), ("tiny", 19e6, 22e6), ("small", 28.5e6, 31.5e6)],
)
def test_sizes_of_the_variants(variant: str, least: float, most: float):
    with torch.device("meta"):
        assert least <= count(denoisers.build("lrf", variant)) <= most


def test_every_variant_has_its_size_tested():
    assert set(VARIANTS) == {"cifar", "nano", "tiny", "small"}


def test_class_conditioner_of_ten_classes():
    """Ten classes and one more for none, 128 numbers each."""
    assert count(denoisers.build("lrf", "cifar").classes) == 1408


@pytest.mark.parametrize(("size", "kind"), [(16, "softmax"), (17, "linear")])
def test_the_mixer_is_chosen_by_the_tokens_and_stored(size: int, kind: str, tmp_path: Path):
    assert SOFTMAX_TOKENS == 256
    model = make(sample_size=size)
    assert model.config.mixer == kind
    model.save_pretrained(tmp_path)
    again: Any = LRFDenoiser.from_pretrained(tmp_path)
    assert again.config.mixer == kind
    assert (again.core[0].mixer.gate is not None) == (kind == "linear")
    # The stored mixer stays although another size would choose another one.
    assert LRFDenoiser.from_config(again.config, sample_size=64).core[0].mixer.kind == kind


def test_one_step_back_through_the_last_recursion_is_all_where_there_is_one():
    gradients: list[list[Tensor]] = []
    for mode in ("full", "last"):
        model = make(gradient=mode)
        z, t = inputs()
        model(z, t, text(), depth=1).velocity.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("depth", [2, 5])
def test_gradient_through_the_last_recursion_is_that_of_a_constant_before_it(depth: int):
    """Same value as "full"; the gradient is that of the last recursion with the state before it held fixed."""
    full, last = make(gradient="full"), make(gradient="last")
    z, t = inputs()
    a, b = full(z, t, text(), depth=depth).velocity, last(z, t, text(), depth=depth).velocity
    assert torch.equal(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    name = "core.0.feedforward.out.weight"
    assert (full.get_parameter(name).grad - last.get_parameter(name).grad).abs().max() > 1e-4
    # By finite differences: move the parameter in the last recursion only.
    before, calls = {}, []

    def hold(module: Any, args: Any, output: Tensor) -> Tensor | None:
        calls.append(1)
        return before["h"] if len(calls) == depth - 1 else None

    double = make(gradient="full").double()
    zd, td, cd = z.double(), t.double(), text().to(dtype=torch.float64)

    def loss(moved: float) -> float:
        weight = double.get_parameter(name)
        with torch.no_grad():
            weight[0, 0] += moved
            calls.clear()
            value = double(zd, td, cd, depth=depth).velocity.square().sum()
            weight[0, 0] -= moved
        return float(value)

    store = double.core[-1].register_forward_hook(
        lambda m, a, out: (calls.append(1), before.__setitem__("h", out) if len(calls) == depth - 1 else None)[1]
    )
    loss(0.0)
    store.remove()
    double.core[-1].register_forward_hook(hold)
    step = 1e-5
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert float(last.get_parameter(name).grad[0, 0]) == pytest.approx(slope, rel=1e-3)


def kept_bytes(model: Any, depth: int) -> int:
    """Activation memory of the backward pass in bytes, each storage once."""
    pieces: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        pieces[storage.data_ptr()] = storage.nbytes()
        return x

    z, t = inputs(2, 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = model(z, t, text(), depth=depth)
        total = sum(pieces.values())
    del out
    return total


def test_memory_of_the_last_recursion_mode_does_not_grow_with_depth():
    last, full = make(gradient="last"), make(gradient="full")
    assert kept_bytes(last, 16) <= 1.1 * kept_bytes(last, 2)
    assert kept_bytes(full, 16) > 4 * kept_bytes(full, 2)


def test_blocks_are_shared_by_the_recursions():
    assert count(make(recursions=2)) == count(make(recursions=9))
    model = make(recursions=3)
    z, t = inputs()
    outputs = [model(z, t, text(), depth=d).velocity for d in (1, 2, 3)]
    assert torch.equal(model(z, t, text()).velocity, outputs[2])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_before_training_every_block_is_the_identity():
    model = make(stirred=False)
    x = torch.randn(2, 16, 16)
    embedding = torch.randn(2, 16)
    for block in model.core:
        context = block.text.context(torch.randn(2, 3, 16))
        mask = torch.ones(2, 3, dtype=torch.bool)
        assert torch.equal(block(x, block.modulation(embedding), context, mask, (4, 4)), x)


def test_without_any_text_the_output_is_finite_and_the_same():
    """A learned token stands where there is none, so that no softmax runs over nothing."""
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        dropped = model(z, t, text().drop("text")).velocity
        assert torch.isfinite(dropped).all()
        no_tokens = Conditioning(torch.zeros(2, 0, 6), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 5))
        for other in (Conditioning(), no_tokens):
            torch.testing.assert_close(model(z, t, other).velocity, dropped, atol=1e-6, rtol=0)
        assert (model(z, t, text()).velocity - dropped).abs().max() > 1e-3


def test_the_null_token_gets_a_gradient_from_dropped_text():
    model = make()
    z, t = inputs()
    model(z, t, text().drop("text")).velocity.square().sum().backward()
    assert model.null_token.grad.abs().sum() > 0


def test_no_class_is_a_class_of_its_own():
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        outputs = [model(z, t, Conditioning(class_label=torch.full((2,), label))).velocity for label in (-1, 0, 1, 2)]
        assert torch.equal(model(z, t, Conditioning()).velocity, outputs[0])
        for i in range(4):
            for j in range(i):
                assert (outputs[i] - outputs[j]).abs().max() > 1e-3


def test_the_source_path_is_closed_at_first_and_learns():
    model = make()
    torch.nn.init.zeros_(model.embed_source.weight)
    z, t = inputs()
    source = Conditioning(source=torch.randn_like(z), source_mask=torch.ones(2, 1, 4, 4))
    plain = model(z, t, Conditioning()).velocity
    assert torch.equal(model(z, t, source).velocity, plain)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (model(z, t, source).velocity - source.source).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        open_ = model(z, t, source).velocity
        assert (open_ - model(z, t, Conditioning()).velocity).abs().max() > 1e-3
        # A source that is dropped is none, and its mask matters.
        assert torch.equal(model(z, t, source.drop("source")).velocity, model(z, t, Conditioning()).velocity)
        without = Conditioning(source=source.source, source_mask=torch.zeros(2, 1, 4, 4))
        assert (model(z, t, without).velocity - open_).abs().max() > 1e-5
        assert torch.equal(model(z, t, without).velocity, model(z, t, Conditioning(source=source.source)).velocity)


def test_loud_text_is_normalised():
    """Text encoders differ in scale; the network sees directions."""
    model = make().eval()
    z, t = inputs()
    c = text()
    loud = Conditioning(c.tokens * 50, c.mask, c.pooled * 50)
    with torch.no_grad():
        torch.testing.assert_close(model(z, t, loud).velocity, model(z, t, c).velocity, atol=1e-3, rtol=0)


def test_dropout_acts_in_training_alone():
    model = make(dropout=0.5)
    z, t = inputs()
    assert not torch.equal(model(z, t, text()).velocity, model(z, t, text()).velocity)
    model.eval()
    assert torch.equal(model(z, t, text()).velocity, model(z, t, text()).velocity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype):
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        exact = model(z, t, text()).velocity
        half = model.to(dtype)(z.to(dtype), t, text().to(dtype=dtype)).velocity
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_wrong_arguments_are_named():
    for changes, name in (
        ({"dim": 15}, "dim"),
        ({"sample_size": 5, "patch_size": 2}, "sample_size"),
        ({"gradient": "first"}, "gradient: 'first'"),
        ({"mixer": "conv"}, "mixer: 'conv'"),
        ({"recursions": 0}, "recursions: 0"),
    ):
        with pytest.raises(PochadeError, match=name):
            make(**changes)
    model = make(patch_size=2)
    z, t = inputs()
    for call, name in (
        (lambda: model(z[:, :2], t, text()), "latents: "),
        (lambda: model(z[..., :3], t, text()), "latents: "),
        (lambda: model(z, t[:1], text()), "t: "),
        (lambda: model(z, t, text(), depth=65), "depth: 65"),
        (lambda: model(z, t, Conditioning(torch.zeros(2, 3, 7), torch.ones(2, 3, dtype=torch.bool))), "tokens: "),
        (lambda: model(z, t, Conditioning(source=z[..., :2])), "source: "),
        (lambda: model(z, t, Conditioning(class_label=torch.tensor([0]))), "class_label: "),
    ):
        with pytest.raises(PochadeError, match=name):
            call()


def test_registry_names_the_nearest():
    assert set(denoisers.variants("lrf")) == set(VARIANTS)
    assert "recursions" in denoisers.parameters("lrf")
    assert denoisers.build("lrf", "cifar", dim=32, hidden=16).config.dim == 32
    with pytest.raises(PochadeError, match=r"family: 'lfr' given, .*did you mean 'lrf'"):
        denoisers.build("lfr", "nano")
    with pytest.raises(PochadeError, match=r"variant: 'nanno' given, .*did you mean 'nano'"):
        denoisers.build("lrf", "nanno")
