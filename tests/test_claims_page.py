"""What the page on claims says of parameters, bytes, shapes and sums is what the library has."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pochade.training.costs  # noqa: F401 - with what torch does not count by itself
from pochade import denoisers
from pochade.autoencoders import deep_compression, tiny, tiny_decoder, wavelet
from pochade.evaluation.profile.models import CLIPS
from pochade.nn.resample import haar_dwt, haar_idwt
from pochade.recipes import stages_of
from pochade.types import TASKS, Conditioning

ROOT = Path(__file__).parents[1]
CLAIMS = {
    claim["id"]: claim
    for claims in tomllib.loads((ROOT / "scripts" / "tables" / "claims.toml").read_text(encoding="utf-8")).values()
    for claim in claims
}
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
MEASURED = dict(re.findall(r"^\| ([ILRM]\d+) (?:\| [^|]* ){2}\| ([^|]*) \|", PAGE, re.MULTILINE))
"""Claim -> what the page says was measured."""


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def millions(*numbers: float, digits: int = 1) -> str:
    return ", ".join(f"{number / 1e6:.{digits}f} M" for number in numbers)


def sizes(family: str, *variants: str, **options: Any) -> list[int]:
    with torch.device("meta"):
        return [count(denoisers.build(family, variant, **options)) for variant in variants]


def built(family: str, variant: str, **options: Any) -> Any:
    with torch.device("meta"):
        return denoisers.build(family, variant, **options)


def clip_l() -> int:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return count(CLIPTextModel(CLIPTextConfig(**CLIPS["clip-l"])))


def wavelet_base() -> Any:
    with torch.device("meta"):
        return wavelet.WaveletVAE(**wavelet.VARIANTS["base"])


def compression(variant: str) -> int:
    with torch.device("meta"):
        return count(deep_compression.DeepCompressionVAE(**deep_compression.VARIANTS[variant]))


def microforge() -> list[str]:
    variants = ("tiny", "small", "base")
    whole = [n + compression(v) for n, v in zip(sizes("microforge", *variants), variants, strict=True)]
    return [millions(*whole), ", ".join(f"{2 * n / 1e6:.0f}" for n in whole) + " MB"]


def microforge_parts() -> list[str]:
    variants = ("tiny", "small", "base")
    networks = [built("microforge", v) for v in variants]
    planners = [count(network.planner) for network in networks]
    backbones = [count(network) - planner for network, planner in zip(networks, planners, strict=True)]
    return [millions(*map(compression, variants)), millions(*backbones), millions(*planners)]


def plan_bytes() -> list[str]:
    states = [built("microforge", v).state_shape for v in ("tiny", "small", "base")]
    first, second, third = (f"{4 * tokens * dim / 1e3:.0f}" for tokens, dim in states)
    return [f"{first}, {second} and {third} KB"]


def parts_of_iris() -> list[str]:
    small, base = (
        [count(getattr(built("iris", v), part)) for part in ("prelude", "core", "coda")] for v in ("small", "base")
    )
    prelude, core, coda = (millions(n) for n in small)
    return [f"`small`: prelude {prelude}, core {core}, coda {coda}", f"`base`: {millions(*base)}"]


def system_of_iris() -> list[str]:
    text = clip_l()
    small = built("iris", "small", text_dim=768, pooled_dim=768)
    return [millions(text), f"{2 * text / 1e6:.0f} MB", millions(text + count(small) + count(wavelet_base().decoder))]


def cross_attention() -> list[str]:
    nano, base = denoisers.build("iris", "nano").eval(), built("iris", "base").config
    conditioning = Conditioning(torch.zeros(1, 77, 384), torch.ones(1, 77, dtype=torch.bool), torch.zeros(1, 384))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        nano(torch.zeros(1, nano.config["latent_channels"], 32, 32), torch.zeros(1), conditioning)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    share = sum(n for name, n in counts.items() if ".core." in name and name.endswith(".text")) / counts["Global"]
    return [f"{share:.0%}".replace("%", " %"), f"{4 * base['blocks'] * 2 * 77 * base['dim'] / 1e6:.1f} MB"]


def in_use() -> list[str]:
    small, nano = built("iris", "small"), built("iris", "nano")
    return [
        millions(count(small)),
        f"{small.effective_parameters(8) / 1e6:.0f} M at 8, {small.effective_parameters(16) / 1e6:.0f} M at 16",
        f"{small.effective_parameters(16) / count(small):.1f} times",
        f"`nano` {nano.effective_parameters(16) / count(nano):.1f} times",
    ]


def latents_of_iris() -> list[str]:
    vae = wavelet.WaveletVAE(**wavelet.VARIANTS["nano"])
    with torch.no_grad():
        low, high = (tuple(vae.encode(torch.zeros(1, 3, n, n)).shape[1:]) for n in (256, 512))
    assert high == (16, 32, 32)
    return [" x ".join(map(str, low)), f"{3 * 256 * 256 / torch.Size(low).numel():.1f}", f"{2 * 16 * 32 * 32:,} bytes"]


def haar() -> list[str]:
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (haar_idwt(haar_dwt(x)) - x).abs().max() < 1e-6
    return ["less than 1e-6"]


def layers_of_iris() -> list[str]:
    base, small = (denoisers.variants("iris")[v]["blocks"] for v in ("base", "small"))
    return [f"{base} and {small}: {16 * base} and {8 * small}"]


def bytes_of_lira() -> list[str]:
    *small, large = (2 * n for n in sizes("lira", "tiny", "small", "base", "large"))
    return [", ".join(f"{n / 2**20:.0f}" for n in small) + f" MiB, {large / 1e9:.1f} GB"]


def small_decoders() -> list[str]:
    with torch.device("meta"):
        made = [count(tiny_decoder.for_autoencoder("tiny", c, f)) for c, f in ((32, 32), (16, 8))]
    return ["; ".join(f"{n / 1e6:.3f} M, {2 * n / 1e6:.2f} MB" for n in made)]


def connections() -> list[str]:
    [hyper], [residual] = sizes("lira", "small"), sizes("lira", "small", connections="residual")
    return [f"{millions(hyper, digits=2)} and {millions(residual, digits=2)}"]


def cifar() -> list[str]:
    network = built("lrf", "cifar")
    blocks, recursions = network.config.blocks, network.config.recursions
    classes = count(network.classes)
    return [f"{millions(count(network), digits=2)}, {classes:,}; {blocks} x {recursions} = {blocks * recursions}"]


def taesd() -> list[str]:
    vae = tiny.TinyAutoencoder()
    shape = vae.encode(torch.zeros(1, 3, 32, 32)).shape[1:]
    return [f"{millions(count(vae))}; {' x '.join(map(str, shape))}"]


def source_of_microforge() -> list[str]:
    added = []
    for network in (built("microforge", "nano"), built("microforge", "base")):
        with torch.device("meta"):
            added.append(count(network.with_source(TASKS[1:])) - count(network))
    return ["`nano` {:,}, `base` {:,}".format(*added)]


def image_prompt() -> list[str]:
    parts = []
    for variant, digits in (("nano", 2), ("base", 1)):
        network = built("microforge", variant)
        with torch.device("meta"):
            first, second = (count(network.with_image_prompt(n)) - count(network) for n in (160, 768))
        parts.append(f"`{variant}` {millions(first, digits=digits)} and {millions(second, digits=digits)}")
    return [", ".join(parts)]


def full_modulation() -> list[str]:
    variants = ("tiny", "small", "base")
    full = sizes("microforge", *variants, modulation="full")
    pairs = zip(variants, sizes("microforge", *variants), full, strict=True)
    return [", ".join(f"`{v}` {more / grouped - 1:+.0%}".replace("%", " %") for v, grouped, more in pairs)]


def latents_of_microforge() -> list[str]:
    vae = deep_compression.DeepCompressionVAE(**deep_compression.VARIANTS["nano"])
    with torch.no_grad():
        _, height, width = vae.encode(torch.zeros(1, 3, 512, 512)).shape[1:]
    channels = deep_compression.VARIANTS["small"]["latent_channels"]
    tokens = height * width
    return [f"{height} x {width} x {channels}, {tokens} tokens; {(512 // 8) ** 2 // tokens} times fewer"]


def steps(recipe: str, *names: str) -> int:
    return sum(stage.steps for stage in stages_of(recipe) if not names or stage.name in names)


ARITHMETIC: dict[str, Callable[[], list[str]]] = {
    "I1": lambda: [millions(*sizes("iris", "tiny", "small", "base"))],
    "I2": parts_of_iris,
    "I3": lambda: [millions(count(wavelet_base().encoder), count(wavelet_base().decoder))],
    "I4": system_of_iris,
    "I5": latents_of_iris,
    "I6": haar,
    "I10": in_use,
    "I16": lambda: [f"{4096**2 * 768 / 1e9:.1f} x 10⁹"],
    "I17": layers_of_iris,
    "I27": cross_attention,
    "L1": lambda: [millions(*sizes("lira", "tiny", "small", "base", "large"))],
    "L2": bytes_of_lira,
    "L3": lambda: [f"{267 + 0.5 + 300 + 0.1 + 200:.0f} and {267 + 0.4 + 300 + 2 + 400:.0f}"],
    "L4": lambda: [f"{2 * 32 * 32 * 32 / 1e6:.2f} MB and {2 * 128 * 128 * 16 / 1e6:.2f} MB"],
    "L5": lambda: [", ".join(f"{n**2 / 1e6:.1f} M" for n in (1024, 4096, 16384))],
    "L12": connections,
    "L13": lambda: [f"77 / 64 = {77 / 64:.2f}"],
    "L16": small_decoders,
    "L19": lambda: [f"{steps('lira-curriculum'):,} and {4 + 6 + 8}"],
    "R1": cifar,
    "R2": taesd,
    "R14": lambda: [f"{steps('lrf-curriculum'):,}"],
    "M1": microforge,
    "M2": microforge_parts,
    "M3": plan_bytes,
    "M4": latents_of_microforge,
    "M14": full_modulation,
    "M17": source_of_microforge,
    "M21": image_prompt,
}
"""Claim -> what its measured cell says, as the library has it."""


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_on_the_page_is_that_of_the_library(name: str) -> None:
    for words in ARITHMETIC[name]():
        assert words in MEASURED[name], f"{name}: the library has {words!r}, the page {MEASURED[name]!r}"


def test_microforge_is_published_with_as_many_steps() -> None:
    stages = ("vae_128", "vae_256", "low_128", "low_256", "high_256", "high_512", "student", "edit_256", "edit_512")
    assert f"{steps('microforge-curriculum', *stages):,} steps" in MEASURED["M26"]


def test_every_claim_has_a_name_of_its_own_and_a_row() -> None:
    assert list(MEASURED) == list(CLAIMS)


def test_names_in_the_text_are_those_of_claims() -> None:
    assert set(re.findall(r"\b[ILRM]\d+\b", PAGE)) <= set(CLAIMS)


def test_what_holds_was_measured() -> None:
    for name, claim in CLAIMS.items():
        assert ("hold" in claim["verdict"]) <= bool(claim["command"] and claim["experiment"] != "none"), name
