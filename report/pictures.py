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
    sheet = p5_compare.make_sheet(images, p5_compare.first_of_each_class(classes, COLUMNS))
    return torchvision.utils.make_grid(sheet[:, None], nrow=COLUMNS, pad_value=255)[0]


def gallery(data_dir, runs_dir):
    """The PIL image of all four panels, side by side."""
    *_, test, labels = p5_compare.load_dataset("fashion", data_dir)
    judge, *_ = p5_compare.load_judge(ROOT / "plots/judge_fashion.pt", torch.device("cpu"))
    panels = [panel_of(test, labels)]
    for run in ("vae_fashion", "gan_fashion", "cgan_fashion"):
        images, labels = p5_compare.read_samples(p5_compare.find_samples(run, runs_dir))
        images = images[:10_000]
        classes = p5_compare.judged(judge, images)[1] if labels is None else labels[:10_000]
        panels += [torch.full((len(panels[0]), 8), 255, dtype=torch.uint8),
                   panel_of(images, classes)]
    return enlarged(Image.fromarray(torch.cat(panels, 1).numpy()))


def enlarged(image):
    """A PIL image with every pixel ENLARGED times as wide and high."""
    size = ENLARGED * image.width, ENLARGED * image.height
    return image.resize(size, Image.Resampling.NEAREST)


def main():
    plots, runs = ROOT / "plots", ROOT / "runs"
    gallery(ROOT / "data", runs).save(plots / "gallery.png", optimize=True)
    frames = [Image.open(path).convert("L") for path in sorted(runs.glob("cgan_fashion/*.png"))]
    first, *others = [enlarged(frame) for frame in frames]
    first.save(plots / "epochs.gif", save_all=True, append_images=[*others, others[-1]],
               duration=[700] * len(frames) + [2000], loop=0)
    print("plots/gallery.png, plots/epochs.gif")


if __name__ == "__main__":
    main()
