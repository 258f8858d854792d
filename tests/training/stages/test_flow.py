from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.flow.path import interpolate, to_data
from pochade.training.stages.flow import FlowSettings, FlowTask, lengthened
from pochade.types import Conditioning, DenoiserOutput, InputSpec
from training.toy import gradients, halves


class Remember(nn.Module):
    """A denoiser that answers with a constant and keeps its arguments."""

    state_shape: tuple[int, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(0.3))

    def input_spec(self) -> InputSpec:
        return InputSpec(2, 4, 1, state_shape=self.state_shape)

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        self.arguments = (latents, t, conditioning)
        return DenoiserOutput(self.constant.expand(latents.shape))


def lrf(**changes: Any) -> nn.Module:
    from pochade.denoisers.lrf import LRFDenoiser

    torch.manual_seed(0)
    toy = {"latent_channels": 2, "sample_size": 4, "dim": 16, "heads": 2, "hidden": 24, "blocks": 1}
    model = LRFDenoiser(**{**toy, "text_dim": 5, "pooled_dim": 5, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def vectors(batch: int = 4, longest: int = 6) -> dict[str, Any]:
    g = torch.Generator().manual_seed(2)
    mask = torch.arange(longest)[None] < torch.tensor([2, 1, 3, 2] * (batch // 4))[:, None]
    return {
        "latents": torch.randn(batch, 2, 4, 4, generator=g),
        "tokens": torch.randn(batch, longest, 5, generator=g) * mask[..., None],
        "mask": mask,
        "pooled": torch.randn(batch, 5, generator=g),
        "seed": torch.arange(batch) * 7919,
        "name": [str(i) for i in range(batch)],
    }


def test_flow_loss_is_the_error_of_the_velocity():
    """The noise is found back from the arguments of the denoiser: z_t = (1 - t) z_0 + t eps."""
    denoiser = Remember()
    task = FlowTask(denoiser, FlowSettings(cfg_dropout=0.0))
    batch = vectors()
    out = task(batch)
    z_t, t, _ = denoiser.arguments
    eps = (z_t - (1 - t).view(-1, 1, 1, 1) * batch["latents"]) / t.view(-1, 1, 1, 1)
    torch.testing.assert_close(z_t, interpolate(batch["latents"], eps, t))
    torch.testing.assert_close(to_data(z_t, eps - batch["latents"], t), batch["latents"], atol=1e-5, rtol=1e-5)
    error = (0.3 - (eps - batch["latents"])).square().mean((1, 2, 3))
    torch.testing.assert_close(out["per_sample"], error.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["loss"], error.mean(), atol=1e-4, rtol=1e-4)
    assert torch.equal(out["t"], t)
    assert not out["per_sample"].requires_grad
    assert abs(float(eps.mean())) < 0.3
    assert 0.8 < float(eps.std()) < 1.2


def test_flow_loss_adds_what_the_family_asks_for_and_logs_the_rest():
    class Extras(Remember):
        def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> DenoiserOutput:
            out = super().forward(latents, t, conditioning)
            rows = torch.arange(len(t), dtype=torch.float32)
            aux = {"loss_rows": self.constant * rows, "loss_whole": self.constant.square(), "steps": (rows + 2).long()}
            return DenoiserOutput(out.velocity, aux=aux)

    settings, batch = FlowSettings(cfg_dropout=0.0), vectors()
    task, bare = FlowTask(Extras(), settings), FlowTask(Remember(), settings)
    out, plain = task(batch), bare(batch)
    torch.testing.assert_close(out["loss"], plain["loss"] + 0.3 * 1.5 + 0.09)
    slopes = [torch.autograd.grad(o["loss"], list(t.parameters()))[0] for o, t in ((out, task), (plain, bare))]
    torch.testing.assert_close(slopes[0], slopes[1] + 1.5 + 2 * 0.3)
    assert {k: round(float(out[k]), 4) for k in ("loss_rows", "loss_whole", "steps")} == {
        "loss_rows": 0.45,
        "loss_whole": 0.09,
        "steps": 3.5,
    }
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")
    torch.testing.assert_close(out["per_sample"], plain["per_sample"])


class Carry(Remember):
    """Hands on the mean of z_t and t, and remembers every state that it was given."""

    state_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(4, 4)
        self.states: list[Tensor | None] = []

    def forward(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, state: Tensor | None = None
    ) -> DenoiserOutput:
        self.arguments = (latents, t, conditioning)
        self.states.append(state)
        result = torch.stack((latents.mean((1, 2, 3)), t), 1)
        moved = torch.zeros(len(t), 2) if state is None else state
        return DenoiserOutput(self.weight(latents) + moved.mean(1)[:, None, None, None], state=self.constant * result)


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_a_first_pass_supplies_the_state_of_that_share_of_rows(share: float):
    denoiser, rows = Carry(), 600
    task = FlowTask(denoiser, FlowSettings(self_conditioning_prob=share))
    g = torch.Generator().manual_seed(4)
    latents = torch.randn(rows, 2, 4, 4, generator=g) + 5
    batch = {"latents": latents, "class_label": torch.zeros(rows).long(), "seed": torch.arange(rows)}
    out = task(batch)
    first, state = denoiser.states
    assert first is None
    assert state is not None
    assert not state.requires_grad
    z_t, t, conditioning = denoiser.arguments
    given = state.ne(0).any(1)
    torch.testing.assert_close(state, 0.3 * torch.stack((z_t.mean((1, 2, 3)), t), 1) * given[:, None])
    assert float(given.float().mean()) == pytest.approx(share, abs=0.04)
    if share == 0.9:  # whether there is a state tells nothing of t, nor of whether the label is dropped
        assert abs(float(t[given].mean() - t[~given].mean())) < 0.08
        dropped = conditioning.class_label == -1
        assert abs(float(given[dropped].float().mean()) - share) < 0.1
        part = {name: value[100:103] for name, value in batch.items()}
        torch.testing.assert_close(task(part)["per_sample"], out["per_sample"][100:103])
        assert torch.equal(denoiser.states[-1], state[100:103])


def test_noise_time_and_dropped_rows_are_the_same_with_and_without_a_state():
    carrying, plain, batch = Carry(), Remember(), vectors()
    for denoiser in (carrying, plain):
        FlowTask(denoiser, FlowSettings(cfg_dropout=0.5))(batch)
    assert all(torch.equal(a, b) for a, b in zip(carrying.arguments[:2], plain.arguments[:2], strict=True))
    assert torch.equal(carrying.arguments[2].mask, plain.arguments[2].mask)


def test_the_pass_without_gradient_does_not_cost_the_second_its_gradient():
    """Autocast keeps the weights that it has cast, those cast without gradient too."""
    task, batch = FlowTask(Carry(), FlowSettings()), vectors()
    task(batch)["loss"].backward()
    exact = gradients(task)
    task.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(batch)["loss"]
    loss.backward()
    name = "parts.denoiser.weight.weight"
    torch.testing.assert_close(gradients(task)[name], exact[name], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("weighting", ["constant", "min_snr"])
@pytest.mark.parametrize("time_shift", [1.0, 3.0])
def test_flow_loss_weighs_each_row(weighting: Any, time_shift: float):
    from pochade.flow.weighting import weight

    task = FlowTask(Remember(), FlowSettings(weighting=weighting, time_shift=time_shift))
    out = task(vectors())
    weights = weight(out["t"], weighting, "logit_normal", time_shift=time_shift)
    torch.testing.assert_close(out["loss"].detach(), (weights * out["per_sample"]).mean())
    assert (weights.std() > 0.05) == (weighting != "constant")


@pytest.mark.parametrize("density", ["uniform", "logit_normal", "laplace"])
def test_flow_times_follow_the_density(density: Any):
    from pochade.flow.timesteps import quantile

    task = FlowTask(Remember(), FlowSettings(density=density, density_scale=0.8 if density != "uniform" else None))
    rows = 1500
    batch = {"latents": torch.zeros(rows, 2, 1, 1), "class_label": torch.zeros(rows).long(), "seed": torch.arange(rows)}
    drawn = task(batch)["t"].sort()[0]
    u = (torch.arange(rows) + 0.5) / rows
    expected = quantile(u, density, scale=0.8 if density != "uniform" else None)
    steps = torch.linspace(0.01, 0.99, 99)
    gap = (torch.searchsorted(drawn, steps) - torch.searchsorted(expected, steps)).abs().max() / rows
    assert gap < 0.04  # Kolmogorov: 1.63 / sqrt(1500) = 0.042 is passed once in a hundred


def test_the_curriculum_opens_the_path_from_its_noisier_half():
    task = FlowTask(Remember(), FlowSettings(density="uniform", curriculum=0.5))
    batch = {**vectors(4), "latents": torch.randn(4, 2, 4, 4)}
    whole = FlowTask(Remember(), FlowSettings(density="uniform"))(batch)["t"]
    for progress, low in ((0.0, 0.5), (0.25, 0.25), (0.5, 0.0), (0.9, 0.0)):
        task.begin_step(progress)
        torch.testing.assert_close(task(batch)["t"], low + (1 - low) * whole)
    with pytest.raises(PochadeError, match=r"curriculum: 1\.5 given"):
        FlowSettings(curriculum=1.5)


def test_flow_loss_is_the_mean_over_the_halves_of_a_batch():
    """Also the gradients, also with text of other lengths in the other half."""
    batch = vectors(8)
    task = FlowTask(lrf(), FlowSettings(weighting="centre", cfg_dropout=0.3))
    whole = task(batch)
    parts = [task(half) for half in halves(batch, 8)]
    torch.testing.assert_close(sum(p["loss"] for p in parts) / 2, whole["loss"])
    torch.testing.assert_close(torch.cat([p["per_sample"] for p in parts]), whole["per_sample"])
    assert torch.equal(torch.cat([p["t"] for p in parts]), whole["t"])
    whole["loss"].backward()
    together = gradients(task)
    task.zero_grad()
    (sum(p["loss"] for p in parts) / 2).backward()
    for name, value in gradients(task).items():
        torch.testing.assert_close(value, together[name], atol=1e-6, rtol=1e-4)


def test_flow_draws_come_from_the_seeds_alone():
    task, batch = FlowTask(lrf(), FlowSettings()), vectors()
    torch.manual_seed(1)
    first = task(batch)["loss"]
    torch.manual_seed(2)
    assert torch.equal(task(batch)["loss"], first)
    assert not torch.equal(task({**batch, "seed": batch["seed"] + 1})["loss"], first)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_that_share_of_rows_loses_its_conditioning(share: float):
    denoiser = Remember()
    task = FlowTask(denoiser, FlowSettings(cfg_dropout=share))
    rows = 600
    batch = {"latents": torch.zeros(rows, 2, 1, 1), "class_label": torch.full((rows,), 4), "seed": torch.arange(rows)}
    task(batch)
    labels, t = denoiser.arguments[2].class_label, denoiser.arguments[1]
    dropped = labels == -1
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.06)
    assert (labels[~dropped] == 4).all()
    if 0 < share < 1:  # whether it is dropped tells nothing of t
        assert abs(float(t[dropped].mean() - t[~dropped].mean())) < 0.06
    text = vectors()
    task(text)
    given = denoiser.arguments[2]
    gone = ~given.mask.any(1)
    assert given.tokens[gone].eq(0).all()
    assert given.pooled[gone].eq(0).all()
    assert gone.all() == (share == 1.0)


@torch.no_grad()
@pytest.mark.parametrize(("given", "expected"), [(1, 7), (6, 7), (7, 7), (8, 15)])
def test_text_is_padded_to_few_lengths(given: int, expected: int):
    """With the network's own token each is a multiple of 8; what the network makes of it is the same."""
    batch, denoiser = vectors(longest=given), lrf().eval()
    tokens, mask = lengthened(batch["tokens"], batch["mask"])
    assert tokens.shape == (4, expected, 5)
    assert mask.shape == (4, expected)
    arguments = batch["latents"], torch.rand(4)
    found = denoiser(*arguments, Conditioning(tokens, mask, batch["pooled"])).velocity
    plain = denoiser(*arguments, Conditioning(batch["tokens"], batch["mask"], batch["pooled"])).velocity
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


def test_flow_learns_one_batch():
    task, batch = FlowTask(lrf(), FlowSettings(cfg_dropout=0.0)), vectors()
    optimizer = torch.optim.Adam(task.trainable().parameters(), 5e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_text_encoder_can_be_trained_along():
    from pochade.text_encoders.bag import BagEncoder

    captions = ["a red apple", "a blue house", "", "two green pears"]
    torch.manual_seed(0)
    encoder = BagEncoder(BagEncoder.train_tokenizer(captions, 300), dim=5, hidden_dim=8)
    task = FlowTask(lrf(), FlowSettings(text_encoder="bag", cfg_dropout=0.0), encoder)
    batch = {k: v for k, v in vectors().items() if k in ("latents", "seed")} | {"caption": captions}
    whole = task(batch)
    parts = [task({k: v[s] for k, v in batch.items()}) for s in (slice(2), slice(2, 4))]
    torch.testing.assert_close(sum(p["loss"] for p in parts) / 2, whole["loss"])
    whole["loss"].backward()
    names = {name.split(".")[1] for name in gradients(task)}
    assert names == {"denoiser", "text_encoder"}
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())
    given = task.conditioning(batch)
    direct = encoder.encode(captions)
    torch.testing.assert_close(given.tokens, direct.tokens)
    torch.testing.assert_close(given.pooled, direct.pooled)


def test_positions_and_embeddings_are_kept_from_weight_decay():
    task = FlowTask(lrf(num_classes=3), FlowSettings())
    free = {id(p) for group in task.parameter_groups(0.1, 1e-3) if group["weight_decay"] == 0 for p in group["params"]}
    denoiser = task.parts["denoiser"]
    assert id(denoiser.positions.table) in free
    assert id(denoiser.classes.weight) in free
    assert id(denoiser.embed.bias) in free
    assert id(denoiser.embed.weight) not in free


def test_what_it_lets_be_compiled_is_what_it_calls():
    """A module whose forward nobody calls would be compiled for nothing."""
    task = FlowTask(lrf(), FlowSettings())
    called: list[nn.Module] = []
    for module in task.compilable():
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    task(vectors())
    assert {*called} == {*task.compilable()}
    assert called


@pytest.mark.parametrize("added", ["with_source", "with_control", "with_image_prompt"])
def test_what_no_batch_has_is_unused(added: str) -> None:
    """Training that goes on from an editing model, or one with an adapter: several processes then look for it."""
    from pochade.denoisers.iris import IRISDenoiser
    from pochade.denoisers.microforge import MicroForgeDenoiser

    toy: dict[str, Any] = {
        "latent_channels": 2,
        "sample_size": 4,
        "dim": 16,
        "heads": 2,
        "text_dim": 5,
        "pooled_dim": 5,
    }
    cls, own, arguments = {
        "with_source": (IRISDenoiser, {}, (("edit",),)),
        "with_control": (IRISDenoiser, {}, ("edges",)),
        "with_image_prompt": (MicroForgeDenoiser, {}, (6, "lite0")),
    }[added]
    plain = cls(**toy, **own)
    assert not FlowTask(plain, FlowSettings()).has_unused
    task = FlowTask(getattr(plain, added)(*arguments), FlowSettings())
    assert task.has_unused
    task(vectors())["loss"].backward()
    assert [name for name, parameter in task.named_parameters() if parameter.grad is None]


def test_the_source_path_of_lrf_learns_without_sources() -> None:
    denoiser: Any = lrf()
    task = FlowTask(denoiser, FlowSettings())
    task.trainable().train()
    task(vectors())["loss"].backward()
    assert not task.has_unused
    assert [name for name, parameter in task.named_parameters() if parameter.grad is None] == []
    assert FlowTask(denoiser.with_source(("edit",)), FlowSettings()).has_unused
