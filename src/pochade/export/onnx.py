"""Networks as ONNX graphs: static shapes but for the batch, opset 20, parity checked."""

import inspect
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import nn

from pochade.autoencoders.base import ImageAutoencoder
from pochade.denoisers.base import DenoiserModel
from pochade.errors import FailureError, PochadeError, missing_extra
from pochade.export.networks import (
    Network,
    decoder_network,
    denoiser_network,
    encoder_network,
    text_encoder_network,
)
from pochade.export.operators import translations
from pochade.export.parity import TOLERANCE, Input, check
from pochade.export.weights import data_of, divide_products, pad_channels, replacing, save_model, transpose_weights
from pochade.text_encoders.base import PromptEncoder

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


class Options(TypedDict, total=False):
    """The arguments of ``export`` beside network and path."""

    batch: int | Literal["dynamic"]
    external_data: bool
    standard: bool
    tolerance: float


def export_denoiser(
    denoiser: DenoiserModel,
    path: str | os.PathLike[str],
    *,
    latent_size: tuple[int, int] | int | None = None,
    text_tokens: int = 64,
    depth: int | None = None,
    **options: Unpack[Options],
) -> Exported:
    """``export`` of a ``denoiser_network``."""
    network = denoiser_network(denoiser, latent_size=latent_size, text_tokens=text_tokens, depth=depth)
    return export(network, path, **options)


def export_decoder(
    autoencoder: nn.Module,
    path: str | os.PathLike[str],
    *,
    latent_size: tuple[int, int] | int,
    **options: Unpack[Options],
) -> Exported:
    """``export`` of a ``decoder_network``."""
    return export(decoder_network(autoencoder, latent_size=latent_size), path, **options)


def export_encoder(
    autoencoder: ImageAutoencoder,
    path: str | os.PathLike[str],
    *,
    latent_size: tuple[int, int] | int,
    **options: Unpack[Options],
) -> Exported:
    """``export`` of an ``encoder_network``."""
    return export(encoder_network(autoencoder, latent_size=latent_size), path, **options)


def export_text_encoder(
    encoder: PromptEncoder, path: str | os.PathLike[str], *, text_tokens: int | None = None, **options: Unpack[Options]
) -> Exported:
    """``export`` of a ``text_encoder_network``."""
    return export(text_encoder_network(encoder, text_tokens=text_tokens), path, **options)


def export(
    network: Network,
    path: str | os.PathLike[str],
    *,
    batch: int | Literal["dynamic"] = "dynamic",
    external_data: bool = False,
    standard: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Writes a network as ONNX, and compares the graph with it.

    Args:
        network: what is written.
        path: the file, replaced at once when the graph was written and checked.
        batch: a number, or "dynamic" for any.
        external_data: write the weights into ``<path>.data``, which ONNX Runtime maps into memory and does not copy;
            what is above 2 GB lies there anyway.
        standard: in the standard's operators alone, for any runtime; else scans are one of ONNX Runtime's own (1.25
            and later), fewer nodes and faster.
        tolerance: how far the graph may be from eager.

    Raises:
        PochadeError: an argument is out of range, or an optional library is missing.
        FailureError: the graph differs from eager; nothing is written.
    """
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise PochadeError(f'batch: {batch!r} given, allowed are "dynamic" and whole numbers from 1')
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # torch.onnx needs both and would fail with a longer message
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "export") from None
    path, module, inputs = Path(path), network.module, network.inputs
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
                    output_names=list(network.outputs),
                    custom_translation_table=translations(standard),
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
        divide_products(model)
        pad_channels(model)
        save_model(model, temporary, external_data)
        batches = (1, 3) if batch == "dynamic" else (batch,)
        difference = check(temporary, module, inputs, batches=batches, tolerance=tolerance)
    shapes = tuple(tuple(d.dim_value for d in o.type.tensor_type.shape.dim[1:]) for o in model.graph.output)
    return Exported(
        path,
        inputs,
        network.outputs,
        shapes,
        None if batch == "dynamic" else batch,
        network.parameters,
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
    _keep_norms_apart(model)


def _keep_norms_apart(model: Any) -> None:
    """Puts a reshape that changes nothing between a sum and the layer norm of it, where nothing else reads the sum.

    ONNX Runtime fuses the two to an operator that takes a processor ten times as long as both (165 us beside 15 us for
    64 tokens of 640).
    """
    import onnx_ir

    for node in list(model.graph):
        total = node.inputs[0] if node.op_type == "LayerNormalization" else None
        made_by = None if total is None else total.producer()
        if total is None or made_by is None or made_by.op_type != "Add" or len(total.uses()) != 1:
            continue
        axes = total.shape
        if axes is None or len(axes) != 3 or not isinstance(axes[2], int):
            continue
        name = f"{total.name}_shape"
        shape = onnx_ir.val(name, const_value=onnx_ir.tensor([0, -1, axes[2]], name=name))
        model.graph.initializers.add(shape)
        same = onnx_ir.node("Reshape", [total, shape])
        same.outputs[0].name = f"{total.name}_apart"
        node.replace_input_with(0, same.outputs[0])
        model.graph.insert_before(node, same)


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
