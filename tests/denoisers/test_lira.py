import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pochade import denoisers
from pochade.denoisers.lira import VARIANTS, LiRADenoiser
from pochade.denoisers.lira.reasoning import ReasoningLoop
from pochade.errors import PochadeError
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.types import Conditioning

TOY: dict[str, Any] = {
    "latent_channels": 3,
    "sample_size": 4,
    "patch_size": 1,
    "dim": 16,
    "blocks": 4,
    "hidden": 20,
    "state_size": 3,
    "heads": 2,
    "fusion_every": 2,
    "reasoning_steps": 6,
    "reasoning_width": 8,
    "text_dim": 6,
    "pooled_dim": 5,
    "num_classes": 3,
}


def stir(module: Any, scale: float = 0.1) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def make(stirred: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = LiRADenoiser(**{**TOY, **changes}).eval()
    return stir(model) if stirred else model


def inputs(batch: int = 2, size: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=g), torch.rand(batch, generator=g)


def text(batch: int = 2, length: int = 4) -> Conditioning:
    g = torch.Generator().manual_seed(2)
    mask = torch.arange(length)[None] < 1 + torch.arange(batch)[:, None] % length
    tokens = torch.randn(batch, length, 6, generator=g) * mask[..., None]
    return Conditioning(tokens, mask, torch.randn(batch, 5, generator=g))


def flops(model: Any, tokens: int, words: int) -> int:
    """Of the matrix products and convolutions of a call with a square grid of ``tokens``, counted without values."""
    config, side = model.config, math.isqrt(tokens) * model.config.patch_size
    z, t = torch.empty(1, config.latent_channels, side, side, device="meta"), torch.empty(1, device="meta")
    mask = torch.empty(1, words, dtype=torch.bool, device="meta")
    pooled = torch.empty(1, config.pooled_dim, device="meta")
    conditioning = Conditioning(torch.empty(1, words, config.text_dim, device="meta"), mask, pooled)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(z, t, conditioning, depth=8)
    return counter.get_total_flops()


def variant(name: str, **changes: Any) -> Any:
    with torch.device("meta"):
        return denoisers.build("lira", name, **changes).eval().requires_grad_(False)


# --- the network


def test_nano_is_of_the_size_of_a_nano():
    assert 4e6 <= sum(p.numel() for p in variant("nano").parameters()) <= 6e6
    assert [VARIANTS[name]["blocks"] for name in ("tiny", "small", "base", "large")] == [12, 20, 28, 36]


def test_text_is_fused_after_every_fourth_block():
    assert [i for i, block in enumerate(variant("tiny").layers, 1) if block.text is not None] == [4, 8, 12]


def test_without_fusion_text_enters_by_the_modulation_alone():
    model = make(fusion="none")
    assert all(block.text is None for block in model.layers)
    z, t = inputs()
    words: Any = text()
    others, moved = replace(words, pooled=words.pooled.roll(1, 0)), replace(words, tokens=words.tokens + 1.0)
    with torch.no_grad():
        expected = model(z, t, words).velocity
        assert torch.equal(model(z, t, moved).velocity, expected)
        assert not torch.allclose(model(z, t, others).velocity, expected)


@pytest.mark.parametrize("connections", ["static", "dynamic"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_hyper_connections_begin_as_the_residual_network(connections: str, streams: int):
    """With all other parameters far from their beginning, so that every layer, skip and fusion takes part."""
    residual, model = make(connections="residual"), make(False, connections=connections, streams=streams)
    missing, unexpected = model.load_state_dict(residual.state_dict(), strict=False)
    assert missing
    assert all(".connect." in name for name in missing)
    assert not unexpected
    z, t = inputs()
    with torch.no_grad():
        expected = residual(z, t, text()).velocity
        assert expected.std() > 0.05
        torch.testing.assert_close(model(z, t, text()).velocity, expected, atol=1e-6, rtol=0)
        stir(model, 0.1)
        assert (model(z, t, text()).velocity - expected).abs().max() > 1e-2


def test_before_training_every_block_is_the_identity():
    model = make(False)
    h, embedding = torch.randn(2, 2, 16, 16), torch.randn(2, 16)
    words = (torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    for block in model.layers:
        torch.testing.assert_close(block(h, embedding, words, (4, 4)), h, atol=0, rtol=0)


@pytest.mark.parametrize("blocks", [4, 5])
def test_long_skips_join_a_block_to_its_mirror_image(blocks: int):
    """Block L-1-i reads the block before it and, through a matrix of their own, block i."""
    model = make(connections="residual", blocks=blocks)
    read, left = list[Tensor](), list[Tensor]()
    for block in model.layers:
        block.register_forward_hook(lambda _, given, out: (read.append(given[0]), left.append(out))[0])
    z, t = inputs()
    with torch.no_grad():
        model(z, t, text())
        for i in range(1, blocks):
            mirror = blocks - 1 - i
            expected = left[i - 1] + model.skips[mirror](left[mirror]) if mirror < i else left[i - 1]
            torch.testing.assert_close(read[i], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("decay", ["scalar", "diagonal"])
def test_padded_text_is_ignored(decay: str):
    model = make(decay=decay)
    z, t = inputs(3)
    short = text(3)
    with torch.no_grad():
        expected = model(z, t, short).velocity
        for more in (1, 60, 508):
            mask = torch.nn.functional.pad(short.mask, (0, more))
            tokens = torch.nn.functional.pad(short.tokens, (0, 0, 0, more)) + 99.0 * ~mask[..., None]
            found = model(z, t, Conditioning(tokens, mask, short.pooled)).velocity
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_long_text_costs_as_much_as_a_short_one():
    model = variant("tiny")
    assert flops(model, 1024, 512) < 1.1 * flops(model, 1024, 77)


def test_cost_is_linear_in_the_tokens():
    model = variant("tiny", latent_channels=16, patch_size=2, sample_size=128)
    each = [flops(model, tokens, 77) / tokens for tokens in (1024, 4096, 16384)]
    assert max(each) < 1.05 * min(each)


def test_attention_in_place_of_the_scans_costs_the_square_of_the_tokens() -> None:
    model = make(stirred=False, mixer="attention").to("meta")
    assert not any("scan" in type(module).__name__.lower() for module in model.modules())
    one, four, sixteen = (flops(model, n, 8) for n in (256, 1024, 4096))
    products = 2 * 2 * TOY["blocks"] * TOY["dim"]  # of queries with keys, and of scores with values, for each pair
    for few, many, tokens in ((one, four, 256), (four, sixteen, 1024)):
        assert many - 4 * few == pytest.approx(products * 12 * tokens**2, rel=1e-2)


@pytest.mark.parametrize("name", ["tiny", "small"])
@pytest.mark.parametrize(
    ("latents", "changes"), [((32, 32, 32), {}), ((16, 128, 128), {"latent_channels": 16, "patch_size": 2})]
)
def test_shapes_at_1024_pixels(name: str, latents: tuple[int, ...], changes: dict[str, Any]):
    """32 x 32 tokens of an f32 autoencoder, and 64 x 64 of an f8 one."""
    model = variant(name, **changes)
    z = torch.empty(1, *latents, device="meta")
    with torch.no_grad():
        assert model(z, torch.empty(1, device="meta"), Conditioning(), depth=2).velocity.shape == z.shape


def test_text_of_tokens_alone_conditions_by_their_mean():
    model = make(pooled_dim=0)
    z, t = inputs()
    conditioning = Conditioning(text().tokens, text().mask)
    with torch.no_grad():
        thoughts = [model(z, t, c).aux["reasoning_steps"] for c in (conditioning, Conditioning())]
        assert (model(z, t, conditioning).velocity - model(z, t, Conditioning()).velocity).abs().max() > 1e-3
    assert thoughts[0].shape == (2,)
    model.layers[1].text = model.layers[3].text = None  # the mean still enters
    with torch.no_grad():
        assert (model(z, t, conditioning).velocity - model(z, t, Conditioning()).velocity).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype):
    model = make()
    z, t = inputs()
    with torch.no_grad():
        exact = model(z, t, text(), depth=3).velocity
        half = model.to(dtype)(z.to(dtype), t, text().to(dtype=dtype), depth=3).velocity
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_decays_gates_and_embeddings_are_kept_from_weight_decay():
    model = make()
    groups = FlowTask(model, FlowSettings()).parameter_groups(0.1, 1e-3)
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    exempt = (
        "A_log",
        "dt_bias",
        "selection.D",
        "alpha",
        "beta",
        "null_token",
        "positions.table",
        "norm.weight",
        "bias",
    )
    for name, parameter in model.named_parameters():
        if name.endswith(exempt) or "steering.classes" in name:
            assert id(parameter) in free, name
    assert id(model.layers[0].mixer.inner.weight) not in free


# --- the reasoning loop


def loop(**changes: Any) -> ReasoningLoop:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"dim": 10, "width": 8, "state_size": 3, "decay": "scalar", "steps": 6}
    arguments |= {"threshold": 0.8, "prior_steps": 4.0, "halting": True} | changes
    module = ReasoningLoop(**arguments).double().eval()
    module.initialise_halting()
    if module.halt is not None:
        with torch.no_grad():
            module.halt.weight.copy_(6 * torch.randn(1, 8))  # so that pictures differ
    return module


def seen(batch: int = 8) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 12, 10, generator=g, dtype=torch.float64)
    return x, 2 * torch.randn(batch, 10, generator=g, dtype=torch.float64)


def states(module: ReasoningLoop, x: Tensor, embedding: Tensor, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """r_1 to r_T [B, R] and l_1 to l_T [B]."""
    tokens = torch.nn.functional.layer_norm(module.tokens(x), (8,), eps=1e-6)
    r = module.start(torch.cat((tokens.mean(1), embedding), -1))
    rs, halts = list[Tensor](), list[Tensor]()
    for n in range(1, steps + 1):
        r = module.step(tokens, r)
        rs.append(r)
        assert module.halt is not None
        free = torch.sigmoid(module.halt(r)[:, 0])
        halts.append(torch.zeros_like(free) if n == 1 else torch.ones_like(free) if n == steps else free)
    return rs, halts


def test_training_takes_the_expected_state():
    module, (x, embedding) = loop().train(), seen()
    thought, steps, cost = module(x, embedding)
    rs, halts = states(module, x, embedding, 6)
    p = [halt * math.prod(1 - h for h in halts[:n]) for n, halt in enumerate(halts)]
    torch.testing.assert_close(sum(p), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(thought, module.out(sum(p_stop[:, None] * r for p_stop, r in zip(p, rs, strict=True))))
    torch.testing.assert_close(steps, sum((n * p_stop for n, p_stop in enumerate(p, 1)), torch.zeros(8).double()))
    prior = [1 / 3, 2 / 9, 4 / 27, 8 / 81, 16 / 81]  # 1/3 of what is left, and the last step all of it
    expected = sum(p_stop * (p_stop / q).log() for p_stop, q in zip(p[1:], prior, strict=True))
    torch.testing.assert_close(cost, expected)
    assert (cost > 0).all()
    assert steps.std() > 0.1


def test_inference_stops_each_picture_at_the_threshold():
    module, (x, embedding) = loop(), seen()
    with torch.no_grad():
        thought, steps, cost = module(x, embedding)
        rs, halts = states(module, x, embedding, 6)
        assert len(set(steps.tolist())) > 2, "the pictures of this test should differ"
        for i in range(8):
            left, total = 1.0, torch.zeros(8, dtype=torch.float64)
            for n in range(1, 7):
                p_stop = left * float(halts[n - 1][i])
                if n >= 2 and left - p_stop <= 1 - 0.8:
                    p_stop = left
                total, left = total + p_stop * rs[n - 1][i], left - p_stop
                if left == 0:
                    break
            assert steps[i] == n
            torch.testing.assert_close(thought[i], module.out(total))
    assert cost.eq(0).all()


def test_a_picture_takes_the_same_steps_alone():
    module, (x, embedding) = loop(), seen()
    with torch.no_grad():
        thought, steps, _ = module(x, embedding)
        for i in range(8):
            alone = module(x[i : i + 1], embedding[i : i + 1])
            assert alone[1][0] == steps[i]
            torch.testing.assert_close(alone[0][0], thought[i], atol=1e-12, rtol=0)


def test_the_loop_ends_when_every_picture_has_stopped():
    module, (x, embedding) = loop(), seen()
    calls = list[int]()
    module.keep.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        _, steps, _ = module(x, embedding)
        for chosen in (slice(0, 8), slice(0, 1), steps == steps.min()):
            calls.clear()
            assert module(x[chosen], embedding[chosen])[1].max() == len(calls)


@pytest.mark.parametrize(("bias", "taken"), [(30.0, 2), (-30.0, 6)])
def test_two_steps_at_least_and_all_at_most(bias: float, taken: int):
    module, (x, embedding) = loop(), seen()
    assert module.halt is not None
    torch.nn.init.constant_(module.halt.bias, bias)
    torch.nn.init.zeros_(module.halt.weight)
    for mode in (True, False):
        thought, steps, cost = module.train(mode)(x, embedding)
        torch.testing.assert_close(steps, torch.full_like(steps, taken), atol=1e-6, rtol=0)
        torch.testing.assert_close(thought, module.out(states(module, x, embedding, 6)[0][taken - 1]))
        assert torch.isfinite(cost).all()


@pytest.mark.parametrize("depth", [2, 3, 6, 9])
def test_the_masked_unroll_equals_the_loop_that_stops(depth: int):
    """``depth`` moves the last step only: a picture that stopped earlier is unaffected."""
    module, (x, embedding) = loop(), seen()
    with torch.no_grad():
        unrolled = module(x, embedding, depth)
        for ours, theirs in zip(loop(steps=depth)(x, embedding), unrolled, strict=True):
            assert torch.equal(ours, theirs)
        thought, steps, _ = module(x, embedding)
        early = steps < min(depth, 6)
        assert torch.equal(unrolled[0][early], thought[early])
        assert unrolled[1].max() <= depth


def test_a_threshold_of_one_gives_the_expected_state_of_training():
    module, (x, embedding) = loop(threshold=1.0), seen()
    torch.testing.assert_close(module(x, embedding)[0], module.train()(x, embedding)[0])


def test_a_higher_threshold_thinks_longer_and_comes_nearer_to_training():
    x, embedding = seen(32)
    with torch.no_grad():
        expected = loop().train()(x, embedding)[0]
        outcomes = [loop(threshold=threshold)(x, embedding) for threshold in (0.3, 0.6, 0.9, 0.99)]
    steps = [float(outcome[1].mean()) for outcome in outcomes]
    errors = [float((outcome[0] - expected).square().mean()) for outcome in outcomes]
    assert steps == sorted(steps)
    assert errors == sorted(errors, reverse=True)


def test_halting_begins_as_its_prior():
    model = make(False, reasoning_steps=40).train()
    z, t = inputs()
    aux = model(z, t, text()).aux
    torch.testing.assert_close(aux["reasoning_steps"], torch.full((2,), 4.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(aux["loss_ponder"], torch.zeros(2), atol=1e-6, rtol=0)


def test_the_prompt_decides_how_long_to_think():
    """The steps have a gradient with respect to the pooled text, and halting can learn from it."""
    model = make().train()
    z, t = inputs(2)
    z, t = z[:1].expand(2, -1, -1, -1), t[:1].expand(2)
    labels = text()
    optimizer = torch.optim.Adam(model.reasoning.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        x = model.embed(z.flatten(2).transpose(1, 2))
        steps = model.reasoning(x, model.steering(t, labels))[1]
        (steps - torch.tensor([2.5, 5.5])).square().sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        taken = model(z, t, labels).aux["reasoning_steps"]
    assert taken[0] < taken[1]


def test_training_adds_the_ponder_cost_to_the_loss():
    batch = {"latents": inputs(4)[0], "seed": torch.arange(4)} | dict(
        zip(("tokens", "mask", "pooled"), (text(4).tokens, text(4).mask, text(4).pooled), strict=True)
    )
    for weight in (0.0, 0.01, 3.0):
        model = make(ponder_weight=weight).train()
        out = FlowTask(model, FlowSettings())(batch)
        error = out["per_sample"].mean()
        torch.testing.assert_close(out["loss"].detach(), error + out["loss_ponder"])
        assert (out["loss_ponder"] > 0) == (weight > 0)
        assert 2 <= out["reasoning_steps"] <= 6
    assert "loss_ponder" not in make()(*inputs(), text()).aux


def test_the_loop_can_be_fixed_or_left_out():
    z, t = inputs()
    fixed = make(reasoning_halting=False)
    assert fixed.reasoning.halt is None
    for mode in (True, False):
        with torch.no_grad():
            aux = fixed.train(mode)(z, t, text()).aux
        assert aux["reasoning_steps"].tolist() == [6, 6]
        assert aux.get("loss_ponder", torch.zeros(1)).eq(0).all()
    two = make(reasoning_steps=2)
    assert two.reasoning.halt is None
    without = make(reasoning_steps=0)
    assert not any(name.startswith("reasoning.") for name, _ in without.named_parameters())
    with torch.no_grad():
        assert two(z, t, text()).aux["reasoning_steps"].tolist() == [2, 2]
        assert without(z, t, text()).aux == {}
    with pytest.raises(PochadeError, match="depth: 2 given, but the network has no reasoning loop"):
        without(z, t, text(), depth=2)


# --- wrong arguments


def test_wrong_arguments_are_named():
    for changes, name in (
        ({"dim": 15}, "dim"),
        ({"sample_size": 5, "patch_size": 2}, "sample_size"),
        ({"decay": "matrix"}, "decay: 'matrix'"),
        ({"connections": "none"}, "connections: 'none'"),
        ({"fusion": "mean"}, "fusion: 'mean' given, must be gated or interpolated or attention or none"),
        ({"directions": 3}, "directions: 3"),
        ({"mixer": "conv"}, "mixer: 'conv' given, must be scan or attention"),
        ({"mixer": "attention", "directions": 2}, "directions: 2 given, allowed with mixer='scan' alone"),
        ({"streams": 0}, "streams"),
        ({"reasoning_steps": 1}, "reasoning_steps: 1 given"),
        ({"reasoning_steps": 65}, "reasoning_steps: 65 given"),
        ({"halt_threshold": 0.0}, r"halt_threshold: 0.0"),
        ({"ponder_steps": 2.0}, r"ponder_steps: 2.0"),
    ):
        with pytest.raises(PochadeError, match=name):
            make(**changes)
    model = make(patch_size=2)
    z, t = inputs()
    conditioning = text()
    for call, name in (
        (lambda: model(z[:, :2], t, conditioning), "latents: "),
        (lambda: model(z[..., :3], t, conditioning), "latents: "),
        (lambda: model(z[..., :0], t, conditioning), "latents: "),
        (lambda: model(z, t[:1], conditioning), "t: "),
        (lambda: model(z, t, conditioning, depth=1), "depth: 1 given"),
        (lambda: model(z, t, conditioning, depth=65), "depth: 65"),
        (lambda: model(z, t, conditioning, state=z), "state: "),
        (lambda: model(z, t, Conditioning(conditioning.tokens)), "mask: "),
        (lambda: model(z, t, Conditioning(source=z)), "source: .*allowed is None"),
        (lambda: model(z, t, Conditioning(task=torch.zeros(2).long())), "task: .*allowed is None"),
    ):
        with pytest.raises(PochadeError, match=name):
            call()
