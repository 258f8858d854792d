"""Tables of trainings on one's own pictures."""

from typing import Any

from tables.cells import number, table


def photographs(record: dict[str, Any]) -> str:
    """What each autoencoder keeps of photographs."""
    rows = [
        [
            f"`{row['autoencoder']}`",
            f"f{row['downsampling']}, {row['latent channels']} channels",
            f"{row['parameters'] / 1e6:.1f} M",
            number(row, "mean psnr", form=".1f"),
            f"{min(row['psnr'].values()):.1f} to {max(row['psnr'].values()):.1f}",
            number(row, "mean ssim", form=".3f"),
            number(row, "mean psnr of squares", form=".1f"),
        ]
        for row in record["rows"]
    ]
    heads = ["autoencoder of", "cells", "parameters", "PSNR, mean, dB", "of the photographs", "SSIM", "squares, dB"]
    return table(heads, rows)


def trained(parameters: int) -> str:
    """How many numbers are trained."""
    if parameters < 1e5:
        return str(parameters or "–")
    return f"{parameters / 1e6:.1f} M"


def evening(record: dict[str, Any]) -> str:
    """What the same pictures made of each way to train."""
    rows = [
        [
            f"`{record['base']}` as it is" if row["name"] == "base" else row["name"],
            str(row["steps"]) if "seconds" in row else "–",
            trained(row["trained parameters"]),
            number(row, "seconds", form=".0f"),
            number(row, "held-out loss", form=".2f"),
            f"{row['sampling steps']} x {row['guidance']:g}" if "R@1 train" in row else "–",
            *(number(row, f"R@1 {split}") for split in ("train", "held_out")),
            *(number(row, f"kid {split}") for split in ("train", "held_out")),
        ]
        for row in record["rows"]
    ]
    columns = ["", "steps", "trained", "seconds", "held-out loss", "sampling steps x guidance", "R@1, trained"]
    head = (
        f"{record['pictures']} pictures, batches of {record['batch']} at {record['size']} px, "
        f"{record['samples']} captions of each split; seconds of the processor "
        f"({record['processor']}, one thread), without the {record['encoding']['seconds']:.0f} s "
        "in which all pictures and captions are encoded once:"
    )
    return f"{head}\n\n" + table([*columns, "R@1, held out", "KID, trained", "KID, held out"], rows)


def ratios(record: dict[str, Any]) -> str:
    """What a LoRA trained in buckets gives at two shapes beside one trained on squares."""
    names = {"base": f"`{record['base']}` as it is", "squares": "LoRA, squares", "buckets": "LoRA, buckets"}
    rows = [
        [
            names[row["name"]],
            number(row, "seconds", form=".0f"),
            *(
                cell
                for kind in record["sizes"]
                for cell in (
                    number(row, "losses", kind, form=".3f"),
                    plus_minus(row[kind], "R@1 held_out", "R@1 error"),
                    plus_minus(row[kind], "kid held_out", "kid held_out std"),
                )
            ),
        ]
        for row in record["rows"]
    ]
    shapes = ["x".join(map(str, size)) for size in record["sizes"].values()]
    heads = [f"{what}, {shape}" for shape in shapes for what in ("held-out loss", "R@1", "KID")]
    real = " and ".join(f"{record['rows'][0][kind]['R@1 real']:.2f}" for kind in record["sizes"])
    counts = ", ".join(f"{count} {kind}" for kind, count in record["pictures"].items())
    head = (
        f"{counts} pictures, {record['steps']} steps of {record['batch']}; seconds of the processor "
        f"({record['processor']}, one thread), with the encoding; {record['samples']} held-out captions of each "
        f"shape, with standard errors; R@1 of the real pictures is {real}:"
    )
    return f"{head}\n\n" + table(["", "seconds", *heads], rows)


def plus_minus(row: dict[str, Any], value: str, error: str) -> str:
    return f"{row[value]:.2f} ± {row[error]:.2f}"
