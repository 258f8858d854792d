"""A bundle as a model: pictures from prompts and from other pictures, without PyTorch."""

import math
import platform
import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image

from ..arguments import (
    ALPHA,
    EVERYWHERE,
    MAX_THREADS,
    check_blur,
    check_count,
    check_factor,
    check_flag,
    check_guidance,
    check_guidance_interval,
    check_seed,
    check_strength,
    check_text,
    is_whole,
    path_text,
    plain,
)
from ..errors import PochadeError
from ..files import sha256
from ..version import __version__
from .budget import (
    TIMINGS,
    Choice,
    Times,
    cached,
    check_budget,
    choose,
    measure,
    times_here,
    usable,
    without_table,
)
from .canvas import HOLE, Canvas, Tiles, agree, resample
from .decode import check_megapixels
from .engines import OPENERS
from .graphs import Graphs, Open, check_openable
from .manifest import MANIFEST, OWN_DECODER, TASKS, WITHOUT_SOURCE, Manifest, read_manifest
from .masks import crop_around, lay_over, read_mask, shown_of, transparent
from .networks import Call, Networks
from .options import Given, Options, check_options
from .pictures import Picture, check_result, is_nearly_flat, on_white, read_grey, read_picture, to_array, to_image
from .prompts import Prompts
from .sampling import UNCONDITIONAL, Guidance, GuidanceWarning, check_guided, is_inside, noise_times

DRAWN_SEEDS = 2**31
"""A seed that is not given is drawn below this: small enough to be read out."""


class Bundle:
    """A folder that ``pochade export`` wrote, open for sampling. Graphs are loaded, and their files checked, when they
    are first needed.

    A seed gives the same picture to the bit in every run on one machine with the same number of threads. Every method
    that samples calls ``on_step`` after each step; an exception that it raises ends the call.

    Args:
        folder: of the bundle.
        threads: of ONNX Runtime; None for one a core.
        low_memory: one graph at a time is loaded and goes when the next one comes, its weights used as they lie in
            their file (where the bundle was exported with ``--external-data``).
        openers: what loads graphs, by the target that they were exported for.

    Raises:
        PochadeError: an argument is not allowed; there is no manifest, it is damaged, of a newer format or for a target
            that is not in ``openers``; or the name of the folder is not in UTF-8.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        low_memory: bool = False,
        openers: Mapping[str, Open] = OPENERS,
    ) -> None:
        self.folder = Path(path_text("bundle", folder, "the path of a folder"))
        if threads is not None:
            check_count("threads", threads, MAX_THREADS)
        check_flag("low_memory", low_memory)
        check_openable("bundle", self.folder)
        self.manifest: Manifest = read_manifest(self.folder)
        target = self.manifest.target
        if target not in openers:
            raise PochadeError(f"bundle: {str(folder)!r} is for {target!r}, allowed are {', '.join(openers)}")
        self._graphs = Graphs(self.folder, self.manifest, plain(threads), low_memory, openers[target])
        self._prompts = Prompts(self._graphs, self.manifest.text)
        self._networks = Networks(self.manifest, self._graphs, self._prompts)

    @property
    def sha256(self) -> str:
        """Of the manifest, which has those of all other files."""
        return sha256(self.folder / MANIFEST)

    def generate(
        self,
        prompt: str,
        *,
        budget_ms: float | None = None,
        **options: Unpack[Options],
    ) -> Picture:
        """A picture from a prompt.

        Args:
            prompt: a sentence, or the name of a class; an empty one is none.
            budget_ms: in place of steps and depth, see ``fit``.
            options: see ``Options``.

        Raises:
            PochadeError: an argument is not allowed; before any work. A file of the bundle is missing or altered.
            FailureError: what came out is no picture.

        Warns:
            PromptTruncatedWarning: the prompt is longer than the text encoder reads.
            PromptUnknownWarning: it knows less than half of the words of a prompt.
        """
        if budget_ms is not None:
            check_budget(budget_ms, steps=options.get("steps"), depth=options.get("depth"))
            own, interval = options.get("guidance"), options.get("guidance_interval")
            chosen = self.fit(budget_ms, guidance=own, guidance_interval=interval).quality
            options = {**options, "steps": chosen.steps, "depth": chosen.depth}
        call = self._call(prompt, usual_interval=self.manifest.defaults.guidance_interval, **options)
        tiles = Tiles(self._networks.cells, self._networks.cells)
        pixels = self._networks.decode(self._networks.sample(call, tiles, {}, 1.0), tiles)
        check_result(pixels)
        return self._picture(call, to_image(pixels), "generate", {})

    def check(self, prompt: str, **options: Unpack[Options]) -> None:
        """Raises PochadeError, and warns, where ``generate`` does before any work."""
        self._call(prompt, usual_interval=self.manifest.defaults.guidance_interval, **options)

    def edit(
        self,
        prompt: str,
        image: Given,
        *,
        strength: float | None = None,
        instruction: bool | None = None,
        image_guidance: float | None = None,
        **options: Unpack[Options],
    ) -> Picture:
        """Another picture of the size of ``image``.

        Args:
            prompt: what the new picture shows, or as an instruction what to do ("make it green").
            image: the source; PNG, JPEG or WebP.
            strength: how much noise it gets, in (0, 1]; None for the usual one.
            instruction: whether the prompt is one; None for True where the model was trained to follow them.
            image_guidance: with an instruction, the scale of guidance towards the source; None for the usual one.
            options: see ``Options``.

        Raises as ``generate``; also where a picture cannot be read, or the model follows no instruction.
        """
        follows = "edit" in self.manifest.trained_tasks
        instruction = follows if instruction is None else instruction
        scale = self._image_guidance(instruction, image_guidance)
        usual = 1.0 if instruction else self.manifest.defaults.strength["edit"]
        strength = usual if strength is None else strength
        check_strength(strength)
        call = self._call(prompt, scale, start=strength, **options)
        source = to_array(self._source("edit", image))
        canvas = Canvas.fit(_size(source), (self.manifest.height, self.manifest.width))
        pixels = self._edited(call, canvas, source, strength, "edit" if instruction else None)
        more = {"strength": plain(strength), "instruction": instruction, "image_guidance": scale}
        return self._picture(call, to_image(pixels), "edit", {**more, **_named("source", image)})

    def inpaint(
        self,
        prompt: str,
        image: Given,
        mask: Given,
        *,
        strength: float | None = None,
        soft_mask: bool = False,
        mask_blur: float = 0.0,
        invert_mask: bool = False,
        instruction: bool = False,
        image_guidance: float | None = None,
        **options: Unpack[Options],
    ) -> Picture:
        """``image`` with what ``mask`` marks generated anew; outside it no pixel changes, be it transparent or not.

        Args:
            prompt: of the square around the mask that is sampled, or an instruction for what the mask marks.
            image: the source.
            mask: of its size, white (from the middle grey on) where it is generated anew; ``"alpha"`` for what is
                transparent in the source, be it in part: what is new lies beneath it.
            strength: in (0, 1]; at 1 what the mask marks is forgotten; None for the usual one.
            soft_mask: grey shows as much of the new picture as it is bright.
            mask_blur: standard deviation in pixels of a Gaussian that the mask is convolved with; 0 for none.
            invert_mask: black is generated anew.
            instruction: whether the prompt is one.
            image_guidance: as of ``edit``.
            options: as of ``edit``.

        Raises as ``edit``; also where the mask has another size or nothing white.

        Warns: as ``generate``, ``read_mask`` and ``warn_of_conversions``.
        """
        scale = self._image_guidance(instruction, image_guidance)
        strength = self.manifest.defaults.strength["inpaint"] if strength is None else strength
        check_strength(strength)
        check_blur(mask_blur)
        check_flag("soft_mask", soft_mask)
        check_flag("invert_mask", invert_mask)
        call = self._call(prompt, scale, start=strength, **options)
        source = self._source("inpaint", image, flattened=False)
        alpha = np.asarray(source.getchannel("A")) if source.mode == "RGBA" else None
        beneath = isinstance(mask, str) and mask == ALPHA
        soft = {"soft_mask": soft_mask, "mask_blur": plain(mask_blur), "invert_mask": invert_mask}
        if beneath and any(soft.values()):
            raise PochadeError(f"mask: {ALPHA!r} given with soft_mask, mask_blur or invert_mask, allowed is none")
        size = (source.height, source.width)
        if beneath:
            marked = transparent("mask", alpha)
        else:
            form: dict[str, Any] = {"soft": soft_mask, "blur": mask_blur, "invert": invert_mask}
            marked = read_mask("mask", read_grey("mask", mask), size, **form, stacklevel=3)
        outer = (self.manifest.height, self.manifest.width)
        box = crop_around(marked, max(outer))
        hole = marked[box.place].copy()
        cut = source.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        old = to_array(on_white(cut))
        canvas = Canvas.fit(_size(old), outer)
        task = "edit" if instruction else "inpaint"
        marked = (hole > 0).astype(np.float32)
        if alpha is not None and beneath:
            # Colours fade as they are, not as they look on white.
            shown, most, cut, source = 255 - alpha[box.place], 255, cut.convert("RGB"), source.convert("RGB")
        else:
            shown, most = shown_of(hole, math.ceil(canvas.magnification))
        edited = self._edited(call, canvas, old, strength, task, marked, is_part=bool((shown < most).any()))
        weight = shown / np.float32(most)
        over = lay_over(to_array(cut).transpose(2, 0, 1), edited.transpose(2, 0, 1), weight)
        source.paste(to_image(over.transpose(1, 2, 0)), (box.left, box.top))
        more = {"strength": plain(strength), "instruction": instruction, "image_guidance": scale}
        named = {**_named("source", image), **({"mask": ALPHA} if beneath else _named("mask", mask))}
        return self._picture(call, source, "inpaint", {**more, **soft, **named})

    def upscale(
        self,
        image: Given,
        prompt: str = "",
        *,
        factor: int = 2,
        strength: float | None = None,
        **options: Unpack[Options],
    ) -> Picture:
        """``image``, 2 or 4 times as large, sampled in tiles of the bundle's size where it is larger than that.

        Args:
            image: the source.
            prompt: a description; it conditions every tile, so that a large picture is better without.
            factor: 2 or 4.
            strength: in (0, 1]: the higher, the sharper and the less like the input; None for the usual one.
            options: see ``Options``.

        Raises as ``edit``.
        """
        check_factor(factor)
        if strength is None:
            trained = "super_resolution" in self.manifest.trained_tasks and factor == 4
            strength = 1.0 if trained else self.manifest.defaults.strength["super_resolution"]
        check_strength(strength)
        guidance = options.get("guidance")
        call = self._call(prompt, start=strength, **{**options, "guidance": 1.0 if guidance is None else guidance})
        small = to_array(self._source("super_resolution", image))
        H, W = (int(factor) * side for side in _size(small))
        check_megapixels("factor", W, H)
        tile, f = (self.manifest.height, self.manifest.width), self.manifest.latents.downsampling
        inner = Canvas.fit((H, W), tile).inner if tile[0] >= H and tile[1] >= W else (H, W)
        # A network draws what it has learned of the borders of pictures: they lie beyond this one, and are cut.
        outer = tuple(max(t, -(-(side + 2 * (t // 4)) // f) * f) for side, t in zip(inner, tile, strict=True))
        canvas = Canvas((H, W), inner, (outer[0], outer[1]))
        start = agree(resample(small, H, W), small)

        def constrain(pixels: np.ndarray) -> np.ndarray:
            return canvas.put(agree(canvas.take(pixels), small))

        edited = self._edited(call, canvas, start, strength, "super_resolution", constrain=constrain)
        more = {"strength": plain(strength), "factor": plain(factor), "instruction": False, "image_guidance": None}
        large = to_image(agree(edited, small))
        return self._picture(call, large, "super_resolution", {**more, **_named("source", image)})

    def fit(
        self,
        budget_ms: float,
        *,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Choice:
        """Steps and depth of the best measured quality whose pictures take at most ``budget_ms`` on this machine.

        The time is that from a prompt to its picture; graphs are loaded before. At the first call it is measured, which
        takes as long as some tens of steps, and kept in ``timings.json`` of the bundle, or in the user's cache folder
        where that cannot be written.

        Args:
            budget_ms: milliseconds.
            guidance: of the pictures; None for the model's own.
            guidance_interval: likewise.

        Raises:
            PochadeError: the bundle has no table of quality, or one of other depths; or nothing fits: it names the
                smallest budget that does.
        """
        check_budget(budget_ms)
        scale = self.manifest.defaults.guidance if guidance is None else guidance
        check_guidance("guidance", scale)
        usual = self.manifest.defaults.guidance_interval
        interval = usual if guidance_interval is None else guidance_interval
        check_guidance_interval(interval)
        table = usable(self.manifest)
        if not table:
            raise PochadeError(f"budget: {without_table(self.manifest)}")
        prompt = next(iter(self.manifest.model.prompts), "a red apple")
        if self.manifest.text is None or self.manifest.text.classes:
            prompt = "" if self.manifest.text is None else self.manifest.text.classes[0]

        def sample(steps: int, depth: int | None) -> object:
            guided = any(is_inside(interval, t) for t in noise_times(self.manifest.sampling, steps)[:-1])
            own = scale if guided else 1.0
            return self.generate(prompt, seed=0, steps=steps, guidance=own, guidance_interval=interval, depth=depth)

        def time_it() -> Times:
            return measure(sample, dict.fromkeys(row.depth for row in table))

        digest = self.sha256
        guided = (float(interval[0]), float(interval[1])) if scale != 1 else None
        key = f"{digest[:16]}, {self._graphs.settings}, guidance {guided}, onnxruntime {versions()['onnxruntime']}"
        places = (self.folder / TIMINGS, cached(digest))
        choice = choose(table, times_here(places, key, table, time_it), budget_ms)
        self._load(choice.quality.depth)
        return choice

    def _load(self, depth: int | None) -> None:
        """The graphs of a picture, which are otherwise loaded when they are first needed."""
        usual = WITHOUT_SOURCE if WITHOUT_SOURCE in self.manifest.graphs else "denoiser"
        for name in ("text_encoder", self.manifest.depths.get(str(depth), usual), "decoder"):
            if name in self.manifest.graphs:
                self._graphs.load(name)

    def _call(
        self,
        prompt: str,
        image_guidance: float | None = None,
        *,
        usual_interval: tuple[float, float] = EVERYWHERE,
        start: float = 1.0,
        **options: Unpack[Options],
    ) -> Call:
        check_options(options)
        defaults = self.manifest.defaults
        seed, steps, guidance = options.get("seed"), options.get("steps"), options.get("guidance")
        seed = secrets.randbelow(DRAWN_SEEDS) if seed is None else seed
        steps = defaults.steps if steps is None else steps
        guidance = defaults.guidance if guidance is None else guidance
        guidance_interval = options.get("guidance_interval")
        guidance_interval = usual_interval if guidance_interval is None else guidance_interval
        negative_prompt, depth, on_step = (
            options.get("negative_prompt", ""),
            options.get("depth"),
            options.get("on_step"),
        )
        depth = defaults.depth if depth is None else depth
        check_text("prompt", prompt)
        check_text("negative_prompt", negative_prompt)
        if on_step is not None and not callable(on_step):
            raise PochadeError(f"on_step: {on_step!r} given, allowed is a function")
        check_seed(seed)
        check_count("steps", steps)
        check_guidance("guidance", guidance)
        check_guidance_interval(guidance_interval)
        if negative_prompt.strip() and guidance == 1:
            raise PochadeError("negative_prompt: has no effect at guidance 1, allowed is any other scale")
        if guidance == 0 and defaults.guidance == 1:  # built in: 0 is "off", as 1 is
            guidance = 1
        elif guidance == 0:
            warnings.warn(UNCONDITIONAL, GuidanceWarning, stacklevel=4)
        if depth is not None and not (is_whole(depth) and str(depth) in self.manifest.depths):
            allowed = ", ".join(self.manifest.depths) or "none: the family has no iterations"
            raise PochadeError(f"depth: {depth!r} given, the bundle has {allowed}")
        self._prompts.check("prompt", prompt)
        self._prompts.check("negative_prompt", negative_prompt)
        scales = Guidance(float(guidance), image_guidance, (float(guidance_interval[0]), float(guidance_interval[1])))
        if guidance != 1 or image_guidance is not None:
            times = noise_times(self.manifest.sampling, steps, start)[:-1]
            check_guided(scales.interval, times, usual=usual_interval, negative=bool(negative_prompt.strip()))
        return Call(prompt, negative_prompt, plain(seed), plain(steps), scales, plain(depth), on_step)

    def _image_guidance(self, instruction: bool, given: float | None) -> float | None:
        """Raises PochadeError where there is no instruction to go with it, or the model follows none."""
        check_flag("instruction", instruction)
        if not instruction:
            if given is not None:
                raise PochadeError("image_guidance: given without an instruction, allowed is none")
            return None
        if "edit" not in self.manifest.trained_tasks:
            raise PochadeError("instruction: given, but this model follows none, allowed is a description")
        scale = self.manifest.defaults.instruction_guidance if given is None else given
        check_guidance("image_guidance", scale)
        return float(scale)

    def _source(self, task: str, given: Given, *, flattened: bool = True) -> Image.Image:
        if task not in self.manifest.tasks:
            raise PochadeError("image: given, but the bundle has no encoder: its tasks are generate alone")
        return read_picture("image", given, flattened=flattened)

    def _edited(
        self,
        call: Call,
        canvas: Canvas,
        source: np.ndarray,
        strength: float,
        task: str | None,
        marked: np.ndarray | None = None,
        constrain: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        is_part: bool = False,
    ) -> np.ndarray:
        """The source [h, w, 3] edited on its canvas. A model that was trained for ``task`` is shown it, to inpaint with
        grey in the mask. What ``is_part`` of a picture may have one colour, such as that of the paper around it."""
        f = self.manifest.latents.downsampling
        tiles = Tiles((canvas.outer[0] // f, canvas.outer[1] // f), self._networks.cells)
        shown = canvas.put(source)
        latents = self._networks.encode(shown, tiles)
        cells = None if marked is None else canvas.put_mask(marked, f)[None, None]
        conditioning: dict[str, np.ndarray] = {}
        if task in self.manifest.trained_tasks:
            conditioning = {
                "source": latents,
                "source_mask": np.zeros_like(latents[:, :1]) if cells is None else cells,
                "task": np.array([TASKS.index(task)]),
            }
            if marked is not None and task == "inpaint":
                hole = canvas.put_mask(marked, 1)[..., None] > 0
                conditioning["source"] = self._networks.encode(np.where(hole, np.float32(HOLE), shown), tiles)
        sampled = self._networks.sample(call, tiles, conditioning, strength, latents, cells, constrain)
        pixels = self._networks.decode(sampled, tiles)
        check_result(pixels, may_be_flat=is_part or is_nearly_flat(shown))
        return canvas.take(pixels)

    def _picture(self, call: Call, image: Image.Image, task: str, more: Mapping[str, Any]) -> Picture:
        decoder = self.manifest.decoder
        recipe = {
            "task": task,
            "prompt": call.prompt,
            "seed": call.seed,
            "model": self.manifest.model.name,
            "steps": call.steps,
            "guidance": call.guidance.scale,
            "guidance_interval": list(call.guidance.interval),
            "negative_prompt": call.negative_prompt,
            "depth": call.depth,
            "decoder": OWN_DECODER if decoder is None else decoder.name,
            **more,
            "model_sha256": self.manifest.model.sha256 or "",
            **({} if decoder is None else {"decoder_sha256": decoder.sha256}),
            "bundle_sha256": self.sha256,
            "height": image.height,
            "width": image.width,
            "versions": versions(),
        }
        return Picture(image, recipe)


def versions() -> dict[str, str]:
    """Versions of all that the bits of a picture depend on."""
    import onnxruntime

    return {
        "pochade-runtime": __version__,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _named(name: str, given: Given) -> dict[str, str]:
    """A file and its digest, for the recipe."""
    return {} if isinstance(given, Image.Image) else {name: str(given), f"{name}_sha256": sha256(Path(given))}
