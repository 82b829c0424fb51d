"""report/screen.py: a trial of each script, and what its line says."""
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import screen  # noqa: E402


@pytest.mark.parametrize("flags", [
    ["vae.py", "--epochs", "1", "--prior", "mixture", "--components", "3", "--latent-dim", "2"],
    ["gan.py", "--epochs", "1", "--arch", "mlp", "--dataset", "mnist", "--conditional"]])
def test_a_trial_leaves_the_held_out_images_alone(monkeypatch, tmp_path, glyph_dir, flags):
    monkeypatch.setattr(screen, "HELD_OUT", 70)
    monkeypatch.setattr(screen, "SAMPLES", 100)
    module = {"vae.py": screen.vae, "gan.py": screen.gan}[flags[0]]
    counts, train = [], module.train

    def watched(first, images, *others, **options):
        counts.append(len(images))
        return train(first, images, *others, **options)

    monkeypatch.setattr(module, "train", watched)
    table = tmp_path / "table.jsonl"
    for _ in range(2):
        screen.main(["--table", str(table), *flags, "--data-dir", str(glyph_dir)])
    first, second = map(json.loads, table.read_text().splitlines())
    assert set(counts) == {230}
    assert first["command"].endswith(f"--data-dir {glyph_dir}")
    measures = {"frechet", "precision", "recall", "tv", "smallest_share", "sharpness"}
    assert measures <= set(first) and 0 <= first["precision"] <= 1
    same = set(first) - {"seconds"}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_the_committed_trials_are_of_variants_that_are_there():
    for line in (ROOT / "report/screening.jsonl").read_text().splitlines():
        words = json.loads(line)["command"].split()
        assert words[:2] == ["python", "report/screen.py"]
        chosen = [words[place + 1] for place, word in enumerate(words) if word == "--variant"]
        assert set(chosen) <= screen.VARIANTS.keys()
