"""Draw the ten digits from the fonts that matplotlib ships and write them as the four IDX files of MNIST.

    python tests/glyphs.py --data-dir runs/demo/data                      10 000 training and 2 000 test images
    python tests/glyphs.py --data-dir DIR --dataset fashion --n-train 300 --n-test 70

Each digit is drawn in a random font and thickness, then rotated, scaled, slanted and shifted at random. The files
lie where torchvision looks for the data set of that name, so that every script trains on them with no download.
"""
import argparse
import struct
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
         "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")
STROKES = (0, 1, 2, 3)  # pixels added around a glyph that is CANVAS pixels high
CANVAS = 84
FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}


def render(digit, font_name, stroke):
    """One digit in the middle of a canvas: float (84, 84) in [0, 1]."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font_name}.ttf")
    font = ImageFont.truetype(str(path), 70)
    image = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), str(digit), fill=255, font=font, anchor="mm",
                               stroke_width=stroke)
    return torch.from_numpy(np.array(image)).float() / 255


def draw(count, generator):
    """`count` random glyphs: images uint8 (count, 28, 28) and labels uint8 (count,), every digit equally likely."""
    masks = torch.stack([render(digit, font, stroke) for digit in range(10) for font in FONTS for stroke in STROKES])
    styles = len(FONTS) * len(STROKES)
    labels = torch.randint(10, (count,), generator=generator)
    chosen = labels * styles + torch.randint(styles, (count,), generator=generator)
    angle, scale, slant, x, y = (torch.rand(5, count, generator=generator) * 2 - 1)
    angle, scale = 0.2 * angle, 1.3 + 0.2 * scale  # radians; the factor by which the canvas is shrunk around the digit
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = (torch.stack((cosine, -sine + 0.2 * slant, 0.2 * x)), torch.stack((sine, cosine, 0.2 * y)))
    theta = torch.stack(rows).permute(2, 0, 1)  # (count, 2, 3)
    images = []
    for part in range(0, count, 2000):
        at = slice(part, part + 2000)
        grid = F.affine_grid(theta[at], (len(theta[at]), 1, 56, 56), align_corners=False)
        fine = F.grid_sample(masks[chosen[at], None], grid, align_corners=False)
        images.append(F.avg_pool2d(fine, 2)[:, 0])  # drawn at twice the size, so that edges are smooth
    return (torch.cat(images) * 255).round().byte().numpy(), labels.byte().numpy()


def write_idx(path, array):
    """Write a uint8 array as an IDX file: magic number, sizes, bytes."""
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_dataset(data_dir, dataset="mnist", n_train=10_000, n_test=2_000, seed=0):
    """Write training and test set under `data_dir` in torchvision's layout."""
    folder = Path(data_dir, FOLDERS[dataset], "raw")
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for split, count in (("train", n_train), ("t10k", n_test)):
        images, labels = draw(count, generator)
        write_idx(folder / f"{split}-images-idx3-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels)
    return folder


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, required=True, help="torchvision's root, made when absent")
    parser.add_argument("--dataset", choices=FOLDERS, default="mnist", help="whose file names to write under")
    parser.add_argument("--n-train", type=int, default=10_000)
    parser.add_argument("--n-test", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.n_train, args.n_test) < 1:
        parser.exit(2, f"{parser.prog}: --n-train and --n-test must be at least 1\n")
    try:
        folder = write_dataset(args.data_dir, args.dataset, args.n_train, args.n_test, args.seed)
    except OSError as error:
        sys.exit(f"glyphs.py: {error}; name another --data-dir")
    print(f"{args.n_train} training and {args.n_test} test images in {folder}")


if __name__ == "__main__":
    main()
