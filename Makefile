# Every target sets up what it needs: a virtual environment with pinned packages and, when root,
# Debian packages that are missing. `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
JOBS   ?= 2

.PHONY: help setup system demo test test-hostile e2e-kube lint bench bench-streams bench-storm bench-packets bench-kube soak soak-kube record transcript clean

help:
	@echo "make demo [ARGS=--once]   the main job in network namespaces, on real programs (root)"
	@echo "make test [ARGS=...]      the whole suite in JOBS=2 processes; ARGS goes to pytest"
	@echo "make test-hostile         a million hostile datagrams against a WireGuard device (half a minute)"
	@echo "make e2e-kube [ARGS=...]  kubectl, API servers and kubelets, real ones (root; builds Kubernetes once: 5 minutes);"
	@echo "                          KUBE_BIN_DIR=DIR takes other ones, of any version from 1.20 on"
	@echo "make lint                 ruff, mypy --strict, import-linter"
	@echo "make bench [ARGS=...]     speed and memory beside ssh -R and wireguard-go (root)"
	@echo "make bench-streams        the stream lane's whole table; KONNECTIVITY=DIR, CHISEL=FILE, FRP=DIR join in"
	@echo "make bench-storm          a thousand agents back after a restart, two thousand idle ones (root, minutes)"
	@echo "make soak [ARGS=...]      mixed load for ten minutes (--minutes M); fails when something grows"
	@echo "make soak-kube            10,000 requests of kubectl's kinds; fails when gateway or agents keep something (root)"
	@echo "make bench-packets        the packet device alone, row by row; WIREGUARD_GO=path adds a newer one (root)"
	@echo "make bench-kube           kubectl exec and cp through Raven and without it (root)"
	@echo "make transcript           docs/kubernetes-transcript.md, from kubectl's own words (root)"
	@echo "make record               demo and benchmarks on an idle machine, kept in README, docs and bench/results"
	@echo "make clean                removes the virtual environment, caches and what a killed demo left"

setup: $(VENV)/.done

$(VENV)/.done: constraints.txt pyproject.toml .ci/venv
	@.ci/venv $(PYTHON) $(VENV)
	@touch $@

system:
	@.ci/system-packages

demo: setup system
	@$(BIN)/python -m tests.demo $(ARGS)

test: setup system
	@$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

test-hostile: setup
	@HOSTILE=1000000 $(BIN)/python -m pytest tests/wg/test_flood.py $(ARGS)

e2e-kube: setup system
	@.ci/kubernetes
	@.ci/helm $(BIN)/python
	@$(BIN)/python -m pytest -m kube tests/e2e_kube $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup system
	@$(BIN)/python -m bench $(ARGS)

bench-streams: setup system
	@$(BIN)/python -m bench.streams $(ARGS)

soak: setup system
	@$(BIN)/python -m tests.soak $(ARGS)

bench-storm: setup system
	@$(BIN)/python -m bench --only storm $(ARGS)

soak-kube: setup system
	@.ci/kubernetes
	@RAVEN_KUBE_MANY=10000 $(BIN)/python -m pytest -m kube tests/e2e_kube/test_many.py $(ARGS)

bench-packets: setup system
	@$(BIN)/python -m bench.packets $(ARGS)

bench-kube: setup system
	@.ci/kubernetes
	@$(BIN)/python -m bench.kube $(ARGS)

transcript: setup system
	@.ci/kubernetes
	@$(BIN)/python -m tests.e2e_kube.transcript --write $(ARGS)

record: setup system
	@$(BIN)/python -m tests.demo --once --record docs/screenshots
	@$(BIN)/python -m bench --write $(ARGS)

clean:
	-@[ ! -x $(BIN)/python ] || $(BIN)/python -m tests.lab clean
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
