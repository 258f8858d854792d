import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pochade import denoisers
from pochade.denoisers.microforge import VARIANTS, MicroForgeDenoiser
from pochade.denoisers.microforge.planner import mean_cosine, mean_squared_cosine
from pochade.errors import PochadeError
from pochade.flow.guidance import Guidance, GuidedDenoiser
from pochade.flow.sampling import sample
from pochade.nn.modulation import GroupedModulation
from pochade.nn.scan_orders import ZIGZAGS
from pochade.nn.zigzag_scan import ZigzagScan
from pochade.training.stages.flow import FlowSettings, FlowTask
from pochade.types import TASKS, Conditioning

TOY: dict[str, Any] = {"latent_channels": 3, "sample_size": 4, "dim": 16, "heads": 2, "blocks": 2, "inner": 16}
TOY |= {"state_size": 3, "attention_every": 1, "modulation_groups": 4}
TOY |= {"plan_tokens": 3, "plan_layers": 1, "plan_hidden": 16, "text_dim": 6, "pooled_dim": 5, "num_classes": 3}
SWITCHES: dict[str, dict[str, Any]] = {
    "A1": {"plan_tokens": 0},
    "A2": {"mixer": "attention"},
    "A3": {"attention_every": 0},
    "A4": {"depthwise": False},
    "A5": {"self_conditioning": False},
    "A6": {"modulation": "full"},
    "diagonal": {"decay": "diagonal"},
}


def make(stirred: bool = True, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = MicroForgeDenoiser(**{**TOY, **changes})
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
    mask = torch.arange(3)[None] < torch.tensor([2, 3] * batch)[:batch, None]
    tokens = torch.randn(batch, 3, 6, generator=g) * mask[..., None]
    return Conditioning(tokens, mask, torch.randn(batch, 5, generator=g))


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def on_meta(variant: str, **changes: Any) -> Any:
    with torch.device("meta"):
        return denoisers.build("microforge", variant, **changes)


# --- sizes


@pytest.mark.parametrize(
    ("variant", "backbone", "planner"),
    [
        ("nano", (3e6, 4e6), 0.5e6),
        ("tiny", (7.2e6, 8.8e6), 4e6),
        ("small", (26.1e6, 31.9e6), 8e6),
        ("base", (63.9e6, 78.1e6), 12e6),
    ],
)
def test_sizes_of_backbone_and_planner(variant: str, backbone: tuple[float, float], planner: float):
    model = on_meta(variant)
    assert backbone[0] <= count(model) - count(model.planner) <= backbone[1]
    assert count(model.planner) == pytest.approx(planner, rel=0.1)
    depth, dim = {"nano": (6, 128), "tiny": (6, 256), "small": (12, 384), "base": (18, 512)}[variant]
    assert (len(model.core), model.config.dim) == (depth, dim)
    assert all(block.feedforward.inner.out_features == 3 * dim for block in model.core)


def test_every_variant_has_its_size_tested():
    assert set(VARIANTS) == {"nano", "tiny", "small", "base"}


def test_the_state_of_small_takes_49_kilobytes():
    tokens, dim = on_meta("small").state_shape
    assert 4 * tokens * dim == 49_152


def test_what_full_modulation_costs():
    """A matrix for each block instead of one for all: at nano scale a fifth more of the backbone."""
    grouped, full = on_meta("nano"), on_meta("nano", modulation="full")
    assert count(grouped.modulations) == 128 * 129 + 9 * 128**2 + 6 * 9 * 128 * (128 // 16 + 1)
    assert count(full.modulations) == 6 * 9 * 128 * 129
    assert count(full.modulations) > 3.8 * count(grouped.modulations)


# --- backbone


def test_eight_paths_take_turns():
    model = make(blocks=10)
    assert [block.mixer.path for block in model.core] == [*ZIGZAGS, *ZIGZAGS[:2]]


def test_the_attention_is_one_instance_counted_once():
    sizes = [count(make(blocks=6, attention_every=every)) for every in (1, 3, 6)]
    assert sizes[0] == sizes[1] == sizes[2]
    without = make(blocks=6, attention_every=0)
    assert without.attention is None
    assert sizes[0] - count(without) == count(make(blocks=6, attention_every=1).attention)
    for every, calls in ((1, 6), (2, 3), (4, 1), (6, 1)):
        model, seen = make(blocks=6, attention_every=every), []
        model.attention.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        model(*inputs(), text())
        assert len(seen) == calls


def test_before_training_every_block_is_the_identity():
    model = make(stirred=False)
    x, embedding = torch.randn(2, 16, 16), torch.randn(2, 16)
    context, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    for block, modulation in zip(model.core, model.modulations(embedding), strict=True):
        assert torch.equal(block(x, modulation, context, mask, (4, 4)), x)
    assert model.attention(x).eq(0).all()


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_gives_a_network_that_learns(name: str):
    model = make(**SWITCHES[name])
    z, t = inputs()
    state = model(z, t, text()).state
    model(z, t, text(), state=None if state is None else state.detach()).velocity.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert make(stirred=False, **SWITCHES[name])(z, t, text()).velocity.eq(0).all()
    assert (model(z, t, text()).velocity - make()(z, t, text()).velocity).abs().max() > 1e-3


def test_what_the_switches_take_away():
    assert make(plan_tokens=0).planner is None
    assert not any(isinstance(m, ZigzagScan) for m in make(mixer="attention").modules())
    assert not any(".local." in n for n, _ in make(depthwise=False).named_parameters())
    assert not any(
        n in ("planner.keep", "planner.carry_scale") for n, _ in make(self_conditioning=False).named_parameters()
    )
    assert not any(isinstance(m, GroupedModulation) for m in make(modulation="full").modules())


def test_cross_attention_reads_text_and_plan_together():
    """A block depends on the text directly, of the plan, and of nothing else from outside."""
    model, seen = make(), []
    model.core[0].look.register_forward_hook(lambda module, given, out: seen.append(given))
    model(*inputs(), text())
    _, (key, _), mask = seen[0]
    assert key.shape[2] == 1 + 3 + 3  # the learned token, three words, three plan tokens
    assert mask.tolist() == [[True, True, True, False, True, True, True], [True] * 7]


@pytest.mark.parametrize("planner", [0, 3])
def test_without_text(planner: int):
    """Class labels alone, with and without a planner; with neither there is no cross-attention."""
    model = make(text_dim=0, pooled_dim=0, plan_tokens=planner).eval()
    assert (model.core[0].look is None) == (planner == 0)
    z, t = inputs()
    with torch.no_grad():
        outputs = [model(z, t, Conditioning(class_label=torch.tensor([label] * 2))).velocity for label in (-1, 0, 1)]
        assert torch.equal(model(z, t, Conditioning()).velocity, outputs[0])
    for a, b in itertools.combinations(outputs, 2):
        assert (a - b).abs().max() > 1e-3


def test_two_pictures_side_by_side_are_one_grid():
    """What tasks by concatenation will need: the grid may be wide, and all of the right half depends on the left."""
    model = make().eval()
    z = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(5))
    t = torch.full((1,), 0.4)
    other = z.clone()
    other[..., 2, 0] += 1
    with torch.no_grad():
        change = (model(other, t, text(1)).velocity - model(z, t, text(1)).velocity)[..., 4:].abs()
    assert change.amax((0, 1)).min() > 1e-7


# --- a picture to edit


def edit(batch: int = 2, seed: int = 11) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    source, mask = torch.randn(batch, 3, 4, 4, generator=g), torch.rand(batch, 1, 4, 4, generator=g)
    return replace(text(batch), source=source, source_mask=mask, task=torch.arange(batch) % len(TASKS))


@pytest.mark.parametrize("kind", ["width", "channels"])
def test_a_source_gives_a_network_that_learns(kind: str):
    model = make(source=kind)
    z, t = inputs()
    state = model(z, t, edit()).state.detach()
    model(z, t, edit(), state=state).velocity.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert make(stirred=False, source=kind)(z, t, edit()).velocity.eq(0).all()


@pytest.mark.parametrize("kind", ["width", "channels"])
def test_every_part_of_an_edit_matters_everywhere(kind: str):
    model = make(source=kind).eval()
    z, t = inputs()
    with torch.no_grad():
        plain = model(z, t, edit()).velocity
        for name, value in (("source", edit(seed=12).source), ("source_mask", edit(seed=12).source_mask)):
            assert (model(z, t, replace(edit(), **{name: value})).velocity - plain).abs().amax((1, 2)).min() > 1e-4
        other = model(z, t, replace(edit(), task=torch.tensor([3, 2]))).velocity
        assert (other - plain).abs().amax((1, 2, 3)).min() > 1e-4
        without_text = model(z, t, replace(edit(), task=torch.tensor([-1, -1]))).velocity
        torch.testing.assert_close(without_text, model(z, t, replace(edit(), task=None)).velocity)


def test_generation_uses_the_target_alone():
    """A network that has learned to edit gives without a source what it would without the place for one, but for the
    embedding of the task "generate"."""
    generator, editor = make(), make(source="width")
    editor.task_vectors.weight.data[0] = 0
    kept = {n: p for n, p in editor.state_dict().items() if n not in ("embed_source.weight", "task_vectors.weight")}
    generator.load_state_dict(kept)
    z, t = inputs()
    with torch.no_grad():
        assert torch.equal(editor(z, t, text()).velocity, generator(z, t, text()).velocity)


def test_in_channels_a_source_adds_nothing_before_training():
    generator, editor = make(), make(source="channels")
    editor.load_state_dict(generator.state_dict(), strict=False)
    with torch.no_grad():
        nn.init.zeros_(editor.embed_source.weight)
        nn.init.zeros_(editor.task_vectors.weight)
        z, t = inputs()
        assert torch.equal(editor(z, t, edit()).velocity, generator(z, t, text()).velocity)


def test_samples_with_and_without_a_source_are_independent():
    model = make(source="width", diversity_weight=0.1).eval()
    z, t = inputs(4)
    state = torch.randn(4, 3, 16)
    dropped = torch.tensor([True, False, False, True])
    with torch.no_grad():
        mixed = model(z, t, edit(4).drop("source", rows=dropped), state=state)
        with_source, without = model(z, t, edit(4), state=state), model(z, t, text(4), state=state)
    for name in ("velocity", "state"):
        values = (getattr(out, name) for out in (mixed, with_source, without))
        found, with_text, without_text = values
        torch.testing.assert_close(found[~dropped], with_text[~dropped], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[dropped], without_text[dropped], atol=1e-5, rtol=0)
    assert set(mixed.aux) == {"diversity", "loss_diversity"}
    torch.testing.assert_close(mixed.aux["diversity"][dropped], without.aux["diversity"][dropped], atol=1e-5, rtol=0)


# --- planner


def test_the_plan_reads_the_picture_the_text_and_the_time():
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        plan = model(z, t, text()).state
        others = model(z + 0.5, t, text()).state, model(z, t, text().drop("text")).state, model(z, t / 2, text()).state
    assert plan.shape == (2, 3, 16)
    assert all((other - plan).abs().max() > 1e-3 for other in others)
    torch.testing.assert_close(plan.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(plan.var(-1, correction=0), torch.ones(2, 3), atol=1e-3, rtol=0)


def test_plan_tokens_set_out_apart():
    """A common part in all of them, such as the time added to each, ends with one token K times (mean cosine 0.99)."""
    model = make(stirred=False, dim=64, plan_tokens=8, plan_layers=3)
    z, t = inputs()
    assert model(z, t, text()).aux["diversity"].abs().max() < 0.15


def test_before_training_self_conditioning_has_no_effect():
    model = make(stirred=False)
    z, t = inputs()
    first = model(z, t, text()).state
    assert torch.equal(model(z, t, text(), state=torch.randn(2, 3, 16)).state, first)


def test_no_state_is_a_state_of_zeros():
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        none, zeros = model(z, t, text()), model(z, t, text(), state=torch.zeros(2, 3, 16))
        torch.testing.assert_close(zeros.velocity, none.velocity, atol=1e-6, rtol=0)
        torch.testing.assert_close(zeros.state, none.state, atol=1e-6, rtol=0)
        assert (model(z, t, text(), state=none.state).velocity - none.velocity).abs().max() > 1e-4


def test_self_conditioning_is_a_gated_mean_of_two_plans():
    """p = sigmoid(w) norm(p_prev) + (1 - sigmoid(w)) p_init, seen by layers that add nothing."""
    model = make().eval()
    planner = model.planner
    with torch.no_grad():
        for layer in planner.layers:
            for linear in (layer.read.out, layer.reason.out, layer.feedforward.out):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        x, embedding = torch.randn(2, 16, 16), torch.zeros(2, 16)
        words, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
        before = torch.randn(2, 3, 16)
        init = planner.queries + planner.text(planner.queries.expand(2, -1, -1), planner.text.context(words), mask)
        gate = torch.sigmoid(planner.keep)
        normed = before / (before.square().mean(-1, keepdim=True) + 1e-6).sqrt() * planner.carry_scale
        expected = nn.functional.layer_norm(gate * normed + (1 - gate) * init, (16,), eps=1e-6)
        torch.testing.assert_close(planner(x, embedding, words, mask, before)[0], expected, atol=1e-5, rtol=1e-5)
        planner.keep.fill_(50.0)
        first, second = (planner(x, embedding, w, mask, before)[0] for w in (words, -words))
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0)  # the previous plan alone, not the text


def test_each_branch_of_guidance_keeps_its_own_plan():
    """Three guided steps are three steps of two separate denoisers, joined after each."""
    model = make().eval()
    z, _ = inputs()
    scheduler = FlowMatchEulerDiscreteScheduler()
    guided = sample(GuidedDenoiser(model, Guidance(3.0)), scheduler, z, text(), num_inference_steps=3)
    states: list[Tensor | None] = [None, None]
    stateless = x = z
    with torch.no_grad():
        for step in range(3):
            t = torch.full((2,), 1 - step / 3)
            with_text, without_text = (
                model(x, t, c, state=s) for c, s in zip((text(), text().drop("text")), states, strict=True)
            )
            states = [with_text.state, without_text.state]
            x = x - (without_text.velocity + 3 * (with_text.velocity - without_text.velocity)) / 3
            a, b = model(stateless, t, text()).velocity, model(stateless, t, text().drop("text")).velocity
            stateless = stateless - (b + 3 * (a - b)) / 3
    torch.testing.assert_close(guided, x, atol=1e-4, rtol=1e-4)
    assert (guided - stateless).abs().max() > 1e-2


def test_a_state_of_another_model_or_batch_is_refused():
    z, t = inputs()
    model = make()
    for wrong in (torch.zeros(2, 4, 16), torch.zeros(3, 3, 16), torch.zeros(2, 3, 8), torch.zeros(3, 16)):
        with pytest.raises(PochadeError, match=r"state: shape .* given, allowed is \(2, 3, 16\)"):
            model(z, t, text(), state=wrong)
    for changes in ({"self_conditioning": False}, {"plan_tokens": 0}):
        other = make(**changes)
        assert other.state_shape is None
        assert other(z, t, text()).state is None
        with pytest.raises(PochadeError, match="state: a tensor given, but nothing is carried"):
            other(z, t, text(), state=torch.zeros(2, 3, 16))


def test_diversity_is_the_mean_cosine_of_two_different_tokens():
    plan = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(3))
    pairs = [nn.functional.cosine_similarity(plan[:, i], plan[:, j]) for i, j in itertools.combinations(range(5), 2)]
    torch.testing.assert_close(mean_cosine(plan), torch.stack(pairs).mean(0))
    torch.testing.assert_close(mean_squared_cosine(plan), torch.stack(pairs).square().mean(0))
    alike, apart = torch.ones(1, 3, 4), torch.eye(4)[None, :3]
    assert [float(mean_cosine(p)) for p in (alike, apart)] == pytest.approx([1, 0], abs=1e-6)


def test_diversity_is_always_there_and_its_loss_with_a_weight():
    z, t = inputs()
    out = make()(z, t, text())
    assert set(out.aux) == {"diversity"}
    torch.testing.assert_close(out.aux["diversity"], mean_cosine(out.state))
    weighted = make(diversity_weight=0.5)(z, t, text())
    torch.testing.assert_close(weighted.aux["loss_diversity"], 0.5 * mean_squared_cosine(weighted.state))
    assert make(plan_tokens=0)(z, t, text()).aux == {}


def test_the_diversity_loss_holds_plan_tokens_apart():
    model = make(plan_tokens=4)
    with torch.no_grad():
        model.planner.queries.copy_(model.planner.queries[:, :1] + 0.05 * torch.randn_like(model.planner.queries))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    z, t = inputs()
    values: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        plan = model(z, t, text()).state
        values.append(float(mean_cosine(plan).mean().detach()))
        mean_squared_cosine(plan).mean().backward()
        optimizer.step()
    assert values[0] > 0.8
    assert abs(values[-1]) < 0.3


def test_two_passes_train_self_conditioning_and_log_diversity():
    task = FlowTask(make(diversity_weight=0.1), FlowSettings(cfg_dropout=0.0))
    conditioning = text(8)
    batch = {
        "latents": torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(8)),
        "tokens": conditioning.tokens,
        "mask": conditioning.mask,
        "pooled": conditioning.pooled,
        "seed": torch.arange(8) + 3,
    }
    out = task(batch)
    out["loss"].backward()
    planner: Any = task.parts["denoiser"].planner
    assert planner.keep.grad.abs().sum() > 0
    assert planner.carry_scale.grad.abs().sum() > 0
    assert {"diversity", "loss_diversity"} <= set(out)
    assert out["diversity"].ndim == 0
    without = FlowTask(make(self_conditioning=False), FlowSettings(cfg_dropout=0.0))(batch)
    assert "loss_diversity" not in without


# --- the house


def test_what_is_not_decayed():
    task = FlowTask(make(decay="diagonal"), FlowSettings())
    kept = {id(p) for group in task.parameter_groups(0.1, 1e-3) if group["weight_decay"] == 0 for p in group["params"]}
    names = {n.removeprefix("parts.denoiser.") for n, p in task.named_parameters() if id(p) in kept}
    assert {
        "planner.queries",
        "planner.keep",
        "planner.carry_scale",
        "modulations.bias",
        "positions.table",
        "steering.classes.weight",
        "text.null_token",
        "core.0.mixer.selection.A_log",
        "core.0.mixer.selection.D",
        "core.1.mixer.selection.dt_bias",
        "core.1.mixer.norm",
        "out.bias",
    } <= names
    assert not {"modulations.weight", "modulations.shared.weight", "core.0.look.out.weight", "out.weight"} & names


def test_what_is_the_scans_own_learns_at_its_own_rate():
    plain, slow = FlowTask(make(), FlowSettings()), FlowTask(make(), FlowSettings(scan_rate=0.1))
    groups = slow.parameter_groups(0.1, 1e-3)
    names = {id(p): n.removeprefix("parts.denoiser.") for n, p in slow.named_parameters()}
    apart = [names[id(p)] for group in groups if group["lr"] == pytest.approx(1e-4) for p in group["params"]]
    own = ("A_log", "D", "dt_bias")
    assert sorted(apart) == sorted(f"core.{i}.mixer.selection.{name}" for i in range(2) for name in own)
    assert {group["lr"] for group in plain.parameter_groups(0.1, 1e-3)} == {1e-3}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(names)
    assert all(group["weight_decay"] == 0 for group in groups if group["lr"] < 1e-3)
    with pytest.raises(PochadeError, match="scan_rate: 0 given"):
        FlowSettings(scan_rate=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype):
    model = make().eval()
    z, t = inputs()
    with torch.no_grad():
        exact = model(z, t, text(), state=model(z, t, text()).state)
        half = model.to(dtype)(z.to(dtype), t, text().to(dtype=dtype), state=exact.state)
    assert half.velocity.dtype == dtype
    assert (half.velocity.float() - exact.velocity).abs().max() < 0.1 * exact.velocity.abs().max()
    assert (half.state.float() - exact.state).abs().max() < 0.2


def test_wrong_arguments_are_named():
    for changes, name in (
        ({"dim": 15}, "heads: 2"),
        ({"sample_size": 5, "patch_size": 2}, "sample_size: 5"),
        ({"mixer": "conv"}, "mixer: 'conv'"),
        ({"modulation": "none"}, "modulation: 'none'"),
        ({"decay": "matrix"}, "decay: 'matrix'"),
        ({"modulation_groups": 5}, "groups: 5"),
        ({"plan_tokens": 1}, "plan_tokens: 1 given, must be 0, or a whole number from 2 to"),
        ({"plan_layers": 0}, "plan_layers: 0 given, must be a whole number from 1 to"),
        ({"attention_every": 3}, "attention_every: 3 given, allowed are 0 to 2, the blocks"),
        ({"source": "height"}, "source: 'height'"),
        ({"blocks": 0}, "blocks: 0 given, must be a whole number from 1 to"),
        ({"diversity_weight": -1.0}, r"diversity_weight: -1\.0"),
        ({"mixer": "attention", "depthwise": False}, "depthwise: False"),
        ({"mixer": "attention", "depthwise_kernel": 5}, "depthwise_kernel: 5"),
        ({"depthwise": False, "depthwise_kernel": 5}, "depthwise_kernel: 5 given, but depthwise is False"),
        ({"depthwise_kernel": 4}, "depthwise_kernel: 4 given, must be 3 or 5 or 7"),
    ):
        with pytest.raises(PochadeError, match=name):
            make(**changes)
    z, t = inputs()
    model = make()
    for conditioning, name in (
        (Conditioning(source=z), "source: "),
        (Conditioning(task=torch.zeros(2).long()), "task: "),
    ):
        with pytest.raises(PochadeError, match=name):
            model(z, t, conditioning)
    with pytest.raises(PochadeError, match="depth: 2 given, but MicroForge does not iterate"):
        model(z, t, text(), depth=2)
