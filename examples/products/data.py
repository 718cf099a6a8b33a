"""Draw products with titles and write their table: python data.py FOLDER."""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROWS = 240
NOUNS = {
    "mug": ("coffee mug", "tea cup", "mug with a handle"),
    "lamp": ("desk lamp", "reading light", "lamp with a shade"),
    "ball": ("beach ball", "football", "rubber ball"),
    "box": ("wooden box", "storage chest", "gift box"),
}
ADJECTIVES = ("red", "blue", "large", "small", "new", "classic")


def draw(label: str, random: np.random.Generator) -> Image.Image:
    """Draw a product in a random colour, at a random place and size."""
    picture = Image.new("RGB", (96, 96), tuple(random.integers(200, 256, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    colour = tuple(random.integers(0, 160, 3).tolist())
    size = int(random.integers(30, 44))
    left, top = random.integers(6, 80 - size, 2).tolist()
    right, bottom = left + size, top + size
    if label == "ball":
        pen.ellipse((left, top, right, bottom), colour)
    elif label == "box":
        pen.rectangle((left, top, right, bottom), colour)
        pen.line((left, top + size // 3, right, top + size // 3), "white", 3)
    elif label == "mug":
        pen.rectangle((left, top, right - 10, bottom), colour)
        pen.ellipse((right - 16, top + 8, right + 4, bottom - 8), outline=colour, width=4)
    else:
        pen.polygon(
            ((left + 10, top), (right - 10, top), (right, bottom - 16), (left, bottom - 16)), colour
        )
        pen.line((left + size // 2, bottom - 16, left + size // 2, bottom + 6), colour, 4)
    return picture


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(0)
with (folder / "products.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["id", "label", "photo", "title"])
    for number in range(ROWS):
        label = list(NOUNS)[number % 4]
        draw(label, random).save(folder / f"{number}.png")
        title = f"{random.choice(ADJECTIVES)} {random.choice(NOUNS[label])}"
        absent = random.choice(["photo", "title"]) if number % 5 == 0 else None
        photo = "" if absent == "photo" else f"{number}.png"
        table.writerow([number, label, photo, "" if absent == "title" else title])
