"""Image files that the `image` crate reads but cannot write: `python seeds.py` with Pillow 11 writes corpus/image/pillow-*."""

from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "corpus" / "image"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (20, 14))
    image.putdata([(x * 12, y * 17, (x * y) % 256) for y in range(14) for x in range(20)])
    seen = image.copy()
    seen.putalpha(image.convert("L"))
    gray = image.convert("L")
    files = {
        "lossy.webp": (image, {"quality": 40}),
        "lossy-alpha.webp": (seen, {"quality": 40}),
        "lossless.webp": (seen, {"lossless": True}),
        "animated.webp": (image, {"quality": 30, "save_all": True, "append_images": [seen.convert("RGB").rotate(90)]}),
        "progressive.jpeg": (image, {"quality": 40, "progressive": True}),
        "4-2-0.jpeg": (image, {"quality": 40, "subsampling": 2}),
        "4-4-4.jpeg": (image, {"quality": 40, "subsampling": 0, "optimize": True}),
        "restarts.jpeg": (image, {"quality": 40, "restart_marker_blocks": 1}),
        "cmyk.jpeg": (image.convert("CMYK"), {"quality": 40}),
        "gray-progressive.jpeg": (gray, {"quality": 40, "progressive": True}),
        "palette.png": (image.quantize(7), {}),
        "palette-transparent.png": (image.quantize(7), {"transparency": 2}),
        "bilevel.png": (image.convert("1"), {}),
        "gray-alpha.png": (seen.convert("LA"), {}),
        "gray16.png": (gray.convert("I;16"), {}),
    }
    for name, (picture, options) in files.items():
        picture.save(FOLDER / f"pillow-{name}", **options)


main()
