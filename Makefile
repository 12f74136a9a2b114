# Everything a person does with this repository. `make help` lists it.
# Written for POSIX sh and GNU make 3.81 (macOS) and later. A stamp file stands for each finished
# step, so that a second `make up` starts at once.

VENV   ?= .venv
BIN     = $(VENV)/bin
STAMPS  = $(VENV)/stamps
PIP     = $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
LOCKED  = install --no-deps --require-hashes
ARGS   ?=

ENGINE_SOURCES = src/parhelion/engines/build.py src/parhelion/engines/toolchain.py
CLIENT_LOCKS   = $(wildcard requirements/clients-*.txt)
CLIENT_STAMPS  = $(patsubst requirements/clients-%.txt,.venv-clients-%/done,$(CLIENT_LOCKS))
NODE_CLIENTS   = tests/acceptance/clients/node
ANVIL          = tests/integration/chain/anvil
BROWSER        = tests/browser
NPM            = $(shell command -v npm 2>/dev/null)
CLIENT_STAMPS += $(if $(NPM),$(NODE_CLIENTS)/node_modules/.done $(ANVIL)/node_modules/.done $(BROWSER)/node_modules/.done)

# An environment whose Python is gone (an upgrade took it), or that was made elsewhere (the clone was
# moved), cannot be used: it is made again, and everything in it.
SOUND = $(shell $(BIN)/python -c '' 2>/dev/null && \
  { [ ! -e $(VENV)/made-at ] || [ "`cat $(VENV)/made-at`" = "`pwd -P`" ]; } && echo yes)

# A step that was interrupted may have left half a package, which pip takes for a whole one.
BEGIN = again=; if [ -e $@.begun ]; then again=--force-reinstall; fi; : >$@.begun;
END   = rm -f $@.begun; touch $@

.PHONY: help install up web test test-all lint bench contracts lock clean
.DEFAULT_GOAL := help

help: ## List what there is to do
	@echo "Parhelion: pay-per-token inference"
	@echo
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -e 's/:.*## /	/' | \
	  while IFS='	' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  ARGS='--data DIR --api-port 3101' is passed on by up, test and bench; PYTHON=... chooses"
	@echo "  the interpreter (3.11 to 3.13) of a new .venv."

install: $(STAMPS)/package $(STAMPS)/model $(STAMPS)/engine pages ## Set up .venv, model and engine (once: 3 to 5 minutes)

up: install ## Start coordinator, node and engine; Ctrl-C drains and ends
	@# In a terminal the command gets a process group of its own: Ctrl-C then reaches it and not
	@# make, which would report an interrupt although the command drained and ended well.
	@if [ -t 0 ] && [ -t 2 ]; then set -m; fi; $(BIN)/parhelion up $(ARGS)

# It looks itself whether a source changed: quicker than make, which would stat every file.
web: $(STAMPS)/venv ## Build the web pages (needs Node.js 20.19 or later; without it none are served)
	@$(BIN)/python scripts/build_web.py

.PHONY: pages
pages: $(STAMPS)/venv
	@$(BIN)/python scripts/build_web.py --optional

test: install $(STAMPS)/dev ## Run the tests (under 10 minutes)
	$(if $(NPM),cd web && npm run --silent test)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: install $(STAMPS)/dev $(CLIENT_STAMPS) ## Run all tests: slow ones and client libraries too
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMPS)/package $(STAMPS)/dev pages ## Check format, style, types and the order of rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(if $(NPM),cd web && npm run --silent check)

bench: install $(STAMPS)/dev ## Measure, and print the rows of docs/benchmarks.md
	$(BIN)/python -m bench $(ARGS)

contracts: $(STAMPS)/dev ## Compile contracts/*.vy into the artefacts that the package ships
	$(BIN)/python contracts/compile.py

# Every lock names exact versions and hashes, for every platform, and no download address.
lock: .venv-lock/done ## Make requirements/*.txt again from requirements/*.in
	@for name in pip lock run build dev $(patsubst requirements/clients-%.in,clients-%,$(wildcard requirements/clients-*.in)); do \
	  echo "lock: $$name"; \
	  .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-emit-index-url --no-emit-find-links \
	    requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done

clean: ## Remove what the steps above made here (not your data, not the user's cache)
	rm -rf $(VENV) .venv-clients-* .venv-lock web/node_modules src/parhelion/web/built $(BROWSER)/node_modules $(NODE_CLIENTS)/node_modules $(ANVIL)/node_modules .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- steps ----------------------------------------------------------------------------------

.PHONY: unsound
$(STAMPS)/venv: requirements/pip.txt $(if $(SOUND),,unsound)
	@PYTHON="$(PYTHON)" sh scripts/make-venv $(VENV)
	@echo "setup: pip"
	@$(PIP) $(LOCKED) -r requirements/pip.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dependencies: $(STAMPS)/venv requirements/run.txt requirements/build.txt
	@echo "setup: pinned dependencies (about a minute)"
	@$(BEGIN) $(PIP) $(LOCKED) $$again -r requirements/run.txt -r requirements/build.txt
	@$(END)

$(STAMPS)/package: $(STAMPS)/dependencies pyproject.toml
	@echo "setup: parhelion"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(STAMPS)/model: $(STAMPS)/package
	@echo "setup: demonstration model (98 MB, once a user)"
	@$(BIN)/parhelion models pull >/dev/null
	@touch $@

$(STAMPS)/engine: $(STAMPS)/package $(STAMPS)/model $(ENGINE_SOURCES)
	@$(BIN)/python -m parhelion.engines.build
	@touch $@

$(STAMPS)/dev: $(STAMPS)/dependencies requirements/dev.txt
	@echo "setup: what tests need (about half a minute)"
	@$(BEGIN) $(PIP) $(LOCKED) $$again -r requirements/dev.txt
	@$(END)

# Client libraries live in environments of their own: they pin each other's dependencies.
.venv-clients-%/done: requirements/clients-%.txt $(STAMPS)/venv
	@echo "setup: client libraries ($*)"
	@PYTHON="$(PYTHON)" sh scripts/make-venv .venv-clients-$*
	@.venv-clients-$*/bin/python -m pip --disable-pip-version-check --no-input -qq $(LOCKED) -r requirements/pip.txt
	@$(BEGIN) .venv-clients-$*/bin/python -m pip --disable-pip-version-check --no-input -qq $(LOCKED) $$again -r requirements/clients-$*.txt
	@$(END)

$(NODE_CLIENTS)/node_modules/.done: $(NODE_CLIENTS)/package-lock.json
	@echo "setup: client libraries (node)"
	@cd $(NODE_CLIENTS) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

# anvil is an optional package of one platform: elsewhere nothing is installed, and its tests skip.
$(ANVIL)/node_modules/.done: $(ANVIL)/package-lock.json
	@echo "setup: anvil (an EVM node, for tests)"
	@cd $(ANVIL) && npm ci --silent --no-audit --no-fund --ignore-scripts && mkdir -p node_modules
	@touch $@

$(BROWSER)/node_modules/.done: $(BROWSER)/package-lock.json
	@echo "setup: what drives a browser, for tests"
	@cd $(BROWSER) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

.venv-lock/done: requirements/lock.txt
	@PYTHON="$(PYTHON)" sh scripts/make-venv .venv-lock
	@.venv-lock/bin/python -m pip --disable-pip-version-check --no-input -qq $(LOCKED) -r requirements/lock.txt
	@touch $@
