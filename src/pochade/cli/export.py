"""``pochade export``: a model as a bundle for hosts without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.arguments import is_given
from pochade.cli import options
from pochade.cli.common import loading, quiet_libraries
from pochade.errors import PochadeError
from pochade.files import remove_folder
from pochade.pipelines import decoders, hub, linked, requests
from pochade.pipelines.checks import check_size

EXAMPLES = """[bold]Examples[/bold]

pochade export lrf-openmoji bundle/

pochade export runs/mine    (kept in your cache folder: pochade generate then starts in a second)

pochade export microforge-edit bundle/ --precision int8

pochade export lrf-openmoji site/ --for web

pochade export lrf-openmoji phone/ --for executorch --precision int8"""


def export(
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write, a new or an empty one. Left out: graphs for pochade generate, in your cache folder.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--for",
            help="What runs it: onnx, web (a page), openvino, coreml, executorch, litert.",
            metavar="NAME",
        ),
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the weights: fp32, fp16, int8; with changes: int8,decoder=int8. For NPUs, with activations: "
            "w8a16, w8a8. Left out: fp32, for web int8, for coreml fp16.",
            metavar="NAME",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 256, or WIDTHxHEIGHT. Left out: as the model was trained.")
    ] = None,
    decoder: options.Decoder = None,
    depth: Annotated[
        str | None,
        typer.Option(
            help="Iterations in the graph, where the family has them; left out, as configured. 8,4: a graph each.",
            metavar="N[,N]",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="A fixed batch size; left out, it is free where graphs can have that, else 1.")
    ] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights in files beside the graphs, which a host can map.")
    ] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            help="For web: the npm package, .tgz or folder. Left out: npm fetches it once, into your cache folder.",
            metavar="PATH",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write a model as a bundle: graphs checked against PyTorch, its tokenizer, a manifest. Or as a web page."""
    depths = () if depth is None else options.parse_counts("depth", depth)
    width, height = (None, None) if size is None else options.parse_size(size)
    options_of = {"batch": batch, "external_data": external_data, "onnxruntime_web": onnxruntime_web}
    given = {name: value for name, value in options_of.items() if is_given(value)}
    own = out is None
    if out is None:
        changed = {"precision": precision, "size": size, "decoder": decoder, "depth": depth, **given}
        for name, value in {"for": None if target == "onnx" else target, **changed}.items():
            if value is not None:
                raise PochadeError(f"out: none given beside {name}={value!r}, allowed is a folder")
        from pochade.runtime.manifest import MANIFEST

        folder = hub.resolve(model)
        digest = hub.model_sha256(folder)
        there = linked.find(folder, digest)
        if there is not None:
            print((there / MANIFEST).read_text(encoding="utf-8") if as_json else there)
            return
        out = linked.kept(digest)
        if out.is_dir():  # damaged
            remove_folder(out)
    with loading("pochade"):
        from pochade.export.bundle import model_facts
        from pochade.export.targets import Request, find_target, linked_target
        from pochade.files import check_new_folder, check_replaceable
        from pochade.pipelines.budget import read_quality
        from pochade.pipelines.run_request import open_pipeline
        from pochade.runtime.graphs import check_openable

        found = linked_target(hub.resolve(model)) if own else find_target(target, given, precision, depths)
    check_replaceable("out", out)
    check_openable("out", out)
    check_new_folder(out)
    facts = requests.model_facts(model)
    folder = facts.folder
    for one in depths:
        requests.check_depth(one, facts)
    for side in (width, height):
        check_size("size", side, facts.size_multiple)
    small = decoders.find_decoder(decoder or decoders.OWN, folder)
    with loading(model):
        quiet_libraries()
        # Graphs are compared with the model on the CPU, where they run too.
        pipe = open_pipeline("TextToImagePipeline", folder, device="cpu", precision="fp32")
        manifest, lines = found.write(
            Request(
                pipe,
                out,
                model_facts(Path(model).resolve().name, folder),
                precision,
                None if width is None or height is None else (height, width),
                depths,
                small,
                given,
                () if own else read_quality(folder),  # of a time in place of settings, which PyTorch keeps to
            )
        )
    if as_json:
        print(manifest.to_json(), end="")
        return
    if own:
        print(out)
        return
    for name, graph in manifest.graphs.items():
        own = [f for f in manifest.files if f in (graph.file, graph.data) or f.startswith(f"{graph.file}/")]
        size_mb = sum(manifest.files[file].bytes for file in own) / 1e6
        took = "not run here" if graph.milliseconds is None else f"{graph.milliseconds:.1f} ms a call"
        print(f"{name}: {graph.precision}, {graph.file}, {size_mb:.1f} MB, {took}")
    if manifest.picture_psnr is not None:
        print(f"pictures: {manifest.picture_psnr:.1f} dB from float32")
    for line in lines:
        print(line)
    print(out)
