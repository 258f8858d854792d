from typing import Any

import torch
from torch import Tensor, nn

from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.autoencoders.tiny_decoder import TinyVAEDecoder
from pochade.nn.keyed_random import keyed_normal
from pochade.training.stages.decoder import DecoderSettings, DecoderTask
from pochade.training.task import Stream
from training.toy import gradients


def decoder_task(perceptual: Any = None, **changes: Any) -> DecoderTask:
    torch.manual_seed(0)
    teacher = TinyAutoencoder(2, 8, (0, 0, 1, 1), (0, 0, 0, 0))
    teacher.set_statistics(torch.tensor([0.1, -0.2]), torch.tensor([0.5, 2.0]))
    decoder = TinyVAEDecoder(2, (8, 6), (1, 1))
    weights = {"adversarial": 0.0, "perceptual": 0.5 if perceptual else 0.0}
    task = DecoderTask(teacher, decoder, DecoderSettings(**{**weights, **changes}), perceptual)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return task


def pictures(batch: int = 4) -> dict[str, Tensor]:
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"image": nn.functional.interpolate(coarse, size=(16, 16)), "seed": torch.arange(batch) + 5}


def test_the_loss_compares_with_the_picture_itself() -> None:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().amax()

    task, batch = decoder_task(distance, latent_noise=0.25, l1=0.3, mse=0.7), pictures()
    out, x = task(batch), batch["image"]
    latents = task.teacher.encode(x)
    decoded = task.decoder(latents + 0.25 * keyed_normal(batch["seed"], latents.shape[1:], Stream.NOISE))
    expected = 0.3 * (decoded - x).abs().mean() + 0.7 * (decoded - x).square().mean() + 0.5 * distance(decoded, x)
    torch.testing.assert_close(out["loss"], expected)
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")


def test_the_decoder_alone_is_trained() -> None:
    task = decoder_task()
    task.train()
    task.teacher.eval()
    task(pictures())["loss"].backward()
    assert gradients(task).keys() == {f"decoder.{name}" for name, _ in task.decoder.named_parameters()}
    assert task.trainable() is task.decoder
    assert task.compilable() == [task.decoder]


def test_an_adversary_joins_late_and_is_saved_with_it() -> None:
    task, batch = decoder_task(adversarial=0.1, adversarial_from=0.5), pictures()
    task.begin_step(0.4)
    assert "discriminator" not in task(batch)
    task.begin_step(0.6)
    out = task(batch)
    assert {"fooled", "discriminator"} <= set(out)
    out["loss"].backward()
    assert any(g.any() for n, g in gradients(task).items() if n.startswith("discriminator."))
    assert {name.split(".")[0] for name, _ in task.trainable().named_parameters()} == {"decoder", "discriminator"}


def test_it_learns_one_batch() -> None:
    task, batch = decoder_task(latent_noise=0.05), pictures()
    optimizer = torch.optim.Adam(task.trainable().parameters(), 5e-3)
    losses: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
