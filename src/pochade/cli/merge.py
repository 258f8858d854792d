"""``pochade merge``: a model and LoRAs to one model."""

from pathlib import Path
from typing import Annotated

import typer

from pochade.cli import options
from pochade.cli.common import loading, quiet_libraries
from pochade.errors import PochadeError
from pochade.files import check_folder, check_here
from pochade.pipelines import decoders, hub
from pochade.pipelines.lora_files import find_loras

EXAMPLES = """[bold]Examples[/bold]

pochade merge open-drawings --lora runs/lora/1-lora/model:0.8 -o my-model

pochade merge open-drawings --lora runs/lines/1-lora/model --lora runs/colours/1-lora/model:0.5 -o my-model"""


def merge(
    model: Annotated[str, typer.Argument(help="Name, folder, or OWNER/NAME.")],
    lora: options.LoRAs = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write, a new one.", show_default=False)
    ] = None,
) -> None:
    """Write a model with LoRAs added to its weights, which loads without them."""
    if not lora:
        raise PochadeError("lora: none given, allowed is --lora FOLDER or --lora FOLDER:WEIGHT, once or more")
    if out is None:
        raise PochadeError("out: none given, allowed is the name of a new folder")
    check_here("out", out)
    folder = hub.resolve(model)
    loras = find_loras(lora, folder, model)
    if out.exists():
        raise PochadeError(f"out: {str(out)!r} exists already, allowed is a new folder")
    check_folder("out", out.parent)
    with loading(model):
        import shutil

        import torch

        from pochade.files import atomic_folder, write_json
        from pochade.pipelines.run_request import open_pipeline
        from pochade.pipelines.tensor_files import read_head
        from pochade.training import record

        quiet_libraries()
        pipe = open_pipeline("TextToImagePipeline", folder, loras=loras, device="cpu", precision="fp32")
        types = {t["dtype"] for f in (folder / "denoiser").glob("*.safetensors") for t in read_head(f)[0].values()}
        with atomic_folder(out) as new:
            pipe.save_pretrained(new, dtype=torch.float16 if types == {"F16"} else None)
            if (folder / decoders.FOLDER).is_dir():
                shutil.copytree(folder / decoders.FOLDER, new / decoders.FOLDER)
            before = record.read_record(folder)
            for one in loras:  # each LoRA's own begins with that of the model
                trained = record.read_record(one.file.parent)
                before = before if trained is None else {**trained, "before": before}
            if before is not None:
                write_json(new / hub.RECORD, before)
    print(out)
