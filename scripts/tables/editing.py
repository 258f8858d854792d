"""Tables of models trained to edit."""

from typing import Any

from tables.cells import table

EDITED = ("without training", "trained")
EQUAL = 100.0
"""PSNR of what is the same to the bit, as the benchmark has it."""


def _rows(record: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return [row for row in record["rows"] if row["task"] == task]


def _value(row: dict[str, Any], name: str, form: str) -> str:
    return f"{row[name]:{form}} ± {row[f'{name} standard error']:{form}}"


def editing_inpaint(record: dict[str, Any]) -> str:
    """PSNR inside the hole, a row a model, a column a way."""
    rows = _rows(record, "inpaint")
    ways = list(dict.fromkeys(row["way"] for row in rows))
    cells = {(row["model"], row["way"]): _value(row, "psnr", ".1f") for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    outside = max(row["outside"] for row in rows if row["way"] in EDITED)
    head = (
        f"PSNR in dB inside the hole, {rows[0]['pairs']} held-out drawings; outside it the greatest difference from "
        f"the input is {outside:g}:"
    )
    return f"{head}\n\n" + table(["", *ways], [[m, *(cells.get((m, way), "–") for way in ways)] for m in models])


def editing_super_resolution(record: dict[str, Any]) -> str:
    """PSNR of enlarged pictures, a row a model and factor, a column a way."""
    rows = _rows(record, "super_resolution")
    ways = list(dict.fromkeys(row["way"] for row in rows))
    cells = {(row["model"], row["factor"], row["way"]): _value(row, "psnr", ".1f") for row in rows}
    keys = list(dict.fromkeys((row["model"], row["factor"]) for row in rows))
    lines = [
        [f"{m}, to {record[m]['size']} px", f"{factor}x", *(cells[m, factor, way] for way in ways)]
        for m, factor in keys
    ]
    return f"PSNR in dB, {rows[0]['pairs']} held-out drawings:\n\n" + table(["", "", *ways], lines)


def editing_instructions(record: dict[str, Any]) -> str:
    """How instructions are followed, a row a model and way."""
    rows = _rows(record, "edit")
    lines = [
        [
            row["model"],
            row["way"],
            _value(row, "nearer", ".2f"),
            _value(row, "R@1", ".2f"),
            _value(row, "psnr", ".1f"),
            "equal" if row["kept"] == EQUAL else _value(row, "kept", ".1f"),
        ]
        for row in rows
    ]
    columns = ["", "", "nearer the target", "R@1", "PSNR to the target, dB", "PSNR of the untouched part, dB"]
    return f"{rows[0]['pairs']} pairs of held-out concepts:\n\n" + table(columns, lines)


def editing_kinds(record: dict[str, Any]) -> str:
    """The share of pictures nearer the target than the input, a row a model, a column a kind of edit."""
    rows = [row for row in _rows(record, "edit") if row["way"] == "trained"]
    kinds = list(rows[0]["kinds"])
    lines = [[row["model"], *(f"{row['kinds'][k][0]:.2f} ({row['kinds'][k][1]})" for k in kinds)] for row in rows]
    return table(["", *(kind.replace("_", " ") for kind in kinds)], lines)


def editing_local(record: dict[str, Any]) -> str:
    """How an instruction to a marked area is followed, a row a model and way."""
    rows = _rows(record, "local")
    lines: list[list[str]] = []
    for row in rows:
        figures = _value(row, "nearer", ".2f"), _value(row, "psnr", ".1f")
        lines.append([row["model"], row["way"], *figures, f"{row['outside']:.2g}"])
    columns = ["", "", "nearer the target", "PSNR in the mask, dB", "greatest change outside it"]
    return f"{rows[0]['pairs']} pairs of held-out concepts:\n\n" + table(columns, lines)


def editing_generation(record: dict[str, Any]) -> str:
    """Quality of samples of captions alone, before and after training to edit."""
    lines = [
        [
            row["model"],
            row["way"],
            f"{row['kid train']:.3f} ± {row['kid train std']:.3f}",
            f"{row['R@1 train']:.2f}",
            f"{row['kid held_out']:.3f} ± {row['kid held_out std']:.3f}",
            f"{row['R@1 held_out']:.2f}",
        ]
        for row in _rows(record, "generate")
    ]
    columns = ["", "", "KID (Lite0) ± std", "R@1", "KID (Lite0) ± std, held out", "R@1, held out"]
    return table(columns, lines)


def microforge_source(record: dict[str, Any]) -> str:
    """The same model taught to edit in two ways, a row a way and seed."""
    rows = {(row["model"], row["task"]): row for row in record["rows"] if row["way"] in ("trained", "after")}
    names = list(dict.fromkeys(row["model"] for row in record["rows"]))
    lines: list[list[str]] = []
    for name in names:
        edited, filled, made = (rows[name, task] for task in ("edit", "inpaint", "generate"))
        figures = (_value(edited, key, form) for key, form in (("R@1", ".2f"), ("nearer", ".2f"), ("psnr", ".1f")))
        text = f"{made['kid train']:.3f} ± {made['kid train std']:.3f}", f"{made['R@1 train']:.2f}"
        way = name.partition(":")[2]
        lines.append([way, f"{record[name]['loss']:.3f}", *figures, _value(filled, "psnr", ".1f"), *text])
    before = next(row for row in record["rows"] if row["way"] == "before")
    text = f"{before['kid train']:.3f} ± {before['kid train std']:.3f}", f"{before['R@1 train']:.2f}"
    lines.append(["before the training", *["–"] * 5, *text])
    measures = [
        "R@1 among the targets",
        "nearer the target than the input",
        "PSNR to the target, dB",
        "PSNR in a hole, dB",
    ]
    pairs = next(row["pairs"] for row in record["rows"] if row["task"] == "edit")
    head = f"{pairs} pairs of held-out concepts, with standard errors, and pictures from captions alone:"
    return f"{head}\n\n" + table(
        ["source", "loss", *measures, "KID (Lite0) ± std, text alone", "R@1, text alone"], lines
    )


def image_prompt(record: dict[str, Any]) -> str:
    """How an image prompt is followed, and what the text prompt loses by it."""
    names = {"train": "training concepts", "held_out": "held-out concepts"}
    lines: list[list[str]] = []
    for row in record["rows"]:
        given = row["image_prompt"]
        way = given if given == "none" else f"{given}, scale {row['scale']:g}"
        figures = (_value(row, name, form) for name, form in (("colours", ".3f"), ("features", ".2f"), ("R@1", ".2f")))
        lines.append([names[row["split"]], way, *figures])
    columns = ["captions of", "image prompt", "colours apart from its own", "features apart from its own", "R@1"]
    return f"{record['rows'][0]['pictures']} pictures a row:\n\n" + table(columns, lines)


def super_resolution(record: dict[str, Any]) -> str:
    """PSNR and KID of enlarged drawings, a row for each way and strength, two columns for each factor."""
    factors = sorted({row["factor"] for row in record["rows"]})
    found: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
    for row in record["rows"]:
        strength = "-" if row["strength"] is None else f"{row['strength']:g}"
        found.setdefault((row["name"], strength), {})[row["factor"]] = (
            f"{row['psnr']:.2f} ± {row['standard_error']:.2f}",
            f"{row['kid']:.3f} ± {row['kid_std']:.3f}",
        )
    rows = [
        [name, strength, *(cell for factor in factors for cell in cells[factor])]
        for (name, strength), cells in found.items()
    ]
    head = (
        f"On {record['pictures']} held-out drawings of {record['size']} x {record['size']} pixels, made smaller and "
        f"enlarged again in {record['steps']} steps: PSNR against the original in dB, with standard errors; KID "
        "(Lite0) between results and originals, with its standard deviation over subsets:"
    )
    return f"{head}\n\n{table(['', 'strength', *(c for f in factors for c in (f'{f}x', f'{f}x, KID'))], rows)}"
