"""Contact sheets: pictures in rows with captions below."""

from PIL import Image, ImageDraw, ImageFont

from pochade.runtime.decode import upright_rgb


def sheet(images: list[Image.Image], captions: list[str], *, columns: int = 8, cell: int = 96) -> Image.Image:
    """Pictures in rows, the longer side of each ``cell`` pixels, with its caption in up to two lines below."""
    font, line, gap = ImageFont.load_default(11), 14, 8
    rows = -(-len(images) // columns)
    step_x, step_y = cell + gap, cell + 2 * line + gap
    page = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + i % columns * step_x, gap + i // columns * step_y
        method = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
        width, height = (max(1, round(cell * side / max(image.size))) for side in image.size)
        place = x + (cell - width) // 2, y + (cell - height) // 2
        page.paste(image.convert("RGB").resize((width, height), method), place)
        for j, text in enumerate(_wrap(caption, font, cell, lines=2)):
            draw.text((x, y + cell + j * line), text, fill="black", font=font)
    return page


def side_by_side(pictures: list[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures in one row on white, all in the size of the last one, ``gap`` pixels apart."""
    width, height = pictures[-1].size
    page = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for i, picture in enumerate(pictures):
        shown = upright_rgb(picture)[0].resize((width, height), Image.Resampling.BICUBIC)
        page.paste(shown, (i * (width + gap), 0))
    return page


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > width:
            if len(rows) == lines:
                rows[-1] += " …"
                break
            rows.append(word)
        else:
            rows[-1] = longer
    return [_fit(row, font, width) for row in rows]


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
