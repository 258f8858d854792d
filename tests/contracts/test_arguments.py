"""Every argument of every network, of another type and out of range."""

import inspect
from contextlib import suppress
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

from contracts.families import AUTOENCODERS, FAMILIES, load_class
from pochade.denoisers import FAMILIES as REGISTERED
from pochade.denoisers import build
from pochade.errors import PochadeError
from pochade.training.stages.models import build_denoiser
from pochade.values import fits

NETWORKS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    **{name: (load_class(REGISTERED[name]), next(iter(f.toys.values()))) for name, f in FAMILIES.items()},
    **{name: (load_class(entry.path), entry.toy) for name, entry in AUTOENCODERS.items()},
    "tiny_decoder": (load_class("pochade.autoencoders.tiny_decoder:TinyVAEDecoder"), {"widths": (4,), "blocks": (1,)}),
}
CASES = [
    (name, argument, kind)
    for name, (network, _) in NETWORKS.items()
    for argument, kind in get_type_hints(network.__init__).items()
    if argument in inspect.signature(network.__init__).parameters
]
SIGNED = ("latents_mean",)
"""What may be below 0."""
UNBOUNDED = ("gradient_iterations", "fusion_every", "distillation", "ponder_steps", "ponder_weight", "diversity_weight")
"""What may be however large: it costs nothing."""


@pytest.mark.parametrize(("name", "argument", "kind"), CASES, ids=lambda one: one if isinstance(one, str) else "")
def test_wrong_arguments_are_refused_by_name(name: str, argument: str, kind: Any) -> None:
    network, toy = NETWORKS[name]
    given = toy.get(argument, inspect.signature(network.__init__).parameters[argument].default)
    many = (isinstance(given, tuple) and given != ()) or argument.startswith("latents_")
    wrong: list[Any] = [float("nan"), object(), [{}]]
    if kind in (int, float) or many:
        wrong += ["2", True, float("inf")]
        wrong += [] if argument in SIGNED else [-1]
        wrong += [] if argument in (*UNBOUNDED, "latents_mean", "latents_std") else [10**12]
    wrong += [1.5, 1e6] if kind is int else []
    wrong += [0, 1, "false"] if kind is bool else []
    for value in wrong:
        with pytest.raises(PochadeError, match=rf"^{argument}: .* given, (must be|allowed)"):
            network(**{**toy, argument: (value, value, value, value) if many else value})
    if kind is int:  # 0 is none of it, or refused
        with suppress(PochadeError):
            network(**{**toy, argument: 0})


@pytest.mark.parametrize("name", NETWORKS)
def test_what_does_not_go_together_is_refused_by_names_of_arguments(name: str) -> None:
    """Parts of a network call what they check by other names than the network does."""
    network, toy = NETWORKS[name]
    arguments = inspect.signature(network.__init__).parameters
    for argument, kind in get_type_hints(network.__init__).items():
        given = toy.get(argument, arguments[argument].default) if argument in arguments else None
        wrong: list[Any] = [1, 5, 23] if kind is int else []
        if isinstance(given, tuple) and given and isinstance(given[0], int):
            wrong = [(16, 24, 40, 8)[: len(given)], given[:-1], (*given, 5)]
        for value in wrong:
            said = refusal(network, {**toy, argument: value})
            assert said is None or set(said.partition(": ")[0].split(", ")) <= set(arguments), said


def refusal(network: type[Any], arguments: dict[str, Any]) -> str | None:
    """What is said of arguments that are refused."""
    try:
        network(**arguments)
    except PochadeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("microforge", {"modulation_groups": 16}, "modulation_groups: 16 given, allowed are the divisors of dim, 24"),
        ("wavelet", {"widths": (16, 24, 8, 8)}, "widths: 24 after 16 given, allowed are the divisors of 64"),
        ("deep_compression", {"widths": (8, 8, 8, 64)}, "widths: 64 after 8 given, allowed are the divisors of 32"),
        ("iris", {"dim": 20}, "dim: 20 given, must be a positive multiple of 8, the blocks of channels"),
    ],
)
def test_widths_that_do_not_divide_are_said_by_name(name: str, changes: dict[str, Any], words: str) -> None:
    network, toy = NETWORKS[name]
    with pytest.raises(PochadeError, match=f"^{words}"):
        network(**{**toy, **changes})


def test_what_does_not_fit_the_number_of_channels_is_refused() -> None:
    for name in ("tiny", "wavelet", "deep_compression", "pretrained_kl"):
        network, toy = NETWORKS[name]
        with pytest.raises(PochadeError, match="latents_std: 2 values given, allowed are"):
            network(**{**toy, "latents_std": (1.0, 1.0)})
    network, toy = NETWORKS["tiny"]
    with pytest.raises(PochadeError, match=r"decoder_blocks: \(1, 1\) given, allowed are four numbers"):
        network(**{**toy, "decoder_blocks": (1, 1)})


def test_what_is_no_list_is_said_to_have_to_be_one() -> None:
    with pytest.raises(PochadeError, match="depths: 4 given, must be a list, each a whole number from 1 to 64"):
        build_denoiser("iris", "nano", ["depths=4"])


def test_words_of_other_types_of_text_are_taken() -> None:
    assert fits(np.str_("bf16"), Literal["fp32", "bf16"])
    assert not fits(True, Literal[1])
    assert not fits(1, Literal[True])


def test_options_of_a_recipe_are_refused_alike() -> None:
    for option, message in (
        ("dropout=2", r"dropout: 2 given, must be in \[0, 1\)"),
        ("heads=0", "heads: 0 given, must be a whole number from 1 to"),
        ("patch_size=0", "patch_size: 0 given, must be a whole number from 1 to"),
        ("blocks=-3", "blocks: -3 given, must be a whole number from 1 to"),
        ("dim=wide", "dim: 'wide' given, must be a whole number from 1 to"),
    ):
        with pytest.raises(PochadeError, match=message):
            build_denoiser("lrf", "nano", [option])
    with pytest.raises(PochadeError, match=r"options: 'droput' given, allowed for lrf are .*did you mean 'dropout'"):
        build("lrf", "nano", droput=0.5)
