import numpy as np
from PIL import Image

from pochade.images.sheets import sheet


def test_a_sheet_holds_every_picture_and_any_caption():
    images = [Image.new("RGB", (8, 8), "red")] * 5
    captions = ["a", "word " * 30, "x" * 200, "", "a cat"]
    page = np.asarray(sheet(images, captions, columns=3, cell=32)).astype(int)
    red = (page == [255, 0, 0]).all(-1).sum()
    assert red == 5 * 32 * 32
    assert page.shape[1] == 3 * 40 + 8


def test_a_sheet_keeps_the_ratio_of_pictures() -> None:
    page = np.asarray(sheet([Image.new("RGB", (8, 16), "red"), Image.new("RGB", (30, 20), "red")], ["", ""], cell=32))
    red = (page.astype(int) == [255, 0, 0]).all(-1)
    assert red[8:40, 8:40].sum() == 16 * 32
    assert red[8:40, 48:80].sum() == 32 * 21
    assert not red[8:40, 8:16].any()
    assert not red[8:13, 48:80].any()
