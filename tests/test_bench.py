"""bench.py: both ways train the same nets, and what it counts as products is all of a step's."""
import json

import bench
import pytest
import torch

build = bench.build


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.set_flush_denormal(False)


def tensors_in(values):
    return [value for value in values if isinstance(value, torch.Tensor)]


def test_every_product_of_a_step_is_noted_with_its_shapes():
    net = torch.nn.Sequential(
        torch.nn.Flatten(0, 1), torch.nn.Linear(3, 5), torch.nn.Unflatten(0, (1, 1, 4)),
        torch.nn.Conv2d(1, 2, 3))
    x = torch.randn(2, 2, 3, requires_grad=True)
    with bench.Products() as products:
        net(x).sum().backward()
    noted = []
    for func, args, _ in products.calls:
        shapes = [tuple(tensor.shape) for tensor in tensors_in(args)]
        noted.append((func.overloadpacket.__name__, *shapes))
    assert noted == [
        ("addmm", (5,), (4, 3), (3, 5)),
        ("convolution", (1, 1, 4, 5), (2, 1, 3, 3), (2,)),
        ("convolution_backward", (1, 2, 2, 3), (1, 1, 4, 5), (2, 1, 3, 3)),
        ("mm", (4, 5), (5, 3)),
        ("mm", (5, 4), (4, 3))]
    for _, args, _ in products.calls:  # random numbers, not the run's own
        for tensor in tensors_in(args):
            assert tensor.shape != (4, 3) or not torch.equal(tensor, x.flatten(0, 1))


@pytest.mark.parametrize("row", ["vae", "gan_wide", "gan_conv"])
def test_both_ways_train_the_same_weights(row, glyph_dir, tmp_path, monkeypatch):
    """From one seed the nets are equal; a chunk of either way changes every weight that the other
    one changes."""
    built = []

    def remembering(*inputs):
        built.append(build(*inputs))
        return built[-1]

    monkeypatch.setattr(bench, "build", remembering)
    args = bench.parse_args(["--data-dir", str(glyph_dir), "--out-dir", str(tmp_path)])
    device = torch.device("cpu")
    usual, usual_count = bench.make_way(row, "usual", args, device, 2)
    ours, our_count = bench.make_way(row, "float32", args, device, 2)
    assert usual_count == our_count
    if row == "vae":
        usual_weights, our_weights = (list(net.parameters()) for net in built)
    else:
        usual_weights, our_weights = (
            [*nets.generator.parameters(), *nets.discriminator.parameters()] for nets in built)
    start = [p.detach().clone() for p in usual_weights]
    assert all(torch.equal(a, b) for a, b in zip(usual_weights, our_weights, strict=True))
    usual()
    ours()
    for weights in (usual_weights, our_weights):
        for before, after in zip(start, weights):
            assert not torch.equal(before, after)


def test_a_small_run_writes_its_record_and_figure(glyph_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "in_child", lambda function, *inputs: function(*inputs))
    bench.main(["--rows", "vae", "--rounds", "3", "--batches", "1",
                "--data-dir", str(glyph_dir), "--out-dir", str(tmp_path)])
    name = "bench_vae_rounds3_batches1"
    numbers = json.loads((tmp_path / f"{name}.json").read_text())["numbers"]
    low, ratio, high = (numbers[f"vae/float32/{column}"]
                        for column in ("ratio_low", "ratio", "ratio_high"))
    assert low <= ratio <= high
    assert all(value > 0 for value in numbers.values())
    assert numbers["vae/float32/our_memory"] > 50
    assert (tmp_path / f"{name}_rates.pdf").exists()
    assert "VAE 784-400-20" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [
    ["--rounds", "2"], ["--batches", "0"], ["--rows", "resnet"], ["--device", "tpu"]])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
