"""The drawn digits are what torchvision reads as MNIST, and are digits."""
import glyphs
import pytest
import torch
import torchvision


@pytest.mark.parametrize(("name", "dataset"), [("mnist", torchvision.datasets.MNIST),
                                               ("fashion", torchvision.datasets.FashionMNIST)])
def test_torchvision_reads_them(tmp_path, name, dataset):
    glyphs.main(["--data-dir", str(tmp_path), "--dataset", name, "--n-train", "37", "--n-test", "3"])
    train, test = dataset(tmp_path, train=True), dataset(tmp_path, train=False)
    assert train.data.shape == (37, 28, 28) and test.data.shape == (3, 28, 28)
    assert train.targets.min() >= 0 and train.targets.max() <= 9


def test_the_seed_decides_every_pixel(tmp_path):
    first, again, other = (glyphs.draw(20, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_every_glyph_has_ink_inside_a_dark_border():
    images, _ = glyphs.draw(500, torch.Generator().manual_seed(0))
    assert (images.reshape(500, -1).max(1) > 200).all()
    assert images[:, [0, -1], :].max() == 0 and images[:, :, [0, -1]].max() == 0


def test_classes_can_be_told_apart():
    (train, labels), (test, answers) = (glyphs.draw(n, torch.Generator().manual_seed(n)) for n in (2000, 200))
    distance = torch.cdist(torch.from_numpy(test).view(200, -1).float(), torch.from_numpy(train).view(2000, -1).float())
    assert (labels[distance.argmin(1)] == answers).mean() > 0.8  # chance is 0.1


@pytest.mark.parametrize("flags", [["--n-train", "0"], ["--n-test", "-1"], ["--dataset", "letters"]])
def test_bad_flags(tmp_path, flags):
    with pytest.raises(SystemExit) as stop:
        glyphs.main(["--data-dir", str(tmp_path), *flags])
    assert stop.value.code == 2
