"""``pochade export``: a model as graphs for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, print_json, quiet_libraries
from pochade.pipelines import decoders, hub

EXAMPLES = """[bold]Example[/bold]

pochade export lrf-openmoji onnx/        (denoiser.onnx, decoder.onnx, manifest.json)

pochade export microforge-edit onnx/ --source"""


def export(
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    batch: Annotated[
        int | None, typer.Option(help="A fixed batch size; left out, it is free when the graph runs.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of the pictures; left out, as the model was trained.")
    ] = None,
    decoder: options.Decoder = None,
    source: Annotated[
        bool, typer.Option("--source", help="For editing: the graph takes a picture's latents, its mask and the task.")
    ] = False,
    depth: Annotated[
        int | None, typer.Option(help="Iterations in the graph, where the family has them; left out, as configured.")
    ] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights in files beside the graphs, which a host can map.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write a model as ONNX, checked against eager."""
    folder = hub.resolve(model)
    small = decoders.find_decoder(decoder or decoders.OWN, folder)
    with loading(model):
        from pochade.pipelines.run_request import open_pipeline

        quiet_libraries()
        # Graphs are compared with the model on the CPU, where they run too.
        pipe = open_pipeline("TextToImagePipeline", folder, decoder=small, device="cpu")
    pipe.check_inputs(num_inference_steps=1, guidance_scale=1.0, height=size, width=size)
    from pochade.export.onnx import export_pipeline

    manifest = export_pipeline(
        pipe,
        out,
        batch="dynamic" if batch is None else batch,
        latent_size=None if size is None else size // int(pipe.autoencoder.downsampling),
        depth=depth,
        source=source,
        external_data=external_data,
    )
    if as_json:
        print_json(manifest)
    else:
        graphs = ("denoiser", "decoder", *(["encoder"] if source else []))
        files = [manifest[part][file] for part in graphs for file in ("file", "data")]
        print("\n".join(str(out / name) for name in (*filter(None, files), "manifest.json")))
