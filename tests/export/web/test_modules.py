"""The scripts of the page against what they stand for: ``tokenizers``, torch's noise, Pillow."""

import io
import json
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from conftest import CAPTIONS
from export.web.serving import Host, serve, unpacked
from pochade.errors import PochadeError
from pochade.export.parity import session
from pochade.runtime import Bundle
from pochade.runtime.budget import RESERVE, Times, choose
from pochade.runtime.manifest import Quality, read_manifest
from pochade.runtime.tokens import token_ids
from pochade.text_encoders.bag import BagEncoder
from pochade.text_encoders.base import PromptEncoder
from pochade.text_encoders.minilm import MiniLMEncoder

TEXTS = [
    "a red apple",
    "A RED Apple, noto style",
    "naïve café — déjà-vu",
    "two  tabs\tand\nlines",
    "don't, it's 3.14!",
    "unbelievably-longcompoundword",
    "東京の猫 and ΟΔΟΣ",
    "🙂 smile \u200b zero",
    "🦊🍎",
    "👍🏽 and 👩\u200d🚀 in the ❄️",
    "25° ★",
    "x" * 120,
    "[MASK] is special",
    "",
    " ",
    "a\u0301e\u0308 ½ ﬁ",
]


TOKENISED = 'const { makeTokenizer } = await import("./tokenizer.js");'


@pytest.fixture(scope="module")
def script(browser: Any, host: Host) -> Any:
    """A page in which the modules can be imported."""
    page = browser.new_page()
    page.goto(f"{host.url}files.json")
    yield lambda code, value=None: page.evaluate(f"async (value) => {{ {code} }}", value)
    page.close()


@pytest.mark.parametrize(
    "make", [MiniLMEncoder, lambda: BagEncoder(BagEncoder.train_tokenizer(CAPTIONS, 300))], ids=["minilm", "bag"]
)
def test_tokens_are_those_of_python(script: Any, make: Callable[[], PromptEncoder]) -> None:
    encoder = make()
    names, library = encoder.emoji_names(), Tokenizer.from_str(encoder.tokenizer_json())
    texts = [*TEXTS, *(f"a{name}b" for name in names)]
    code = f"{TOKENISED} return value.texts.map(makeTokenizer(value.json, value.names));"
    found = script(code, {"json": json.loads(encoder.tokenizer_json()), "names": names, "texts": texts})
    for given, ids in zip(texts, found, strict=True):
        assert ids == token_ids(library, given), given


def test_every_character_is_read_as_by_the_library(script: Any) -> None:
    """Whichever version of Unicode the browser has, and the library's own parts have."""
    text = MiniLMEncoder().tokenizer_json()
    given = [chr(i) for i in (*range(1, 0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 32))]
    texts = [" ".join(f"a{c}b" for c in given[i : i + 64]) for i in range(0, len(given), 64)]
    code = f"{TOKENISED} return value.texts.map(makeTokenizer(value.json));"
    found = script(code, {"json": json.loads(text), "texts": texts})
    for each, ids, expected in zip(texts, found, Tokenizer.from_str(text).encode_batch(texts), strict=True):
        assert ids == expected.ids, each


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 5])
@pytest.mark.parametrize("count", [64, 100])
def test_noise_is_that_of_torch(script: Any, seed: int, count: int) -> None:
    code = """
    const { Noise } = await import("./noise.js");
    const noise = new Noise(value.seed);
    return [...noise.normal(value.count), ...noise.normal(value.count)];
    """
    found = script(code, {"seed": seed, "count": count})
    generator = torch.Generator().manual_seed(seed)
    expected = torch.cat([torch.randn(count, generator=generator) for _ in range(2)])
    assert np.abs(np.array(found) - expected.numpy()).max() < 2e-6


@pytest.mark.parametrize(("width", "height"), [(20, 31), (77, 12), (50, 40)])
def test_resampling_is_that_of_pillow(script: Any, width: int, height: int) -> None:
    given = np.random.default_rng(0).random((3, 40, 50), dtype=np.float32)
    code = """
    const { resample } = await import("./canvas.js");
    const picture = { width: 50, height: 40, data: Float32Array.from(value.data) };
    return [...resample(picture, value.width, value.height).data];
    """
    found = script(code, {"data": given.reshape(-1).tolist(), "width": width, "height": height})
    channels = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in given]
    expected = np.stack([np.asarray(c) for c in channels]).clip(0, 1)
    assert np.abs(np.array(found).reshape(expected.shape) - expected).max() < 1e-5


def test_a_png_holds_the_pixels_and_the_recipe(script: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    recipe = {"prompt": "naïve “cat” 🙂", "seed": 2**53 - 1}
    code = """
    const { encodePng } = await import("./png.js");
    const picture = { width: 7, height: 5, data: Uint8Array.from(value.pixels) };
    return [...new Uint8Array(await (await encodePng(picture, value.recipe)).arrayBuffer())];
    """
    found = script(code, {"pixels": pixels.reshape(-1).tolist(), "recipe": recipe})
    with Image.open(io.BytesIO(bytes(found))) as image:
        assert (np.asarray(image) == pixels[..., :3]).all()
        assert json.loads(image.info["pochade"]) == recipe
        assert image.info["pochade"].isascii()


def test_weights_of_8_bits_are_those_of_python(script: Any, toy_bundle: Path) -> None:
    denoiser = read_manifest(toy_bundle).graphs["denoiser"]
    assert denoiser.precision == "int8"
    rng = np.random.default_rng(0)
    values = {i.name: np.zeros((1, *i.shape[1:]), dtype=i.dtype) for i in denoiser.inputs}
    values["latents"] = rng.standard_normal(values["latents"].shape, dtype=np.float32)
    path = toy_bundle / denoiser.file
    expected = session(path).run(None, values)[0]
    code = """
    const { Files } = await import("./files.js"), { openRuntime, openSession } = await import("./runtime.js");
    const script = "./onnxruntime/ort.wasm.bundle.min.mjs", wasm = "onnxruntime/ort-wasm-simd-threaded.wasm";
    const ort = await openRuntime({ script, threads: 1 }, await (await Files.open()).load(wasm));
    const graph = await openSession(ort, Uint8Array.from(value.graph), "wasm"), feeds = {};
    const kinds = { float32: Float32Array, int64: BigInt64Array, bool: Uint8Array };
    for (const [name, { dtype, dims, data }] of Object.entries(value.inputs)) {
      const numbers = dtype === "int64" ? data.map(BigInt) : data;
      feeds[name] = new ort.Tensor(dtype, kinds[dtype].from(numbers), dims);
    }
    return [...(await graph.run(feeds)).velocity.data];
    """
    given = {
        name: {"dtype": str(v.dtype), "dims": list(v.shape), "data": v.reshape(-1).tolist()}
        for name, v in values.items()
    }
    found = script(code, {"graph": list(path.read_bytes()), "inputs": given})
    assert np.abs(np.array(found).reshape(expected.shape) - expected).max() < 1e-4 * expected.std()


def test_a_time_pays_for_what_it_pays_for_in_python(script: Any) -> None:
    table = [
        Quality(1, None, 0.5, 0.1),
        Quality(2, 8, 0.3, 0.2),
        Quality(4, None, 0.1, 0.4),
        Quality(8, None, 0.1, 0.3),
    ]
    budgets = [30, 60, 90, 91, 140, 141, 5000]
    code = """
    const { choose, explain, usable } = await import("./budget.js");
    const rows = usable({ quality: value.table, depths: { 4: "denoiser" } });
    const found = value.budgets.map((budget) => choose(rows, value.times, (steps) => 2 * steps, budget));
    return { steps: found.map(({ row }) => row?.steps ?? null), said: [null, found[0], found[6]].map(explain) };
    """
    times = {"text_encoder": 10, "decoder": 20, "denoiser": 12}
    given = {"table": [vars(row) for row in table], "times": times, "budgets": budgets}
    found = script(code, given)
    in_python: list[int | None] = []
    for budget_ms in budgets:
        try:
            choice = choose([row for row in table if row.depth is None], Times({"": 30.0}, {"": 24.0}), budget_ms)
            in_python.append(choice.quality.steps)
        except PochadeError:
            in_python.append(None)
    assert found["steps"] == in_python
    assert found["steps"][0] is None
    least = -(-RESERVE * 54 // 100) / 10
    assert found["said"] == [
        "This device is being timed…",
        f"The smallest possible here is {least:.1f} s for a picture.",
        "4 steps, about 0.1 s for a picture",
    ]


def test_the_scripts_come_with_the_package() -> None:
    names = {path.name for path in (files("pochade") / "export" / "web").iterdir()}
    assert {"index.html", "style.css", "app.js", "worker.js", "sw.js", "onnxruntime-LICENSE.txt"} <= names


@pytest.mark.parametrize(
    ("site", "prompt", "interval"),
    [
        ("toy_site", "a red apple", (0, 1)),
        ("toy_site", "a red apple", (0.4, 0.8)),
        ("toy_site_with_a_decoder", "a 🦊 and 🐈\u200d⬛", (0, 1)),
    ],
)
def test_the_loop_of_the_documentation_gives_the_same_picture(
    site: str, prompt: str, interval: tuple[float, float], browser: Any, request: Any, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(site)
    text = (Path(__file__).parents[3] / "docs" / "on-device.md").read_text(encoding="utf-8")
    code = text.partition("### In JavaScript\n")[2].partition("```javascript\n")[2].partition("```")[0]
    assert len(code.splitlines()) < 60
    call = """async ({ code, prompt, interval }) => {
    const { Files } = await import("./files.js"), { openRuntime } = await import("./runtime.js");
    const wasm = "onnxruntime/ort-wasm-simd-threaded.wasm", files = await Files.open();
    const library = "./onnxruntime/ort.wasm.bundle.min.mjs";
    const ort = await openRuntime({ script: library, threads: 1 }, await files.load(wasm));
    const base = new URL("./", location.href), own = await files.json("model/manifest.json");
    const there = code.replaceAll('"./', '"' + base);
    const { sample } = await import("data:text/javascript," + encodeURIComponent(there));
    own.defaults.guidance_interval = interval;
    const manifest = new TextEncoder().encode(JSON.stringify(own));
    const read = async (name) => (name === "manifest.json" ? manifest : files.load("model/" + name));
    return [...(await sample(ort, read, prompt, 7, 4, 3))];
    }"""
    with serve(folder) as host, closing(browser.new_page()) as page:
        page.goto(f"{host.url}files.json")
        found = page.evaluate(call, {"code": code, "prompt": prompt, "interval": interval})
    own = Bundle(unpacked(folder, tmp_path / "bundle"))
    made = own.generate(prompt, seed=7, steps=4, guidance=3.0, guidance_interval=interval)
    expected = np.asarray(made.image)
    assert np.ptp(expected) > 20
    assert np.abs(np.array(found).reshape(32, 32, 3) - expected.astype(int)).max() <= 3
