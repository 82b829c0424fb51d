# Every target works on a fresh clone: it makes .venv, installs what it needs, and runs.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: vae demo test check report results sweeps submission clean
export NAME

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

# Every script's own command, for the headline records and figures.
results: .venv/run
	$(PY) p1.py
	$(PY) p2.py
	$(PY) p3_autoencoder.py
	$(PY) p4_divergences.py
	$(PY) p5_toys.py
	$(PY) vae.py
	$(PY) vae.py --dataset fashion
	$(PY) gan.py
	$(PY) gan.py --conditional

# The runs that the tables of 4.2, 4.3, 5.2, 5.3 and 5.5 compare, one change each, then the judge. VAE is the setting that
# the VAEs change; of the GANs, MLP are 13 schemes for the handed-out nets, CONV the recipe of gan.py and its parts.
VAE := vae.py --dataset fashion --out-dir plots/sweep --epochs 20
RUNS = for seed in $(1); do $(PY) gan.py $(2) --out-dir plots/sweep --run-name sweep_$(3)_seed$$seed --seed $$seed $(4) || exit; done
MLP = $(call RUNS,1 2 3,--arch mlp --updates 5000,$(1),$(2))
CONV = $(call RUNS,$(1),$(2) --epochs 6,conv_$(3),$(4))
sweeps: .venv/run
	for seed in 2 3; do $(PY) vae.py --seed $$seed --run-name vae_mnist_seed$$seed --out-dir plots/sweep || exit; done
	$(PY) vae.py --dataset fashion --run-name vae_fashion_handout --out-dir plots/sweep --epochs 20 --batch-size 128 \
		--hidden-dim 400 --layers 1 --schedule constant
	$(PY) $(VAE) --run-name vae_fashion_base
	for seed in 2 3; do $(PY) $(VAE) --run-name vae_fashion_base_seed$$seed --seed $$seed || exit; done
	$(PY) $(VAE) --run-name vae_fashion_one_layer --layers 1
	$(PY) $(VAE) --run-name vae_fashion_constant_rate --schedule constant
	$(PY) $(VAE) --run-name vae_fashion_batch_128 --batch-size 128
	$(PY) $(VAE) --run-name vae_fashion_width_1024 --hidden-dim 1024
	$(PY) $(VAE) --run-name vae_fashion_latent_10 --latent-dim 10
	$(PY) $(VAE) --run-name vae_fashion_latent_40 --latent-dim 40
	$(PY) $(VAE) --run-name vae_fashion_beta_half --beta 0.5
	$(PY) $(VAE) --run-name vae_fashion_beta_two --beta 2
	$(PY) gan.py --arch mlp
	$(PY) gan.py --arch mlp --conditional
	$(call MLP,base,--beta1 0.5)
	$(call MLP,d1_g4,--beta1 0.5 --lr-d 1e-4 --lr-g 4e-4)
	$(call MLP,d1_g2,--beta1 0.5 --lr-d 1.41421e-4 --lr-g 2.82843e-4)
	$(call MLP,d2_g1,--beta1 0.5 --lr-d 2.82843e-4 --lr-g 1.41421e-4)
	$(call MLP,d4_g1,--beta1 0.5 --lr-d 4e-4 --lr-g 1e-4)
	$(call MLP,g_2,--beta1 0.5 --g-steps 2)
	$(call MLP,g_5,--beta1 0.5 --g-steps 5)
	$(call MLP,d_2,--beta1 0.5 --d-steps 2)
	$(call MLP,d_5,--beta1 0.5 --d-steps 5)
	$(call MLP,beta1_0,--beta1 0)
	$(call MLP,beta1_09,--beta1 0.9)
	$(call MLP,batch_256,--beta1 0.5 --batch-size 256)
	$(call MLP,smoothing,--beta1 0.5 --label-smoothing 0.9)
	$(PY) gan.py --arch mlp --out-dir plots/sweep --run-name sweep_long_batch_256 --beta1 0.5 --batch-size 256
	$(PY) gan.py --arch mlp --out-dir plots/sweep --run-name sweep_long_beta1_0 --beta1 0
	$(PY) gan.py --arch mlp --out-dir plots/sweep --run-name sweep_long_g_5 --beta1 0.5 --g-steps 5
	$(PY) gan.py --schedule linear --out-dir plots/sweep --run-name sweep_long_conv_gan_linear
	$(PY) gan.py --conditional --schedule linear --out-dir plots/sweep --run-name sweep_long_conv_cgan_linear
	$(call CONV,1 2 3 4 5,--schedule linear,gan)
	$(call CONV,1 2 3 4 5,--conditional --schedule linear,cgan)
	$(call CONV,1 2 3,--conditional --schedule linear,no_ema,--ema 0)
	$(call CONV,1 2 3,--conditional --schedule linear,no_r1,--r1 0)
	$(call CONV,1 2 3,--conditional --schedule linear,beta1_05,--beta1 0.5)
	$(call CONV,1 2 3,--conditional --schedule constant,constant_rate,)
	$(PY) p5_compare.py
	$(PY) p5_compare.py --dataset mnist
	$(PY) p5_seeds.py

# The folder that is handed in; the rule for its name is the assignment's.
RULE := the zip is named after your last name and initials, in small letters: for Tom Marvolo Riddle, make submission NAME=riddletm
submission:
	@printf %s "$$NAME" | grep -Eqx '[a-z]+(-[a-z]+)*' || { echo "make: $(RULE)" >&2; exit 2; }
	rm -rf report/build/submission && mkdir -p report/build/submission
	cp *.py requirements.txt README.md report/build/submission
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
