from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pochade.errors import PochadeError
from pochade.nn.keyed_random import keyed_normal
from pochade.training.stages.autoencoder import (
    AutoencoderSettings,
    AutoencoderTask,
    build_autoencoder,
)
from pochade.training.stages.reconstruction import PatchDiscriminator
from pochade.training.task import Stream
from training.toy import gradients, halves

SMALL = {"latent_channels": 2, "width": 8, "encoder_blocks": (0, 0, 1, 1), "decoder_blocks": (1, 1, 0, 0)}


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
    noise = keyed_normal(batch["seed"], raw.shape[1:], Stream.NOISE) * 0.25 * raw.std((0, 2, 3), keepdim=True)
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
    drawn = mean + (log_variance / 2).exp() * keyed_normal(batch["seed"], mean.shape[1:], Stream.NOISE)
    error = (task.autoencoder.decode_raw(drawn) - batch["image"]).square().mean()
    torch.testing.assert_close(out["loss"], error + 0.3 * divergence)
    out["loss"].backward()
    assert gradients(task)["autoencoder.encoder.head.weight"][2:].abs().sum() > 0


def test_variances_of_the_encoder_and_of_the_latent_noise_add_up():
    task, batch = variational_task(kl=1e-6, latent_noise=0.5), pictures()
    mean, log_variance = task.autoencoder.encode_distribution(batch["image"])
    variance = log_variance.exp() + (0.5 * mean.std((0, 2, 3), keepdim=True)).square()
    drawn = mean + variance.sqrt() * keyed_normal(batch["seed"], mean.shape[1:], Stream.NOISE)
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


def test_what_it_lets_be_compiled_is_what_it_calls():
    """A module whose forward nobody calls would be compiled for nothing."""
    task = autoencoder_task()
    called: list[nn.Module] = []
    for module in task.compilable():
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    task(pictures())
    assert {*called} == {*task.compilable()}
    assert called
