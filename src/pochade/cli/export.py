"""``pochade export``: a model as a bundle for hosts without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, quiet_libraries
from pochade.pipelines import decoders, hub

EXAMPLES = """[bold]Examples[/bold]

pochade export lrf-openmoji bundle/

pochade export microforge-edit bundle/ --precision int8"""


def export(
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, a new or an empty one.")],
    precision: Annotated[
        str, typer.Option(help="Of the weights: fp32, or int8 (text encoder and denoiser).", metavar="NAME")
    ] = "fp32",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write a model as a bundle: ONNX graphs checked against PyTorch, its tokenizer, a manifest."""
    folder = hub.resolve(model)
    small = decoders.find_decoder(decoder or decoders.OWN, folder)
    width, height = (None, None) if size is None else options.parse_size(size)
    with loading(model):
        from pochade.export.bundle import export_bundle, model_facts
        from pochade.pipelines.run_request import open_pipeline

        quiet_libraries()
        # Graphs are compared with the model on the CPU, where they run too.
        pipe = open_pipeline("TextToImagePipeline", folder, device="cpu", precision="fp32")
        manifest = export_bundle(
            pipe,
            out,
            model_facts(Path(model).resolve().name, folder),
            precision=precision,
            size=None if width is None or height is None else (height, width),
            depth=depth,
            decoder=None if small is None else decoders.load_decoder(pipe.autoencoder, small),
            batch="dynamic" if batch is None else batch,
            external_data=external_data,
        )
    if as_json:
        print(manifest.to_json(), end="")
        return
    for name, graph in manifest.graphs.items():
        size_mb = sum(manifest.files[file].bytes for file in (graph.file, graph.data) if file) / 1e6
        print(f"{name}: {graph.precision}, {size_mb:.1f} MB, {graph.milliseconds:.1f} ms a call")
    print(out)
