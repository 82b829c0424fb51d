"""bench.py: a race and its record, going on, and what a row is compared by."""
import json
from types import SimpleNamespace

import bench
import pytest
import torch

SCRIPT = SimpleNamespace(main=bench.main, run=bench.vae.run)  # as its last line calls it


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One seed, 200 samples, one round; and flush_denormal as it was."""
    monkeypatch.setattr(bench, "SEEDS", (1,))
    monkeypatch.setattr(bench, "CHOICE_SEEDS", (11, 12))
    monkeypatch.setattr(bench, "COUNT", 200)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    yield
    torch.set_flush_denormal(False)


def records_in(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}


def small_flags(folders):
    return [*folders, "--epochs", "1", "--no-cuda"]


def test_every_row_is_raced_summed_up_and_not_again(folders, tmp_path, monkeypatch, capsys):
    bench.main(small_flags(folders))
    first = records_in(tmp_path)
    rows = list(bench.ROWS)
    assert set(first) == {"bench_epochs1.json", "bench_epochs1_rates.json",
                          *(f"bench_epochs1_{row}_seed1.json" for row in rows)}
    for record in first.values():
        assert {"command", "settings", "machines", "seconds", "curves", "numbers"} <= record.keys()
        assert all(isinstance(value, (int, float)) for value in record["numbers"].values())
    summary = first["bench_epochs1.json"]["numbers"]
    for row in rows:
        record = first[f"bench_epochs1_{row}_seed1.json"]
        numbers, curves = record["numbers"], record["curves"]
        assert summary[f"{row}/seconds_ratio"] == pytest.approx(
            numbers["usual/seconds"] / numbers["ours/seconds"])
        assert len(curves["usual/loss"]) == len(curves["ours/loss"]) == 1
        assert ("ours/agreement" in numbers) == ("usual/agreement" in numbers) == (
            row == "cgan_fashion")
    assert summary["vae_mnist/target"] == bench.ROWS["vae_mnist"].target
    assert summary["vae_fashion/target"] == summary["vae_fashion/usual_frechet"]
    assert summary["rates/vae/float32_ratio"] > 0
    assert len(list((tmp_path / "runs/bench").glob("*_samples.npz"))) == 2 * len(rows)

    # what is there is not trained again, what is gone or was of other settings is
    monkeypatch.setattr(bench, "measure_rates", None)
    raced = []
    timed = bench.timed
    monkeypatch.setattr(bench, "timed", lambda train, path: raced.append(path) or timed(train, path))
    (tmp_path / "plots/bench/bench_epochs1_vae_mnist_seed1.json").unlink()
    row = bench.ROWS["vae_fashion"]
    monkeypatch.setattr(row, "length", "--epochs 9")
    capsys.readouterr()
    bench.main(small_flags(folders))
    assert [path.name for path in raced] == [
        f"bench_epochs1_{row}_seed1_{way}_samples.npz"
        for row in ("vae_mnist", "vae_fashion") for way in ("ours", "usual")]
    assert row.title in capsys.readouterr().out


def test_lengths_are_tried_on_other_seeds(folders, tmp_path, capsys):
    bench.main([*small_flags(folders), "--choose", "--only", "vae_fashion"])
    found = records_in(tmp_path)
    lengths = bench.ROWS["vae_fashion"].lengths
    for seed in (11, 12):
        numbers = found.pop(f"bench_choose_epochs1_vae_fashion_seed{seed}.json")["numbers"]
        assert ("usual/frechet" in numbers) == (seed == 11)
        for length in lengths:
            assert f"{length.strip('-').replace(' ', '')}/frechet" in numbers
    assert not found
    assert capsys.readouterr().out.count("asked") == len(lengths)


def records(**values):
    """A record for each of the values, which are lists over seeds."""
    names = {name.replace("__", "/"): list(column) for name, column in values.items()}
    count = len(next(iter(names.values())))
    return [{"numbers": {name: column[k] for name, column in names.items()}} for k in range(count)]


@pytest.mark.parametrize(("agreement", "frechet", "reached"), [
    (0.9, 40.0, 1), (0.7, 40.0, 0), (0.9, 60.0, 0)])
def test_a_row_has_the_median_ratio_and_says_whether_it_is_reached(agreement, frechet, reached):
    row = bench.ROWS["cgan_fashion"]
    same = {f"{way}__{name}": [1.0] * 3 for way in ("usual", "ours")
            for name in ("seconds", "cpu_seconds", "sharpness")}
    numbers = bench.compare(row, records(
        **same, ours__seconds_ratio=[9.0, 12.0, 30.0], ours__cpu_seconds_ratio=[9.0] * 3,
        usual__frechet=[40.0, 50.0, 60.0], ours__frechet=[frechet] * 3,
        usual__agreement=[0.8] * 3, ours__agreement=[agreement] * 3))
    assert (numbers["seconds_ratio_low"], numbers["seconds_ratio"],
            numbers["seconds_ratio_high"]) == (9, 12, 30)
    assert numbers["target"] == 50
    assert numbers["reached"] == reached


@pytest.mark.parametrize("row", ["gan", "cgan"])
def test_the_usual_gan_trains_every_weight(row):
    torch.manual_seed(0)
    nets = [bench.UsualGenerator(row == "cgan"), bench.UsualDiscriminator(row == "cgan")]
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in nets]
    loader = [(torch.rand(10, 1, 28, 28), torch.arange(10))] * 2
    criterion = torch.nn.MSELoss() if row == "cgan" else torch.nn.BCELoss()
    bench.usual_gan_epoch(*nets, optimizers, loader, criterion, torch.device("cpu"))
    after = [p for net in nets for p in net.parameters()]
    for old, new in zip(before, after, strict=True):
        assert not torch.equal(old, new)


def test_our_lengths_are_commands_of_the_scripts():
    args = SimpleNamespace(choose=True)
    for row in bench.ROWS.values():
        assert row.length in row.lengths
        for command in bench.commands_of(row, args).values():
            script, *flags = command.split()
            module = {"vae.py": bench.vae, "gan.py": bench.gan}[script]
            assert module.parse_args(flags).dataset == row.dataset


@pytest.mark.parametrize("flags", [
    ["--epochs", "0"], ["--only", "resnet"], ["--choose", "--only", "rates"]])
def test_bad_flags(flags, fails):
    fails(SCRIPT, flags, 2)


def test_a_missing_judge_is_named(folders, tmp_path, fails):
    text = fails(SCRIPT, [*small_flags(folders), "--only", "vae_mnist", "--judge-dir", tmp_path], 1)
    assert "judge_mnist.pt is missing" in text
