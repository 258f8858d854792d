"""Text encoders, denoisers and autoencoders as ONNX graphs: static shapes but for the batch, opset 20, parity checked.

One call of the denoiser is one run of its graph; the sampling loop stays in the host.
"""

import copy
import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pochade.autoencoders.base import ImageAutoencoder
from pochade.denoisers.base import DenoiserModel
from pochade.errors import FailureError, PochadeError, missing_extra
from pochade.export.parity import TOLERANCE, Input, check
from pochade.export.weights import data_of, replacing, save_model, transpose_weights
from pochade.text_encoders.base import PromptEncoder
from pochade.types import TASKS, Conditioning, InputSpec

OPSET = 20
_FOLDED = 2**22
"""Numbers that a constant may have to be computed here: else the runtime does so, in memory of its own."""


@dataclass(frozen=True)
class Exported:
    """A graph that was written and found equal to eager."""

    path: Path
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    """Without the batch axis."""
    batch: int | None
    """The batch size, None where it is free."""
    parameters: int
    difference: float
    """The largest difference from eager that was seen, see ``parity.check``."""
    data: Path | None = None
    """The file of the weights, None where they are in the graph's own."""


class _FlatDenoiser(nn.Module):
    """Tensors in, velocity out: a conditioning is put together from the named parts. With a state, that too."""

    def __init__(self, denoiser: nn.Module, parts: Sequence[str], depth: int | None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.parts = tuple(parts)
        self.depth = depth

    def forward(self, latents: Tensor, t: Tensor, *parts: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        values = dict(zip(self.parts, parts, strict=True))
        state = values.pop("state", None)
        out = self.denoiser(latents, t, Conditioning(**values), state=state, depth=self.depth)
        return out.velocity if state is None else (out.velocity, out.state)


class _FlatTextEncoder(nn.Module):
    """Ids and mask in, tokens and pooled out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(ids, mask)
        return out.tokens, out.pooled


class _Encoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images)  # pyright: ignore[reportCallIssue]


class _Decoder(nn.Module):
    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)  # pyright: ignore[reportCallIssue]


def denoiser_inputs(spec: InputSpec, latent_size: tuple[int, int], text_tokens: int) -> tuple[Input, ...]:
    """The inputs of a denoiser's graph: latents, t, then the conditioning that it takes, then its state.

    One that was trained with a source takes the source's latents, the mask of what is to be changed, and the task, an
    index into ``pochade.types.TASKS``. ``Input.absent`` fills what a picture is sampled without, as it fills the state
    at the first step: a denoiser treats that as if it had no such input.
    """
    latents = (spec.latent_channels, *latent_size)
    inputs = [Input("latents", latents), Input("t", (), bounded=True)]
    if spec.text_dim:
        inputs.append(Input("tokens", (text_tokens, spec.text_dim), absent=0))
        inputs.append(Input("mask", (text_tokens,), torch.bool, absent=0))
    if spec.pooled_dim:
        inputs.append(Input("pooled", (spec.pooled_dim,), absent=0))
    if spec.num_classes:
        inputs.append(Input("class_label", (), torch.int64, low=-1, high=spec.num_classes, absent=-1))
    if spec.tasks:
        inputs.append(Input("source", latents, absent=0))
        inputs.append(Input("source_mask", (1, *latent_size), bounded=True, absent=0))
        inputs.append(Input("task", (), torch.int64, high=len(TASKS), absent=-1))
    if spec.control:
        inputs.append(Input("control", latents, absent=0))
    if spec.image_prompt_dim:
        inputs.append(Input("image_prompt", (1, spec.image_prompt_dim), absent=0))
    if spec.state_shape is not None:
        inputs.append(Input("state", spec.state_shape, absent=0))
    return tuple(inputs)


def export_denoiser(
    denoiser: DenoiserModel,
    path: str | os.PathLike[str],
    *,
    batch: int | Literal["dynamic"] = "dynamic",
    latent_size: tuple[int, int] | int | None = None,
    text_tokens: int = 64,
    depth: int | None = None,
    external_data: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes one call of a denoiser, ``(latents, t, parts of the conditioning) -> velocity``, as ONNX.

    Where the denoiser carries a state from step to step, that is the last input and a second output, ``next_state``.

    Args:
        denoiser: any family; it is copied, to the CPU and float32.
        path: the file, replaced at once when the graph was written and checked.
        batch: a number, or "dynamic" for any.
        latent_size: rows and columns of the latents (None: the resolution it was trained at).
        text_tokens: M; shorter prompts are padded to it with zeros and False.
        depth: iterations in the graph, where the family has them (None: as configured).
        external_data: write the weights into ``<path>.data``, which ONNX Runtime maps into memory and does not copy;
            what is above 2 GB lies there anyway.
        tolerance: how far the graph may be from eager.

    Raises:
        PochadeError: an argument is out of range, or an optional library is missing.
        FailureError: the graph differs from eager; nothing is written.
    """
    spec = denoiser.input_spec()
    rows, columns = _pair(latent_size if latent_size is not None else spec.sample_size)
    multiple = spec.size_multiple
    if rows < 1 or columns < 1 or rows % multiple or columns % multiple:
        raise PochadeError(f"latent_size: {rows} x {columns} given, allowed are multiples of {multiple}")
    if text_tokens < 1:
        raise PochadeError(f"text_tokens: {text_tokens} given, allowed is 1 and more")
    inputs = denoiser_inputs(spec, (rows, columns), text_tokens)
    flat = _FlatDenoiser(_cpu_copy(denoiser), [i.name for i in inputs[2:]], depth).eval()
    outputs = ("velocity", "next_state") if inputs[-1].name == "state" else ("velocity",)
    return _export(flat, Path(path), inputs, outputs, batch=batch, external_data=external_data, tolerance=tolerance)


def export_decoder(
    autoencoder: nn.Module,
    path: str | os.PathLike[str],
    *,
    latent_size: tuple[int, int] | int,
    batch: int | Literal["dynamic"] = "dynamic",
    external_data: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes ``latents [B, C, H, W] -> images [B, 3, ...] in [-1, 1]`` of an autoencoder as ONNX.

    Arguments and errors as for ``export_denoiser``.
    """
    rows, columns = _pair(latent_size)
    if rows < 1 or columns < 1:
        raise PochadeError(f"latent_size: {rows} x {columns} given, allowed is 1 x 1 and more")
    config: Any = autoencoder.config
    inputs = (Input("latents", (config.latent_channels, rows, columns)),)
    decoder = _Decoder(_cpu_copy(autoencoder)).eval()
    return _export(
        decoder, Path(path), inputs, ("images",), batch=batch, external_data=external_data, tolerance=tolerance
    )


def export_encoder(
    autoencoder: ImageAutoencoder,
    path: str | os.PathLike[str],
    *,
    latent_size: tuple[int, int] | int,
    batch: int | Literal["dynamic"] = "dynamic",
    external_data: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes ``images [B, 3, ...] in [-1, 1] -> latents [B, C, H, W]`` of an autoencoder as ONNX, for editing.

    Arguments and errors as for ``export_denoiser``.
    """
    rows, columns = _pair(latent_size)
    if rows < 1 or columns < 1:
        raise PochadeError(f"latent_size: {rows} x {columns} given, allowed is 1 x 1 and more")
    f = autoencoder.downsampling
    inputs = (Input("images", (3, f * rows, f * columns)),)
    encoder = _Encoder(_cpu_copy(autoencoder)).eval()
    return _export(
        encoder, Path(path), inputs, ("latents",), batch=batch, external_data=external_data, tolerance=tolerance
    )


def text_encoder_inputs(encoder: PromptEncoder, text_tokens: int) -> tuple[Input, ...]:
    """Ids and mask of M tokens; at least the opening and the closing token are real."""
    real = min(2, text_tokens)
    return (
        Input("ids", (text_tokens,), torch.int64, high=encoder.vocabulary_size),
        Input("mask", (text_tokens,), torch.bool, low=real),
    )


def export_text_encoder(
    encoder: PromptEncoder,
    path: str | os.PathLike[str],
    *,
    text_tokens: int | None = None,
    batch: int | Literal["dynamic"] = "dynamic",
    external_data: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes ``ids, mask [B, M] -> tokens [B, M, D_text], pooled [B, D_pool]`` of a text encoder as ONNX.

    Args:
        encoder: a ``PromptEncoder``.
        path: the file.
        text_tokens: M (None: the most that the encoder reads).
        batch, external_data, tolerance: as for ``export_denoiser``.

    Raises as ``export_denoiser``.
    """
    limit = encoder.max_tokens
    tokens = limit if text_tokens is None else text_tokens
    if not 1 <= tokens <= limit:
        raise PochadeError(f"text_tokens: {text_tokens} given, allowed are 1 to {limit}")
    flat = _FlatTextEncoder(_cpu_copy(encoder)).eval()
    inputs = text_encoder_inputs(encoder, tokens)
    return _export(
        flat, Path(path), inputs, ("tokens", "pooled"), batch=batch, external_data=external_data, tolerance=tolerance
    )


def _pair(size: tuple[int, int] | int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return int(rows), int(columns)


def _cpu_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().float().eval().requires_grad_(False)


def _export(
    module: nn.Module,
    path: Path,
    inputs: tuple[Input, ...],
    outputs: tuple[str, ...],
    *,
    batch: int | Literal["dynamic"],
    external_data: bool,
    tolerance: float,
) -> Exported:
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise PochadeError(f'batch: {batch!r} given, allowed are "dynamic" and whole numbers from 1')
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # torch.onnx needs both and would fail with a longer message
    except ImportError as error:
        raise missing_extra(str(error.name), "export") from None
    # A batch of 1 as the example would be taken for a constant.
    size = 2 if batch == "dynamic" else batch
    generator = torch.Generator().manual_seed(0)
    example = tuple(item.random(size, generator) for item in inputs)
    dynamic: Any = None
    if batch == "dynamic":
        axis = {0: torch.export.Dim("batch", min=1, max=4096)}
        kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
        named = len(kinds) - kinds.count(inspect.Parameter.VAR_POSITIONAL)
        rest = ((axis,) * (len(inputs) - named),) if named < len(kinds) else ()
        dynamic = (*(axis,) * named, *rest)
    with replacing(path) as temporary:
        try:
            with _quiet(), torch.no_grad():
                program = torch.onnx.export(
                    module,
                    example,
                    dynamo=True,
                    opset_version=OPSET,
                    dynamic_shapes=dynamic,
                    input_names=[item.name for item in inputs],
                    output_names=list(outputs),
                    optimize=False,
                    verbose=False,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = _innermost(error)
            if isinstance(reason, PochadeError):  # what the network itself does not allow
                raise reason from None
            said = " ".join(str(reason).split())[:300]
            raise FailureError(f"{path.name}: the network has no form in ONNX: {said}") from error
        assert program is not None
        with _quiet():
            _simplify(program.model)
        model = program.model_proto
        if batch == "dynamic" and not all(i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input):
            raise FailureError(f"{path.name}: the network fixes the batch at {size}: a graph for any cannot be made")
        _strip(model)
        transpose_weights(model)
        save_model(model, temporary, external_data)
        batches = (1, 3) if batch == "dynamic" else (batch,)
        difference = check(temporary, module, inputs, batches=batches, tolerance=tolerance)
    shapes = tuple(tuple(d.dim_value for d in o.type.tensor_type.shape.dim[1:]) for o in model.graph.output)
    return Exported(
        path,
        inputs,
        outputs,
        shapes,
        None if batch == "dynamic" else batch,
        sum(p.numel() for p in module.parameters()),
        difference,
        data_of(path),
    )


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own code, torchvision, which is not used, and what it cannot fold."""
    names = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def _simplify(model: Any) -> None:
    """Computes what is constant, and removes what is double or unused.

    The exporter's own way also tries hundreds of rewriting rules at every node, in a time that grows with the square of
    the nodes: 58 s beside 1 s for two passes of IRIS' core. ONNX Runtime has such rules itself, and was as fast.
    """
    import onnx_ir
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    common.CommonSubexpressionEliminationPass()(model)  # what an iterated core does with its weights, once
    for _ in range(2):  # what one round finds constant lets the next one find more
        optimizer.fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=_FOLDED, output_size_limit=_FOLDED
        )
        common.RemoveUnusedNodesPass()(model)
    onnx_ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _strip(model: Any) -> None:
    """Removes what the exporter notes about its source: it is large and shows the paths of a machine."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    for graph in (model.graph, *model.functions):
        graph.ClearField("metadata_props")
        graph.ClearField("doc_string")
        groups = [graph.node, graph.value_info]
        if graph is model.graph:
            groups += [graph.input, graph.output, graph.initializer]
        for item in (item for group in groups for item in group):
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
