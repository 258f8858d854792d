"""Networks as programs of ``torch.export``, in the operators that converters know."""

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pochade.errors import FailureError
from pochade.export.formats.base import example
from pochade.export.networks import Network
from pochade.nn.scan.operators import DECOMPOSITIONS

Rules = Mapping[Any, Callable[..., Any]]
_HIDDEN = -1e9
"""Added to the scores of what a mask hides; its exponential is 0 in float32. Half a network's inputs may be hidden, but
never all that one token attends to: each attends to itself, or the network adds a token that is always there."""


def program(module: nn.Module, inputs: tuple[Tensor, ...], rules: Rules | None = None) -> ExportedProgram:
    """``module`` for inputs of these shapes, with scans, and what else ``rules`` say, in simpler operators."""
    with torch.no_grad():
        exported = torch.export.export(module, inputs, strict=False)
        exported = exported.run_decompositions({**(rules or {}), **DECOMPOSITIONS})
    graph = exported.graph
    for node in list(graph.nodes):
        if node.target is _ASSERTION:
            graph.erase_node(node)
        elif node.target is _ALIAS or (node.target is _FLIP and not node.args[1]):  # nothing happens to the tensor
            node.replace_all_uses_with(node.args[0])
            exported.graph_signature.replace_all_uses(node.name, node.args[0].name)
            graph.erase_node(node)
    exported.graph_module.recompile()
    return exported


def networks_as_programs(networks: Iterable[Network], batch: int, rules: Rules | None = None) -> Any:
    """Name -> program."""
    return {n.name: program(n.module, example(n, batch), rules) for n in networks}


_ALIAS, _FLIP = torch.ops.aten.alias.default, torch.ops.aten.flip.default
_ASSERTION = torch.ops.aten._assert_tensor_metadata.default


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` as two products and a softmax, without the care for tokens that attend to
    nothing, which no network here has."""
    if dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("attention: dropout, causal masks and shared heads")
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    if attn_mask is not None:
        hidden = (1 - attn_mask.to(q.dtype)) * _HIDDEN if attn_mask.dtype == torch.bool else attn_mask
        scores = scores + hidden
    return scores.softmax(-1) @ v


PLAIN_ATTENTION: Rules = {torch.ops.aten.scaled_dot_product_attention.default: attention}


@contextmanager
def converting(what: str) -> Iterator[None]:
    """A block in which a converter works: without what it says of itself, its errors as a FailureError of one line."""
    loggers = [logging.getLogger(), *map(logging.getLogger, ("coremltools", "nncf", "executorch", "jax"))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except FailureError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise FailureError(f"{what}: the converter failed: {type(error).__name__}: {said}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
