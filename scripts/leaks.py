"""Training drawings that may show a held-out concept under another name, beside the held-out drawings nearest to them.

    python scripts/leaks.py drawings:FOLDER --page leaks.html

Looks at the training drawings whose concept OpenMoji does not have, by features of EfficientNet-Lite0. A name that is
found so belongs into pochade.data.sources.drawing_names.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from pochade.data.sources import open_source
from pochade.data.sources.openmoji import all_drawings
from pochade.evaluation.page import picture, write_html
from pochade.evaluation.pictures import pooled_features, to_pil, to_uint8
from pochade.features.lite0 import load_lite0

SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--shown", type=int, default=60)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    known = {drawing.concept for drawing in all_drawings()}
    data = open_source(given.data, "all")
    items = [data.item(index) for index in range(len(data))]
    concepts = [item.group.partition("/")[2] for item in items]
    trained = [i for i, item in enumerate(items) if item.split == "train" and concepts[i] not in known]
    held_out = [i for i, item in enumerate(items) if item.split == "held_out"]
    print(f"{len(trained)} training drawings of concepts that OpenMoji does not have, {len(held_out)} held-out ones")
    net = load_lite0()
    pictures = {i: to_uint8(data.image(i, SIZE)) for i in (*trained, *held_out)}
    features = [pooled_features(net, torch.stack([pictures[i] for i in rows])) for rows in (trained, held_out)]
    mean = torch.cat(features).mean(0)
    near = F.normalize(features[0] - mean, dim=1) @ F.normalize(features[1] - mean, dim=1).T
    best = near.max(1)
    parts: list[str] = []
    for row in best.values.argsort(descending=True)[: given.shown].tolist():
        own, other = trained[row], held_out[int(best.indices[row])]
        text = f"{1 - float(best.values[row]):.3f} {items[own].group} ~ {items[other].group}"
        print(text)
        parts.append(f"<p>{picture(to_pil(pictures[own]), text)}{picture(to_pil(pictures[other]), text)} {text}</p>")
    if given.page:
        write_html(given.page, f"Nearest held-out drawings of {given.data}", parts)


if __name__ == "__main__":
    main()
