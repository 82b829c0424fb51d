"""bench.py: a race by commands, goes on; the summary's arithmetic; the usual GANs train."""
import json

import bench
import pytest
import torch

import gan


@pytest.mark.parametrize("name", ["vae_mnist", "cgan_fashion"])
def test_a_race_trains_both_ways_once_and_has_a_record(name, folders, tmp_path, monkeypatch, call):
    row = bench.ROWS[name]
    short = {"vae_mnist": "vae.py --epochs 1", "cgan_fashion": "gan.py --conditional --arch mlp --epochs 1"}
    monkeypatch.setattr(bench, "ROWS", {name: row._replace(epochs=1, ours=short[name])})
    monkeypatch.setattr(bench, "SEEDS", (1,))
    call(bench, *folders)
    record = json.loads((tmp_path / "plots/bench.json").read_text())
    assert record["command"].startswith("python tests/bench.py")
    assert record["code"] == bench.CODE
    assert set(record["curves"]) == {f"{name}/{way}/{measure}" for way in ("usual", "our")
                                     for measure in ("seconds", *row.measures)}
    assert all(values[0] > 0 for values in record["curves"].values())
    assert record["seconds"] == pytest.approx(
        record["numbers"][f"{name}/usual_seconds"] + record["numbers"][f"{name}/our_seconds"])

    monkeypatch.setattr(bench, "run_script", None)  # what is there is not run again
    call(bench, *folders)
    assert json.loads((tmp_path / "plots/bench.json").read_text()) == record


@pytest.mark.parametrize(("frechet", "agreement", "reached"), [
    (40.0, 0.9, 1), (60.0, 0.9, 0), (40.0, 0.7, 0)])
def test_a_row_is_reached_by_all_its_measures(frechet, agreement, reached):
    numbers = bench.summary(bench.ROWS["cgan_fashion"], {
        "usual/seconds": [90.0, 120.0, 300.0], "our/seconds": [10.0, 6.0, 20.0],
        "usual/frechet": [40.0, 50.0, 70.0], "our/frechet": [frechet] * 3,
        "usual/agreement": [0.7, 0.8, 0.9], "our/agreement": [agreement] * 3})
    assert numbers == {
        "usual_seconds": 120, "our_seconds": 10, "seconds_ratio": 15, "seconds_ratio_low": 9,
        "seconds_ratio_high": 20, "usual_frechet": 50, "our_frechet": frechet, "target": 50,
        "usual_agreement": 0.8, "our_agreement": agreement, "reached": reached}


def test_a_given_target_counts():
    curves = {"usual/seconds": [2], "our/seconds": [1], "usual/test_loss": [110], "our/test_loss": [107]}
    assert bench.summary(bench.ROWS["vae_mnist"], curves)["reached"] == 0


@pytest.mark.parametrize("conditional", [False, True])
def test_the_usual_gan_trains_every_weight(glyph_dir, monkeypatch, conditional):
    nets = bench.usual_nets(conditional)
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    monkeypatch.setattr(bench, "usual_nets", lambda labelled: nets if labelled == conditional else None)
    monkeypatch.setattr(bench, "COUNT", 20)
    row = bench.ROWS["cgan_fashion" if conditional else "gan_fashion"]._replace(epochs=1)
    samples, _, _ = bench.usual_gan(row, 1, glyph_dir)
    assert samples.shape == (20, 784) and samples.min() >= 0 and samples.max() <= 1
    after = [p for net in nets for p in net.parameters()]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_all_rows_of_ours_are_commands(monkeypatch):
    for name, row in bench.ROWS.items():
        script, *flags = row.ours.split()
        module = {"vae.py": bench.vae, "gan.py": gan}[script]
        monkeypatch.setattr("sys.argv", [script, *flags])
        assert module.parse_args().dataset == name.split("_")[1]
