"""The page that explains a bundle to whoever finds it."""

from collections.abc import Sequence

from pochade.pipelines.linked import LINKED
from pochade.runtime.manifest import EMOJI, WITHOUT_SOURCE, Manifest, Value

_PAGE = """# {name}, as a bundle for devices

A text-to-image model as graphs for {runtime}, for pictures of {width} x {height} pixels. Licence of the
weights: {license}. {attribution}

| graph | inputs | outputs | weights |
|---|---|---|---|
{graphs}

`manifest.json` has their shapes, types and hashes, the noise times and the defaults, and for every input that may be
left out the number that fills it (`absent`).

## The sampling loop

1. Tokenise the prompt with `tokenizer.json`, cut it to `text.max_tokens` (the last `text.closing_tokens` stay), pad it
   with id 0 and mask false. `text_encoder` gives `tokens` and `pooled`. A prompt without text is not encoded: all its
   inputs are `absent`.{emoji}
2. Draw standard normal latents z, [1, {channels}, {rows}, {columns}], from the seed.
3. For each pair (t, t') of neighbours in `sampling.times`: v = `{denoiser}`(z, t, ...). With a guidance scale s other
   than 1 it is called for two rows, the second with its text absent, and v = v2 + s (v1 - v2), at times from the
   first of `defaults.guidance_interval` to the second, compared in float32; at others for the first row alone. Then
   {step}.{carry}
4. `decoder` gives the picture in [-1, 1], channels first: a pixel is round(255 (x / 2 + 1 / 2)).

The generator of a seed is the Mersenne Twister MT19937, started with the lower 32 bits of the seed. Each output x gives
u = (x mod 2^24) / 2^24; 16 of them make 16 numbers: for j from 0 to 7, r = sqrt(-2 ln(1 - u_j)) and
a = 2 pi u_(j + 8) give z_j = r cos a and z_(j + 8) = r sin a. Where there is no multiple of 16, the last 16 are made
anew from 16 further outputs.
"""
_EMOJI = """ Before that, each character for which `emoji.json` has a text is replaced by it: emoji
   are read by their names."""
_CARRY = (
    " `next_state` of a row is its `state` at the next step; a second row that was not there takes that of the first."
)
_STEPS = {
    "euler": "z = z + (t' - t) v",
    "lcm": "x = z - t v, and z = (1 - t') x + t' e with new noise e from the same generator",
}
_RUNTIMES = {
    "onnx": "ONNX Runtime",
    LINKED: "ONNX Runtime, which take their weights from the model's files",
    "openvino": "OpenVINO",
    "coreml": "Core ML",
    "executorch": "ExecuTorch (each a method of the file)",
    "litert": "LiteRT",
}


def readme(manifest: Manifest) -> str:
    """The text of a bundle's ``README.md``."""
    model, latents = manifest.model, manifest.latents
    rows = [
        (f"`{graph.file}`", _names(graph.inputs), _names(graph.outputs), graph.precision)
        for graph in manifest.graphs.values()
    ]
    denoiser = WITHOUT_SOURCE if WITHOUT_SOURCE in manifest.graphs else "denoiser"
    carries = any(value.name == "next_state" for value in manifest.graphs[denoiser].outputs)
    return _PAGE.format(
        name=model.name,
        runtime=_RUNTIMES[manifest.target],
        width=manifest.width,
        height=manifest.height,
        license=model.license or "the model names none",
        attribution=f"Attribution: {model.attribution}." if model.attribution else "",
        graphs="\n".join(f"| {' | '.join(row)} |" for row in rows),
        emoji=_EMOJI if EMOJI in manifest.files else "",
        channels=latents.channels,
        rows=latents.height,
        columns=latents.width,
        denoiser=denoiser,
        step=_STEPS[manifest.sampling.method],
        carry=_CARRY if carries else "",
    )


def _names(values: Sequence[Value]) -> str:
    return ", ".join(f"`{value.name}`" for value in values)
