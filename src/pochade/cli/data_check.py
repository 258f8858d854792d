"""``pochade data check``: pictures and captions before they are trained on."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli.common import loading, print_json, quiet_libraries
from pochade.cli.data_options import Background, Json, MaxMegapixels, MaxSkipped, Overwrite, read_limits
from pochade.errors import PochadeError, naming
from pochade.files import check_folder
from pochade.pipelines.hub import DEFAULT_MODEL


def check(
    *,
    source: Annotated[str, typer.Argument(help="A folder of pictures or shards, or another source as train takes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("data-check"),
    model: Annotated[
        str | None,
        typer.Option(
            help="Name, folder, or OWNER/NAME: how well its autoencoder gives each picture back, and how much of the "
            f"captions it reads. Left out: the captions alone, as {DEFAULT_MODEL} reads them."
        ),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="How well this one gives each picture back: of a model, a folder, or OWNER/NAME on the hub."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels to train at; left out, the model's own.")] = None,
    background: Background = "white",
    max_megapixels: MaxMegapixels = None,
    max_skipped: MaxSkipped = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Look at every picture and caption before training: what is broken, alike, too long or too fine.

    A page with small pictures and a JSON file; the exit code is 1 where something is to be mended.

    For example: pochade data check my-pictures --model open-drawings
    """
    from pochade.data.dataset import check_size
    from pochade.data.sources import parse_source
    from pochade.evaluation.data_page import FILES, write_check
    from pochade.files import check_absent

    found = parse_source(source)
    reading = read_limits(max_megapixels, max_skipped, background)
    if size is not None:
        check_size(size)
    found.check()
    check_folder("out", out)
    if not overwrite:
        check_absent("out", out, FILES)
    name, measured = model or DEFAULT_MODEL, autoencoder or model
    with loading(name):
        from pochade.evaluation.data_check import check_data, parts_of

        quiet_libraries()
        encoder, network, own = parts_of(name)
    if autoencoder is not None:
        with loading(autoencoder), naming("autoencoder", "name_or_folder"):
            from pochade.pipelines.autoencoders import load_autoencoder

            network = load_autoencoder(autoencoder)
    size = own if size is None else size
    if measured is not None and size % network.downsampling:
        raise PochadeError(f"size: {size} given, allowed are multiples of {network.downsampling} with {measured}")
    checked, dataset = check_data(
        found,
        encoder,
        size,
        autoencoder=None if measured is None else network,
        model=measured or name,
        reading=reading,
        progress=not as_json,
    )
    if not overwrite:  # another process may have written one meanwhile
        check_absent("out", out, FILES)
    json, page = write_check(out, checked, dataset)
    if as_json:
        print_json(checked.to_dict())
    else:
        for finding in checked.findings:
            print(f"{'to mend' if finding.problem else 'to know'}: {finding.text}")
        print(f"{json}\n{page}")
    if checked.problems:
        raise typer.Exit(1)
