# Each target sets up all that it needs, inside this folder only (.venv and .work, both ignored by git).
# PYTHON=… chooses the interpreter (3.11 or later); ARGS=… goes to what a target runs (pytest, the demo, …).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ARGS ?=
export PYTHON
# uv's own cache stays in the folder too: a clone leaves nothing behind elsewhere when it is removed.
export UV_CACHE_DIR ?= $(CURDIR)/.work/uv-cache
# Like pip, uv shall believe the certificates that the machine believes (a company's own, for instance).
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= 1
endif

BIN := .venv/bin
VENV := .venv/.ready
RAYS := .work/ray-2.60.0/.ready .work/ray-2.49.1/.ready
STUBS := .work/ray-2.6.3/.ready

.PHONY: help demo test test-fast check proto bench bench-report hit-rates soak lock rays clean debian small-image

help: ## this list
	@echo "ray-envd: make <target>"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV) .work/ray-2.60.0/.ready ## a real Ray node on ray-envd, cold and after a restart (STOCK=1: beside stock Ray)
	@$(BIN)/python tools/demo.py $(if $(STOCK),--stock) $(ARGS)

test: debian $(VENV) .work/bench/.ready $(RAYS) $(STUBS) small-image ## the whole test suite, real Ray included
	@tools/test.sh $(ARGS)

test-fast: $(VENV) .work/bench/.ready ## the quick tests: no Ray, no podman, none that takes long
	@$(BIN)/python -m pytest -m "not ray and not podman and not slow" $(ARGS)

check: $(VENV) ## ruff, mypy strict, import contracts, generated code up to date
	@tools/check.sh

proto: $(VENV) ## generate agent/pb/ from proto/
	@$(BIN)/python tools/proto.py

bench: debian $(VENV) .work/ray-2.60.0/.ready small-image .work/bench/.ready ## against stock Ray, < 30 min (ONLY=name,name OUT=folder)
	@$(BIN)/python benchmarks/run.py $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT)) $(ARGS)

bench-report: .work/bench/.ready ## page and chart of a run again (FROM=benchmarks/results/DATE.json)
	@PYTHONPATH=dev .work/bench/bin/python benchmarks/support/results.py $(FROM)

hit-rates: .work/bench/.ready ## what the cache keeps, against other policies (ARGS="--out FILE" for JSON, tables, charts)
	@PYTHONPATH=dev .work/bench/bin/python benchmarks/hit_rates $(ARGS)

soak: $(VENV) .work/ray-2.60.0/.ready ## real Ray while everything is killed, ten minutes (ARGS="--minutes 60 --seed 7")
	@tools/debian.sh gcc=gcc
	@$(BIN)/python tools/soak.py $(ARGS)

lock: $(VENV) ## resolve every lock file anew (UPGRADE=1: to the newest versions)
	@tools/lock.sh $(if $(UPGRADE),--upgrade)

rays: $(RAYS) $(STUBS) ## the Ray installations that tests and demo use

small-image: debian $(VENV) .work/ray-2.60.0/.ready ## the container image with Python and Ray that tests use
	@$(BIN)/python tools/small_image.py

clean: ## remove all that the targets made in this folder
	rm -rf .venv .work dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

debian:
	@tools/debian.sh systemd-analyze=systemd mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs gcc=gcc gencat=libc6-dev mkfs.ext4=e2fsprogs \
	  podman=podman runc=runc crun=crun docker-registry=docker-registry newuidmap=uidmap \
	  fuse-overlayfs=fuse-overlayfs slirp4netns=slirp4netns prometheus=prometheus

$(VENV): requirements-dev.lock pyproject.toml tools/venv.sh
	@tools/venv.sh

.work/bench/.ready: requirements-bench.lock | $(VENV)
	@$(BIN)/uv venv -q --clear --python $(BIN)/python .work/bench
	@VIRTUAL_ENV=.work/bench $(BIN)/uv pip sync -q --require-hashes requirements-bench.lock
	@touch $@

.work/ray-%/.ready: tests/ray/locks/ray-%.lock tools/ray.sh | $(VENV)
	@tools/ray.sh $*
