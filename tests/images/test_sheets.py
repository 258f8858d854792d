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
