# Every target works on a fresh clone: it makes .venv, installs what it needs, and runs.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: vae demo test check report results sweep clean

vae: .venv/run
	$(PY) vae.py --dataset fashion

demo: .venv/run
	$(PY) tests/glyphs.py --data-dir runs/demo/data
	$(PY) vae.py --run-name demo --data-dir runs/demo/data --runs-dir runs/demo --out-dir runs/demo

test: .venv/test
	$(PY) -m ruff check .
	$(PY) -m pytest

check: .venv/test
	$(PY) -m pytest tests/test_records.py tests/test_report.py

report: .venv/run
	$(PY) report/build.py

results: .venv/run
	$(PY) p1.py
	$(PY) p3_autoencoder.py
	$(PY) vae.py
	$(PY) vae.py --dataset fashion

# The runs that the tables of 4.2 and 4.3 compare; BASE is the setting that each of them changes in one point.
BASE := vae.py --dataset fashion --out-dir plots/sweep --epochs 20
sweep: .venv/run
	for seed in 2 3; do $(PY) vae.py --seed $$seed --run-name vae_mnist_seed$$seed --out-dir plots/sweep || exit; done
	$(PY) vae.py --dataset fashion --run-name vae_fashion_handout --out-dir plots/sweep --epochs 20 --batch-size 128 \
		--hidden-dim 400 --layers 1 --schedule constant
	$(PY) $(BASE) --run-name vae_fashion_base
	for seed in 2 3; do $(PY) $(BASE) --run-name vae_fashion_base_seed$$seed --seed $$seed || exit; done
	$(PY) $(BASE) --run-name vae_fashion_one_layer --layers 1
	$(PY) $(BASE) --run-name vae_fashion_constant_rate --schedule constant
	$(PY) $(BASE) --run-name vae_fashion_batch_128 --batch-size 128
	$(PY) $(BASE) --run-name vae_fashion_width_1024 --hidden-dim 1024
	$(PY) $(BASE) --run-name vae_fashion_latent_10 --latent-dim 10
	$(PY) $(BASE) --run-name vae_fashion_latent_40 --latent-dim 40
	$(PY) $(BASE) --run-name vae_fashion_beta_half --beta 0.5
	$(PY) $(BASE) --run-name vae_fashion_beta_two --beta 2

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: requirements-dev.txt .venv/run
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv report/build
