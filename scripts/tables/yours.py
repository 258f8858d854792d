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
        ]
        for row in record["rows"]
    ]
    return table(["autoencoder of", "cells", "parameters", "PSNR, mean, dB", "of the photographs", "SSIM"], rows)
