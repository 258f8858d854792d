"""``pochade export``: a model as a bundle for hosts without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, quiet_libraries
from pochade.errors import PochadeError, nearest
from pochade.export.precision import parse_precision
from pochade.pipelines import decoders, hub

TARGETS = ("onnx", "web")
EXAMPLES = """[bold]Examples[/bold]

pochade export lrf-openmoji bundle/

pochade export microforge-edit bundle/ --precision int8

pochade export lrf-openmoji site/ --for web"""


def export(
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, a new or an empty one.")],
    target: Annotated[
        str, typer.Option("--for", help="What is written: onnx, a bundle; web, a page that runs it.", metavar="NAME")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the weights: fp32, fp16, int8; with changes: int8,decoder=int8. Left out: fp32, of a page int8.",
            metavar="NAME",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 256, or WIDTHxHEIGHT. Left out: as the model was trained.")
    ] = None,
    decoder: options.Decoder = None,
    depth: Annotated[
        int | None, typer.Option(help="Iterations in the graph, where the family has them; left out, as configured.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="A fixed batch size; left out, it is free when the graph runs.")
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
    """Write a model as a bundle: ONNX graphs checked against PyTorch, its tokenizer, a manifest. Or as a web page."""
    if target not in TARGETS:
        raise PochadeError(f"for: {target!r} given, allowed are {', '.join(TARGETS)}{nearest(target, TARGETS)}")
    from pochade.runtime.graphs import check_openable

    page = target == "web"
    if page and (batch is not None or external_data):
        raise PochadeError("batch and external_data: given for web, allowed are neither: the page decides them")
    if not page and onnxruntime_web is not None:
        raise PochadeError("onnxruntime_web: given for onnx, allowed is web")
    precision = precision or ("int8" if page else "fp32")
    parse_precision(precision)
    check_openable("out", out)
    folder = hub.resolve(model)
    small = decoders.find_decoder(decoder or decoders.OWN, folder)
    width, height = (None, None) if size is None else options.parse_size(size)
    with loading(model):
        from pochade.export.bundle import export_bundle, model_facts
        from pochade.export.site import export_site
        from pochade.pipelines.run_request import open_pipeline

        quiet_libraries()
        # Graphs are compared with the model on the CPU, where they run too.
        pipe = open_pipeline("TextToImagePipeline", folder, device="cpu", precision="fp32")
        facts = model_facts(Path(model).resolve().name, folder)
        shape = None if width is None or height is None else (height, width)
        own = None if small is None else decoders.load_decoder(pipe.autoencoder, small)
        site = None
        if page:
            site = export_site(
                pipe,
                out,
                facts,
                precision=precision,
                size=shape,
                depth=depth,
                decoder=own,
                runtime=onnxruntime_web,
            )
            manifest = site.manifest
        else:
            manifest = export_bundle(
                pipe,
                out,
                facts,
                precision=precision,
                size=shape,
                depth=depth,
                decoder=own,
                batch="dynamic" if batch is None else batch,
                external_data=external_data,
            )
    if as_json:
        print(manifest.to_json(), end="")
        return
    for name, graph in manifest.graphs.items():
        size_mb = sum(manifest.files[file].bytes for file in (graph.file, graph.data) if file) / 1e6
        print(f"{name}: {graph.precision}, {size_mb:.1f} MB, {graph.milliseconds:.1f} ms a call")
    if manifest.picture_psnr is not None:
        print(f"pictures: {manifest.picture_psnr:.1f} dB from float32")
    if site is not None:
        print(f"download: {site.download / 1e6:.1f} MB, to edit {site.editing / 1e6:.1f} MB more")
    print(out)
