"""A data set of captioned pictures that a model makes: distillation by data, from a teacher of any family."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pochade.arguments import EVERYWHERE
from pochade.data.dataset import Dataset, Split
from pochade.data.near_duplicates import alike, fingerprint
from pochade.data.prepare.target import Sample, Target, check_apart, png
from pochade.data.prepare.writer import picture_record
from pochade.data.progress import progress_bar
from pochade.data.sources import Source
from pochade.errors import PochadeError
from pochade.evaluation import generation
from pochade.evaluation.generation import PictureStore, TextToImage, generate
from pochade.evaluation.measure import advance_of
from pochade.evaluation.report import silent
from pochade.runtime.manifest import Model

SHOWN, COLUMNS = 64, 8


@dataclass(frozen=True)
class Plan:
    """How many pictures are made, and how. Raises PochadeError for a value out of range."""

    count: int
    """Pictures in all, before near duplicates are left out."""
    steps: int
    guidance: float
    seed: int = 0
    """Of the first picture; the next ones follow."""
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("count", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise PochadeError(f"{name}: {getattr(self, name)} given, at least 1 expected")


@dataclass(frozen=True)
class _Planned:
    """One picture that is to be made."""

    caption: str
    group: str
    split: str
    seed: int
    part: Split


def synthesise(
    pipeline: TextToImage, model: Model, captions: Source, target: Target, plan: Plan, *, progress: bool = True
) -> dict[str, Any]:
    """Writes pictures that a model makes of the captions of a source, with a card; returns the report.

    The captions are gone through in turn, with new seeds each time, until there are ``plan.count``; each part of the
    target has its share, and a picture keeps its caption's group and split, so that what was held out stays so. Of
    near duplicates (``pochade.data.near_duplicates``), over all parts, the first is kept.

    Finished pictures lie beside ``target.out`` until all is written, so that an interrupted call goes on.

    Args:
        pipeline: of any family.
        model: its name, digest and licence, for the card.
        captions: a source with captions.
        target: where, in what form and size; the model generates at that size.

    Raises:
        PochadeError: a caption is missing, the model cannot generate at that size, or the target is within the source.
        EmptySplitError: there are no captions of a split.
        FailureError: something could not be written.
    """
    for path in captions.paths():
        check_apart(target.out, path)
    parts: dict[Split, Dataset] = {part: captions.captioned().open(part, progress=progress) for part in target.parts}
    planned = list(_shares(parts, str(captions), plan))
    kept_apart = target.out.with_name(f"{target.out.name}-pictures")
    key = {
        "weights": generation.fingerprint(pipeline),
        "steps": plan.steps,
        "guidance": plan.guidance,
        "size": target.size,
        "device": pipeline.components["autoencoder"].device.type,
    }
    store = PictureStore(kept_apart, key)
    with silent(pipeline), progress_bar(progress) as bar:
        start = 0
        for part in target.parts:
            own = [one for one in planned if one.part == part]
            generate(
                pipeline,
                [one.caption for one in own],
                store,
                steps=plan.steps,
                guidance=plan.guidance,
                seed=plan.seed + start,
                batch_size=plan.batch_size,
                options={"height": target.size, "width": target.size},
                advance=advance_of(bar, bar.add_task(f"pictures of {part}", total=len(own))),
            )
            start += len(own)

    def picture(one: _Planned) -> Image.Image:
        with Image.open(store.path(one.caption, one.seed)) as image:
            return image.convert("RGB")

    repeated = {place for same in alike([fingerprint(picture(one)) for one in planned]) for place in same[1:]}
    facts = {
        "model": model.name,
        "model_sha256": model.sha256,
        "captions": str(captions),
        "steps": plan.steps,
        "guidance": plan.guidance,
        "guidance_interval": list(pipeline.default_guidance_interval),
        "seed": plan.seed,
        "made": len(planned),
        "alike": len(repeated),
    }

    def samples() -> Iterator[Sample]:
        for place, one in enumerate(planned):
            if place in repeated:
                continue
            image = picture(one)
            record = picture_record(
                f"{place:09d}",
                png(image),
                ".png",
                (one.caption,),
                group=one.group,
                split=one.split,
                licence=model.license,
            )
            yield Sample(one.part, record, [image], [one.caption])

    report = target.write(
        samples(),
        lambda: facts,
        shown=SHOWN,
        columns=COLUMNS,
        total=len(planned) - len(repeated),
        progress=progress,
        card=lambda report: card(target.out.name, report, model),
    )
    shutil.rmtree(kept_apart)
    return report


def _shares(parts: dict[Split, Dataset], source: str, plan: Plan) -> Iterator[_Planned]:
    """The pictures of each part in turn, in proportion to its captions, the last one with what is left."""
    total, seed, left = sum(map(len, parts.values())), plan.seed, plan.count
    for number, (part, dataset) in enumerate(parts.items(), 1):
        count = left if number == len(parts) else min(left, round(plan.count * len(dataset) / total))
        for i in range(count):
            item = dataset.item(i % len(dataset))
            if not item.captions:
                raise PochadeError(f"captions: {source!r} given, in which {item.name} has none")
            caption = item.captions[i // len(dataset) % len(item.captions)]
            yield _Planned(caption, item.group, item.split, seed + i, part)
        seed, left = seed + count, left - count


def card(name: str, report: dict[str, Any], model: Model) -> str:
    """The data card of a set, in Markdown with the head that the Hugging Face hub reads."""
    head: Sequence[str] = [
        "---",
        *([f"license: {model.license}"] if model.license else []),
        *([f'attribution: "{model.attribution}"'] if model.attribution else []),
        "task_categories: [text-to-image]",
        "tags: [synthetic]",
        "---",
    ]
    counts = ", ".join(f"{count:,} in `{part}`" for part, count in report["samples"].items())
    licence = "; ".join(filter(None, (model.license or "that of the model, which names none", model.attribution)))
    low, high = report["guidance_interval"]
    times = "" if report["guidance"] == 1 or (low, high) == EVERYWHERE else f" at times from {low:g} to {high:g}"
    lines = (
        f"# {name}",
        f"Pictures of {report['size']} x {report['size']} pixels that the model `{model.name}` made of captions: "
        f"{counts}.",
        f"- **Captions**: those of `{report['captions']}`, in turn, each time with new noise; {report['made']:,} "
        "pictures were made. Each keeps the group and the split of its caption: what was held out there is held out "
        "here.",
        f"- **Sampling**: {report['steps']} steps, guidance {report['guidance']:g}{times}, "
        f"seeds from {report['seed']} on; weights `{model.sha256}`.",
        f"- **Near duplicates** were left out but for the first: {report['alike']:,} pictures, by a perceptual hash "
        "and a small copy.",
        f"- **Licence**: {licence}.",
        "- **What to expect**: a model trained on these pictures learns this model's faults with its skills. No "
        "picture was checked by eye, or against its caption.",
    )
    return "\n".join(head) + "\n\n" + "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]) + "\n"
