"""Writes the graphs of the shipped models, by which they start without PyTorch: python scripts/graphs.py [MODEL ...]

Needed where a model, its code or the version of pochade has changed; a test compares them with the models.
"""

import argparse

from pochade.export.bundle import export_bundle, model_facts
from pochade.export.formats.linked import Linked
from pochade.files import remove_folder
from pochade.pipelines import hub
from pochade.pipelines.linked import FOLDER
from pochade.pipelines.run_request import open_pipeline


def main() -> None:
    known = hub.shipped()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of those that are shipped; none: all")
    for name in parser.parse_args().models or known:
        folder = known[name]
        pipe = open_pipeline("TextToImagePipeline", folder, device="cpu", precision="fp32")
        place = folder / FOLDER
        if place.is_dir():
            remove_folder(place)
        manifest = export_bundle(pipe, place, model_facts(name, folder), form=Linked(folder))
        print(name, f"{sum(file.bytes for file in manifest.files.values()) / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
