"""The README's pictures, from the samples and the grids of the headline runs.

    python report/pictures.py

writes plots/gallery.png, ten classes of real images, VAE, GAN and Conditional GAN, and
plots/epochs.gif, the Conditional GAN's samples after every epoch. Nothing is chosen: of each class
it shows the first images, of the VAE and of the GAN those that the judge sees as that class.
"""
import sys
from pathlib import Path

import torch
import torchvision
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import p5_compare  # noqa: E402

COLUMNS = 6
ENLARGED = 2  # screen pixels for one of an image


def panel_of(images, classes):
    """Pixels (H, W) of ten rows, one a class, of the first COLUMNS images uint8 (N, 28, 28)."""
    rows = torch.cat([images[classes == c][:COLUMNS] for c in range(10)])
    return torchvision.utils.make_grid(rows[:, None], nrow=COLUMNS, pad_value=255)[0]


def gallery():
    """The PIL image of all four panels, side by side."""
    *_, test, labels = p5_compare.load_dataset("fashion", ROOT / "data")
    judge, *_ = p5_compare.load_judge(ROOT / "plots/judge_fashion.pt", torch.device("cpu"))
    panels = [panel_of(test, labels)]
    for run in ("vae_fashion", "gan_fashion", "cgan_fashion"):
        images, labels, *_ = p5_compare.read_samples(ROOT / f"runs/{run}_samples.npz")
        images = torch.from_numpy(images)
        classes = p5_compare.see(judge, images).classes
        if labels is not None:
            classes = torch.from_numpy(labels)
        panels += [torch.full((len(panels[0]), 8), 255, dtype=torch.uint8),
                   panel_of(images, classes)]
    return enlarged(Image.fromarray(torch.cat(panels, 1).numpy()))


def enlarged(image):
    """A PIL image with every pixel ENLARGED times as wide and high."""
    size = ENLARGED * image.width, ENLARGED * image.height
    return image.resize(size, Image.Resampling.NEAREST)


def main():
    gallery().save(ROOT / "plots/gallery.png", optimize=True)
    grids = sorted((ROOT / "runs/cgan_fashion").glob("*.png"))
    first, *others = [enlarged(Image.open(path).convert("L")) for path in grids]
    first.save(ROOT / "plots/epochs.gif", save_all=True, append_images=[*others, others[-1]],
               duration=[700] * len(grids) + [2000], loop=0)
    print("plots/gallery.png, plots/epochs.gif")


if __name__ == "__main__":
    main()
