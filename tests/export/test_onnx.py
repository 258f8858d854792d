"""Graphs of text encoders, denoisers and autoencoders. Each family's parity stands in tests/contracts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from contracts.families import make, stir
from pochade.autoencoders.tiny import TinyAutoencoder
from pochade.errors import FailureError, PochadeError
from pochade.export import onnx as export
from pochade.export.networks import denoiser_inputs
from pochade.export.parity import Input, check, random_inputs, run, session
from pochade.export.quantize import quantise
from pochade.text_encoders.bag import BagEncoder
from pochade.types import Conditioning


@pytest.fixture(scope="module")
def pipe() -> Any:
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(3, 4, (1, 1, 1, 1), (1, 1, 1, 1), [0.1, 0.2, 0.3], [2.0, 3.0, 4.0])
    return SimpleNamespace(
        denoiser=stir(make("lrf", "softmax", text_encoder="minilm-l6-v2", blocks=1, sample_size=8)),
        autoencoder=autoencoder.eval(),
    )


@pytest.fixture(scope="module")
def folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser and a decoder, free in the batch."""
    folder = tmp_path_factory.mktemp("export")
    export.export_denoiser(pipe.denoiser, folder / "denoiser.onnx", latent_size=4, text_tokens=5)
    export.export_decoder(pipe.autoencoder, folder / "decoder.onnx", latent_size=4)
    return folder


def test_the_inputs_of_a_graph(pipe: Any, folder: Path) -> None:
    inputs = denoiser_inputs(pipe.denoiser.input_spec(), (4, 4), 5)
    assert [(i.name, i.shape, i.dtype, i.absent) for i in inputs] == [
        ("latents", (3, 4, 4), torch.float32, None),
        ("t", (), torch.float32, None),
        ("tokens", (5, 10), torch.float32, 0),
        ("mask", (5,), torch.bool, 0),
        ("pooled", (6,), torch.float32, 0),
        ("class_label", (), torch.int64, -1),
    ]
    assert [i.name for i in session(folder / "denoiser.onnx").get_inputs()] == [i.name for i in inputs]


@pytest.mark.parametrize("batch", [1, 4])
@torch.no_grad()
def test_graphs_equal_eager(pipe: Any, folder: Path, batch: int) -> None:
    values = random_inputs(denoiser_inputs(pipe.denoiser.input_spec(), (4, 4), 5), batch, seed=9)
    (got,) = run(session(folder / "denoiser.onnx"), values)
    conditioning = Conditioning(**{k: v for k, v in values.items() if k not in {"latents", "t"}})
    expected = pipe.denoiser(values["latents"], values["t"], conditioning).velocity
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
    (images,) = run(session(folder / "decoder.onnx"), {"latents": values["latents"]})
    np.testing.assert_allclose(images, pipe.autoencoder.decode(values["latents"]).numpy(), atol=1e-4)


@torch.no_grad()
def test_dropped_text_and_no_class_in_the_graph(pipe: Any, folder: Path) -> None:
    values = random_inputs(denoiser_inputs(pipe.denoiser.input_spec(), (4, 4), 5), 2, seed=5)
    none = dict(values)
    none["mask"] = torch.zeros_like(values["mask"])
    none["tokens"], none["pooled"] = torch.zeros_like(values["tokens"]), torch.zeros_like(values["pooled"])
    none["class_label"] = torch.full_like(values["class_label"], -1)
    (got,) = run(session(folder / "denoiser.onnx"), none)
    expected = pipe.denoiser(values["latents"], values["t"], Conditioning()).velocity
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


def test_opset_and_no_trace_of_this_machine(folder: Path) -> None:
    for name in ("denoiser", "decoder"):
        model = onnx.load(folder / f"{name}.onnx")
        assert [o.version for o in model.opset_import if o.domain == ""] == [20]
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert str(Path(__file__).parents[2]).encode() not in (folder / f"{name}.onnx").read_bytes()


@pytest.mark.parametrize("batch", ["dynamic", 1])
def test_a_text_encoder_of_any_batch(tmp_path: Path, batch: Any) -> None:
    encoder = BagEncoder(BagEncoder.train_tokenizer(["a red apple", "a green tree"]), dim=8, hidden_dim=8)
    found = export.export_text_encoder(encoder, tmp_path / "text.onnx", text_tokens=4, batch=batch)
    assert found.outputs == ("tokens", "pooled")
    assert found.difference < 1e-5


def test_decoder_of_one_static_size(pipe: Any, tmp_path: Path) -> None:
    exported = export.export_decoder(pipe.autoencoder, tmp_path / "d.onnx", latent_size=(2, 3), batch=2)
    assert exported.difference < 1e-5
    assert [i.shape for i in session(exported.path).get_inputs()] == [[2, 3, 2, 3]]
    assert (exported.batch, exported.output_shapes) == (2, ((3, 16, 24),))
    assert exported.parameters == sum(p.numel() for p in pipe.autoencoder.parameters())
    assert pipe.autoencoder.training is False
    assert all(p.requires_grad for p in pipe.autoencoder.parameters()), "the module itself is left as it was"


def test_weights_beside_the_graph(pipe: Any, tmp_path: Path) -> None:
    """They take their place with the graph, which computes the same, and go when they are in it again."""
    path, data = tmp_path / "d.onnx", tmp_path / "d.onnx.data"
    inside = export.export_denoiser(pipe.denoiser, path, latent_size=4, batch=1)
    assert inside.data is None
    values = random_inputs(inside.inputs, 1)
    (expected,) = run(session(path), values)
    size = path.stat().st_size
    beside = export.export_denoiser(pipe.denoiser, path, latent_size=4, batch=1, external_data=True)
    assert beside.data == data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.onnx", "d.onnx.data"]
    assert path.stat().st_size + data.stat().st_size == pytest.approx(size, rel=0.2)
    assert data.stat().st_size > 1000
    np.testing.assert_array_equal(run(session(path), values)[0], expected)
    quantise(path, tmp_path / "q.onnx", beside.inputs)
    assert (tmp_path / "q.onnx.data").is_file()
    export.export_denoiser(pipe.denoiser, path, latent_size=4, batch=1)
    assert not data.exists()


def test_bad_arguments_write_nothing(pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(PochadeError, match=r"latent_size: 5 x 4 given, allowed are multiples of 2"):
        export.export_denoiser(pipe.denoiser, path, latent_size=(5, 4))
    with pytest.raises(PochadeError, match=r"text_tokens: 0 given"):
        export.export_denoiser(pipe.denoiser, path, text_tokens=0)
    for batch in (0, -1, "any", 1.5):
        with pytest.raises(PochadeError, match="batch: "):
            export.export_denoiser(pipe.denoiser, path, batch=batch)  # type: ignore[arg-type]
    with pytest.raises(PochadeError, match="latent_size: 0 x 0"):
        export.export_decoder(pipe.autoencoder, path, latent_size=0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(PochadeError, match="file: is a file, a folder is needed"):
        export.export_decoder(pipe.autoencoder, tmp_path / "file" / "x.onnx", latent_size=2)


def test_a_graph_that_differs_is_refused(folder: Path) -> None:
    inputs = (Input("latents", (3, 4, 4)),)
    with pytest.raises(FailureError, match=r"decoder.onnx: .* from eager at batch 1, allowed is 1e-04"):
        check(folder / "decoder.onnx", nn.Upsample(scale_factor=8), inputs, batches=(1,))
    with pytest.raises(FailureError, match="gives shape"):
        check(folder / "decoder.onnx", nn.Identity(), inputs, batches=(1,))


def test_a_network_without_a_form_in_onnx_keeps_the_file_before(pipe: Any, tmp_path: Path) -> None:
    class Unexportable(nn.Module):
        config = pipe.autoencoder.config

        def decode(self, latents: Tensor) -> Tensor:
            return latents if float(latents.sum()) > 0 else latents * 2

    path = tmp_path / "decoder.onnx"
    path.write_bytes(b"before")
    with pytest.raises(FailureError, match=r"decoder.onnx: the network has no form in ONNX: ") as info:
        export.export_decoder(Unexportable(), path, latent_size=2)
    assert "\n" not in str(info.value)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["decoder.onnx"]


def test_a_network_that_fixes_the_batch_has_no_graph_for_any(pipe: Any, tmp_path: Path) -> None:
    class Fixed(nn.Module):
        config = pipe.autoencoder.config

        def decode(self, latents: Tensor) -> Tensor:
            return latents.reshape(len(latents), -1)  # len() of a traced tensor is a constant

    with pytest.raises(FailureError, match=r"^decoder.onnx: the network fixes the batch at 2"):
        export.export_decoder(Fixed(), tmp_path / "decoder.onnx", latent_size=2)
    assert not list(tmp_path.iterdir())


def test_an_encoder(pipe: Any, tmp_path: Path) -> None:
    exported = export.export_encoder(pipe.autoencoder, tmp_path / "encoder.onnx", latent_size=4, batch=1)
    assert [(i.name, i.shape) for i in exported.inputs] == [("images", (3, 32, 32))]
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    (latents,) = run(session(exported.path), {"images": images})
    np.testing.assert_allclose(latents, pipe.autoencoder.encode(images).detach().numpy(), atol=1e-4)


def test_random_inputs() -> None:
    inputs = (
        Input("latents", (3, 2, 2)),
        Input("t", (), bounded=True),
        Input("tokens", (4, 6)),
        Input("mask", (4,), torch.bool),
        Input("class_label", (), torch.int64, low=-1, high=3),
    )
    values = random_inputs(inputs, 64)
    assert list(values) == ["latents", "t", "tokens", "mask", "class_label"]
    assert values["t"].min() >= 0
    assert values["t"].max() <= 1
    assert not values["mask"][0].any(), "one sample is dropped text"
    assert values["tokens"][~values["mask"]].eq(0).all()
    assert set(values["class_label"].tolist()) == {-1, 0, 1, 2}
    assert torch.equal(values["tokens"], random_inputs(inputs, 64)["tokens"])
