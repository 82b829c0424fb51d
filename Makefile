# Every target works on a fresh clone: what runs a script makes .venv first, with what it needs.
PYTHON ?= python3
PY = .venv/bin/python

.PHONY: vae demo test report submission clean whole

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

report:
	$(PYTHON) report/build.py

# The folder that is handed in; the rule for its name is the assignment's. A shell may export a NAME
# of its own, such as the computer's: only what is typed after `make submission` counts.
submission: export TYPED = $(if $(filter command,$(origin NAME)),$(NAME))
RULE = the zip is named after your last name and initials, in small letters: for Tom Marvolo Riddle, make submission NAME=riddletm
PACKED = report/build/submission
submission:
	@printf %s "$$TYPED" | grep -Eqx '[a-z]+(-[a-z]+)*' || { echo "make: $(RULE)" >&2; exit 2; }
	rm -rf $(PACKED) && mkdir -p $(PACKED)/plots
	cp *.py requirements.txt README.md $(PACKED)
	cp plots/judge_*.pt plots/gallery.png plots/epochs.gif $(PACKED)/plots
	cp plots/vae_fashion_weights.pt plots/gan_fashion_weights.pt plots/cgan_fashion_weights.pt $(PACKED)/plots
	cp report/report.pdf "$(PACKED)/$$TYPED.assignment3.pdf"
	rm -f "$$TYPED.assignment3.zip"
	cd $(PACKED) && $(PYTHON) -m zipfile -c "../../../$$TYPED.assignment3.zip" *
	@echo "wrote $$TYPED.assignment3.zip"

.venv/run: requirements.txt | whole
	$(PYTHON) -m venv .venv || { echo "make: $(PYTHON) cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PY) -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: requirements-dev.txt .venv/run
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

whole:
	@test ! -e .venv || $(PY) -c "import pip" 2>/dev/null || { echo "make: .venv has lost its Python: type make clean, then this again" >&2; exit 2; }

clean:
	rm -rf .venv report/build
