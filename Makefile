# Every target works on a fresh clone: it makes .venv, installs what it needs, and runs.
PYTHON ?= python3
PY = .venv/bin/python

.PHONY: vae demo test check results report submission clean

# Stopped, it goes on with make vae FLAGS=--resume.
vae: .venv/run
	$(PY) vae.py --dataset fashion $(FLAGS)

# The same on digits drawn from matplotlib's fonts: no download.
demo: .venv/run
	$(PY) tests/glyphs.py --data-dir runs/demo/data
	$(PY) vae.py --data-dir runs/demo/data --runs-dir runs/demo --out-dir runs/demo

test: .venv/test
	$(PY) -m ruff check .
	$(PY) -m pytest

# Is every record what its command would give today, and the report what the records say?
check: .venv/test
	$(PY) report/run.py --check
	$(PY) -m pytest tests/test_records.py tests/test_report.py

# The headline numbers made anew into runs/again, and which of them moved; stopped, it goes on.
results: .venv/run
	$(PY) report/run.py --again --out-dir runs/again headline

report: .venv/run
	$(PY) report/build.py

# The folder that is handed in; the rule for its name is the assignment's.
export NAME
RULE = the zip is named after your last name and initials, in small letters: for Tom Marvolo Riddle, make submission NAME=riddletm
submission:
	@printf %s "$$NAME" | grep -Eqx '[a-z]+(-[a-z]+)*' || { echo "make: $(RULE)" >&2; exit 2; }
	rm -rf report/build/submission && mkdir -p report/build/submission/plots
	cp *.py requirements.txt README.md report/build/submission
	cp plots/judge_*.pt plots/gallery.png plots/epochs.gif report/build/submission/plots
	cp plots/vae_fashion_weights.pt plots/gan_fashion_weights.pt plots/cgan_fashion_weights.pt report/build/submission/plots
	cp report/report.pdf "report/build/submission/$$NAME.assignment3.pdf"
	rm -f "$$NAME.assignment3.zip"
	cd report/build/submission && $(PYTHON) -m zipfile -c "../../../$$NAME.assignment3.zip" *
	@echo "wrote $$NAME.assignment3.zip"

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: requirements-dev.txt .venv/run
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv report/build
