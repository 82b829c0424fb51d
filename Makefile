# Every target works on a fresh clone: it makes .venv, installs what it needs, and runs.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: vae demo test check report results clean

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

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: requirements-dev.txt .venv/run
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv report/build
