"""bench.py: what it compares is the same net, and what it counts as products is every product of a step."""
import json

import bench
import pytest
import torch

make = bench.build


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.set_flush_denormal(False)


def test_every_product_of_a_step_is_noted_with_its_shapes():
    net = torch.nn.Sequential(torch.nn.Flatten(0, 1), torch.nn.Linear(3, 5), torch.nn.Unflatten(0, (1, 1, 4)),
                              torch.nn.Conv2d(1, 2, 3))
    x = torch.randn(2, 2, 3, requires_grad=True)
    with bench.Products() as products:
        net(x).sum().backward()
    noted = [(func.overloadpacket.__name__, *(tuple(a.shape) for a in args if isinstance(a, torch.Tensor)))
             for func, args, _ in products.calls]
    assert noted == [("addmm", (5,), (4, 3), (3, 5)), ("convolution", (1, 1, 4, 5), (2, 1, 3, 3), (2,)),
                     ("convolution_backward", (1, 2, 2, 3), (1, 1, 4, 5), (2, 1, 3, 3)),
                     ("mm", (4, 5), (5, 3)), ("mm", (5, 4), (4, 3))]
    assert not any(torch.equal(a, x.flatten(0, 1)) for _, args, _ in products.calls for a in args
                   if isinstance(a, torch.Tensor) and a.shape == (4, 3))  # random numbers, not the run's own


@pytest.mark.parametrize("row", ["vae", "gan_wide", "gan_conv"])
def test_both_ways_train_the_same_weights(row, glyph_dir, tmp_path):
    """From one seed the nets are equal; a chunk of either way changes every weight that the other one changes."""
    args = bench.parse_args(["--data-dir", str(glyph_dir), "--out-dir", str(tmp_path)])
    device, built = torch.device("cpu"), []
    with bench.mock.patch.object(bench, "build", side_effect=lambda *inputs: built.append(make(*inputs)) or built[-1]):
        chunks = [bench.make_way(row, way, args, device, 2) for way in ("usual", "float32")]
    nets = [list(net.parameters()) if row == "vae" else
            [*net.generator.parameters(), *net.discriminator.parameters()] for net in built]
    start = [p.detach().clone() for p in nets[0]]
    assert all(torch.equal(a, b) for a, b in zip(*nets, strict=True))
    assert chunks[0][1] == chunks[1][1]
    for chunk, _ in chunks:
        chunk()
    for before, *after in zip(start, *nets):
        assert all(not torch.equal(before, p) for p in after)


def test_a_small_run_writes_its_record_and_figure(glyph_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "in_child", lambda function, *inputs: function(*inputs))
    bench.main(["--rows", "vae", "--rounds", "3", "--batches", "1", "--data-dir", str(glyph_dir), "--out-dir",
                str(tmp_path)])
    record = json.loads((tmp_path / "bench_vae_rounds3_batches1.json").read_text())
    numbers = record["numbers"]
    assert numbers["vae/float32/ratio_low"] <= numbers["vae/float32/ratio"] <= numbers["vae/float32/ratio_high"]
    assert all(value > 0 for value in numbers.values()) and numbers["vae/float32/our_memory"] > 50
    assert (tmp_path / "bench_vae_rounds3_batches1_rates.pdf").exists() and "VAE 784-400-20" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--rounds", "2"], ["--batches", "0"], ["--rows", "resnet"], ["--device", "tpu"]])
def test_bad_flags(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(flags)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
