from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.flow.noise import rows_normal
from pochade.flow.path import interpolate, to_data
from pochade.training.tasks.autoencoder import (
    AutoencoderSettings,
    AutoencoderTask,
    PatchDiscriminator,
    build_autoencoder,
)
from pochade.training.tasks.flow import FlowSettings, FlowTask
from pochade.types import Conditioning, DenoiserOutput

SMALL = {"latent_channels": 2, "width": 8, "encoder_blocks": (0, 0, 1, 1), "decoder_blocks": (1, 1, 0, 0)}


def halves(batch: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    return [{k: v[part] for k, v in batch.items()} for part in (slice(rows // 2), slice(rows // 2, None))]


# --- the autoencoder


def autoencoder_task(perceptual: Any = None, **changes: Any) -> AutoencoderTask:
    torch.manual_seed(0)
    settings = AutoencoderSettings(**{**SMALL, "perceptual": 0.5 if perceptual else 0.0, **changes})
    task = AutoencoderTask(build_autoencoder(settings), settings, perceptual)
    with torch.no_grad():
        for parameter in task.autoencoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return task


def pictures(batch: int = 4) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    coarse = torch.rand(batch, 3, 4, 4, generator=g) * 2 - 1
    return {"image": nn.functional.interpolate(coarse, size=(16, 16)), "seed": torch.arange(batch) + 5}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_autoencoder_loss_is_the_weighted_sum_of_its_terms():
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().amax()

    task = autoencoder_task(distance, latent_noise=0.0, l1=0.3, mse=0.7)
    batch = pictures()
    out = task(batch)
    decoded, x = task.autoencoder(batch["image"]), batch["image"]
    expected = 0.3 * (decoded - x).abs().mean() + 0.7 * (decoded - x).square().mean() + 0.5 * distance(decoded, x)
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(out["psnr"], 10 * torch.log10(4 / (decoded - x).square().mean()))
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")


def test_autoencoder_loss_is_the_mean_over_the_halves_of_a_batch():
    """Without latent noise; with it, the spread of the latents is that of the batch at hand."""
    task, batch = autoencoder_task(latent_noise=0.0), pictures()
    whole = task(batch)["loss"]
    torch.testing.assert_close(sum(task(half)["loss"] for half in halves(batch, 4)) / 2, whole)
    whole.backward()
    together = gradients(task)
    task.zero_grad()
    for half in halves(batch, 4):
        (task(half)["loss"] / 2).backward()
    for name, value in gradients(task).items():
        torch.testing.assert_close(value, together[name], atol=1e-6, rtol=1e-4)


def test_latent_noise_comes_from_the_seeds_and_is_a_share_of_the_spread():
    task, batch = autoencoder_task(latent_noise=0.25), pictures()
    assert torch.equal(task(batch)["loss"], task(batch)["loss"])
    other = {**batch, "seed": batch["seed"] + 1}
    assert not torch.equal(task(other)["loss"], task(batch)["loss"])
    raw = task.autoencoder.encode_raw(batch["image"])
    noise = rows_normal(batch["seed"], raw.shape[1:]) * 0.25 * raw.std((0, 2, 3), keepdim=True)
    decoded = task.autoencoder.decode_raw(raw + noise)
    torch.testing.assert_close(task(batch)["l1"], (decoded - batch["image"]).abs().mean())


def test_perceptual_net_is_no_part_of_the_task():
    net = nn.Linear(2, 2)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return net(torch.ones(2)).sum() * 0 + (a - b).abs().mean()

    task = autoencoder_task(distance)
    task(pictures())["loss"].backward()
    assert not any(p is net.weight for p in task.parameters())


def test_autoencoder_learns_one_batch():
    task, batch = autoencoder_task(latent_noise=0.05), pictures()
    optimizer = torch.optim.Adam(task.trainable().parameters(), 3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_the_decoder_can_be_trained_alone():
    task = autoencoder_task(part="decoder")
    task(pictures())["loss"].backward()
    assert all(name.startswith("autoencoder.decoder.") for name in gradients(task))
    assert len(gradients(task)) == len(list(task.autoencoder.decoder.parameters()))
    chosen = {id(p) for group in task.parameter_groups(0.1, 1e-3) for p in group["params"]}
    assert chosen == {id(p) for p in task.autoencoder.decoder.parameters()}


def test_adversary_scores_patches_of_eight_pixels():
    net = PatchDiscriminator(8)
    assert net(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 4, 6)
    for layer in (layer for layer in net.layers if hasattr(layer, "parametrizations")):
        for _ in range(30):
            weight = layer.weight.detach()  # in training each look at it improves the estimate of its norm
        assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_one_backward_pass_gives_the_gradients_of_two():
    """The generator's step against a fixed adversary, the adversary's against a fixed picture, each on its own."""
    task, batch = autoencoder_task(adversarial=0.4, latent_noise=0.0), pictures()
    task.discriminator.eval()  # in training each call moves the estimate of the spectral norm a little
    out = task(batch)
    out["loss"].backward()
    joint = gradients(task)
    task.zero_grad()

    net, adversary, x = task.autoencoder, task.discriminator, batch["image"]
    decoded = net(x)
    generator = (decoded - x).abs().mean() + (decoded - x).square().mean() - 0.4 * adversary(decoded).mean()
    generator.backward()
    expected = {name: g for name, g in gradients(task).items() if name.startswith("autoencoder.")}
    task.zero_grad()
    hinge = (1 - adversary(x)).relu().mean() + (1 + adversary(net(x).detach())).relu().mean()
    hinge.backward()
    expected |= {name: g for name, g in gradients(task).items() if name.startswith("discriminator.")}

    assert joint.keys() == expected.keys() == {name for name, _ in task.named_parameters()}
    for name, value in joint.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(out["discriminator"], hinge.detach())


def test_the_adversary_is_trained_averaged_and_saved_with_the_autoencoder():
    task = autoencoder_task(adversarial=0.1)
    trained = {id(p) for p in task.trainable().parameters()}
    assert {id(p) for p in task.discriminator.parameters()} < trained
    assert {id(p) for p in task.autoencoder.parameters()} < trained
    grouped = [id(p) for group in task.parameter_groups(0.0, 1e-3) for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(trained)
    plain = autoencoder_task()
    assert plain.trainable() is plain.autoencoder
    assert plain.discriminator is None


# --- terms that the shipped recipe leaves out


def variational_task(**changes: Any) -> AutoencoderTask:
    from pochade.autoencoders.deep_compression import DeepCompressionVAE

    torch.manual_seed(0)
    toy: dict[str, Any] = {"latent_channels": 2, "widths": (4, 4, 4), "downsampling": 8, "variational": True}
    model = DeepCompressionVAE(**toy, encoder_blocks=(1, 0, 0), decoder_blocks=(0, 0, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return AutoencoderTask(model, AutoencoderSettings(**({"perceptual": 0.0, "latent_noise": 0.0} | changes)))


def test_kl_is_the_divergence_from_a_standard_normal():
    task, batch = variational_task(kl=0.3, l1=0.0), pictures()
    out = task(batch)
    mean, log_variance = task.autoencoder.encode_distribution(batch["image"])
    given = torch.distributions.Normal(mean, (log_variance / 2).exp())
    divergence = torch.distributions.kl_divergence(given, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(out["kl"], divergence.detach())
    drawn = mean + (log_variance / 2).exp() * rows_normal(batch["seed"], mean.shape[1:])
    error = (task.autoencoder.decode_raw(drawn) - batch["image"]).square().mean()
    torch.testing.assert_close(out["loss"], error + 0.3 * divergence)
    out["loss"].backward()
    assert gradients(task)["autoencoder.encoder.head.weight"][2:].abs().sum() > 0


def test_variances_of_the_encoder_and_of_the_latent_noise_add_up():
    task, batch = variational_task(kl=1e-6, latent_noise=0.5), pictures()
    mean, log_variance = task.autoencoder.encode_distribution(batch["image"])
    variance = log_variance.exp() + (0.5 * mean.std((0, 2, 3), keepdim=True)).square()
    drawn = mean + variance.sqrt() * rows_normal(batch["seed"], mean.shape[1:])
    l1 = (task.autoencoder.decode_raw(drawn) - batch["image"]).abs().mean()
    torch.testing.assert_close(task(batch)["l1"], l1.detach())


def test_kl_needs_a_variance():
    with pytest.raises(PochadeError, match=r"kl: 1e-06 given, but the autoencoder gives no variance"):
        autoencoder_task(kl=1e-6)


def test_wavelet_loss_is_the_distance_of_details_alone():
    task, batch = autoencoder_task(latent_noise=0.0, wavelet=0.7, l1=0.0, mse=0.0), pictures()
    decoded, x = task.autoencoder(batch["image"]), batch["image"]

    def details(y: Tensor) -> Tensor:
        a, b, c, d = y[..., ::2, ::2], y[..., ::2, 1::2], y[..., 1::2, ::2], y[..., 1::2, 1::2]
        return torch.stack([a + b - c - d, a - b + c - d, a - b - c + d]) / 2

    out = task(batch)
    torch.testing.assert_close(out["wavelet"], (details(decoded) - details(x)).abs().mean().detach())
    torch.testing.assert_close(out["loss"].detach(), 0.7 * out["wavelet"])


def test_the_adversary_can_join_in_late():
    task, batch = autoencoder_task(adversarial=0.4, adversarial_from=0.5, latent_noise=0.0), pictures()
    task.begin_step(0.49)
    early = task(batch)
    error = task.autoencoder(batch["image"]) - batch["image"]
    torch.testing.assert_close(early["loss"], error.abs().mean() + error.square().mean())
    assert "discriminator" not in early
    early["loss"].backward()
    assert len(gradients(task.discriminator)) == len(list(task.discriminator.parameters()))
    assert all(not g.any() for g in gradients(task.discriminator).values())
    task.begin_step(0.5)
    late = task(batch)
    assert late["discriminator"] > 0
    late["loss"].backward()
    assert any(g.any() for g in gradients(task.discriminator).values())
    with pytest.raises(PochadeError, match=r"adversarial_from: 1\.0 given"):
        autoencoder_task(adversarial=0.4, adversarial_from=1.0)


# --- flow matching


class Remember(nn.Module):
    """A denoiser that answers with a constant and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(0.3))

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        self.asked = (latents, t, conditioning)
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


@pytest.mark.parametrize("kind", ["autoencoder", "flow"])
def test_what_a_task_lets_be_compiled_is_what_it_calls(kind):
    """A module whose forward nobody calls would be compiled for nothing."""
    task = autoencoder_task() if kind == "autoencoder" else FlowTask(lrf(), FlowSettings())
    called: list[nn.Module] = []
    for module in task.compilable():
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    task(pictures() if kind == "autoencoder" else vectors())
    assert {*called} == {*task.compilable()}
    assert called


def test_flow_loss_is_the_error_of_the_velocity():
    """The noise is found back from what the denoiser was asked: z_t = (1 - t) z_0 + t eps."""
    denoiser = Remember()
    task = FlowTask(denoiser, FlowSettings(drop=0.0))
    batch = vectors()
    out = task(batch)
    z_t, t, _ = denoiser.asked
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

    settings, batch = FlowSettings(drop=0.0), vectors()
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
        self.asked = (latents, t, conditioning)
        self.states.append(state)
        told = torch.stack((latents.mean((1, 2, 3)), t), 1)
        moved = torch.zeros(len(t), 2) if state is None else state
        return DenoiserOutput(self.weight(latents) + moved.mean(1)[:, None, None, None], state=self.constant * told)


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_a_first_pass_supplies_the_state_of_that_share_of_rows(share: float):
    denoiser, rows = Carry(), 600
    task = FlowTask(denoiser, FlowSettings(carry=share))
    g = torch.Generator().manual_seed(4)
    latents = torch.randn(rows, 2, 4, 4, generator=g) + 5
    batch = {"latents": latents, "class_label": torch.zeros(rows).long(), "seed": torch.arange(rows)}
    out = task(batch)
    first, state = denoiser.states
    assert first is None
    assert state is not None
    assert not state.requires_grad
    z_t, t, conditioning = denoiser.asked
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
        FlowTask(denoiser, FlowSettings(drop=0.5))(batch)
    assert all(torch.equal(a, b) for a, b in zip(carrying.asked[:2], plain.asked[:2], strict=True))
    assert torch.equal(carrying.asked[2].mask, plain.asked[2].mask)


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


def test_flow_loss_is_the_mean_over_the_halves_of_a_batch():
    """Also the gradients, also with text of other lengths in the other half."""
    batch = vectors(8)
    task = FlowTask(lrf(), FlowSettings(weighting="centre", drop=0.3))
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
    task = FlowTask(denoiser, FlowSettings(drop=share))
    rows = 600
    batch = {"latents": torch.zeros(rows, 2, 1, 1), "class_label": torch.full((rows,), 4), "seed": torch.arange(rows)}
    task(batch)
    labels, t = denoiser.asked[2].class_label, denoiser.asked[1]
    dropped = labels == -1
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.06)
    assert (labels[~dropped] == 4).all()
    if 0 < share < 1:  # whether it is dropped tells nothing of t
        assert abs(float(t[dropped].mean() - t[~dropped].mean())) < 0.06
    text = vectors()
    task(text)
    given = denoiser.asked[2]
    gone = ~given.mask.any(1)
    assert given.tokens[gone].eq(0).all()
    assert given.pooled[gone].eq(0).all()
    assert gone.all() == (share == 1.0)


def test_text_is_trimmed_to_the_longest_row():
    denoiser = Remember()
    FlowTask(denoiser, FlowSettings(drop=0.0))(vectors())
    assert denoiser.asked[2].tokens.shape == (4, 3, 5)
    assert denoiser.asked[2].mask.shape == (4, 3)


def test_flow_learns_one_batch():
    task, batch = FlowTask(lrf(), FlowSettings(drop=0.0)), vectors()
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
    task = FlowTask(lrf(), FlowSettings(text_encoder="bag", drop=0.0), encoder)
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
