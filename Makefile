# make run serves, make test tests. Each verb installs what it needs into .venv, once.
SHELL := /bin/sh
PYTHON ?= python3.11
BIN := .venv/bin
ROOT := $(CURDIR)

.PHONY: install install-data run test test-slow test-docker faults soak check fuzz audit stress stress-compare stress-capacity bench bench-pins charts \
  demo-scaling screenshots data pins clean

install: .venv/.installed
install-data: .venv/.installed-data
run: .venv/.installed
	@exec $(BIN)/python -m serve_app run

# Unit tests in two processes, each with one thread: more would only wait for each other on two CPUs. Then real services, one test
# at a time: they use both CPUs themselves. For a part of them: python -m pytest tests/unit
test: .venv/.installed-dev data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/unit
	$(BIN)/python -m pytest tests/integration tests/e2e

# Roll-outs, and every command of the documents as a reader types them; needs port 1313.
test-slow: .venv/.installed-dev data
	$(BIN)/python -m pytest -m slow

# Runs the image and the cluster. Needs Docker with compose, and the image python:3.11-slim-bookworm or a registry to pull it from.
test-docker: .venv/.installed-dev data
	@docker version >/dev/null && docker compose version >/dev/null || \
	  { echo "make test-docker needs docker and docker compose: see the error above" >&2; exit 1; }
	$(BIN)/python -m pytest -m docker

# Measures what faults cost the clients, in six minutes; with FAULTS_AT_LENGTH=1 in half an hour. With
# RELIABILITY_REPORT=docs/reliability.md the table is written to that page.
faults: .venv/.installed-dev data
	$(BIN)/python -m pytest -m faults tests/faults

# Half an hour of mixed load, to see whether anything leaks.
SOAK_SECONDS ?= 1800
soak: .venv/.installed-dev data
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -m faults tests/faults -k mixed_load

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m serve_app check model_components

# Generated bodies: FUZZ_INPUTS for the parser, a fifth of them for a real service. What they find stays in .fuzz: inputs that
# reach new code in .fuzz/corpus, where the next run begins, and minimised failures in .fuzz/failures.
FUZZ_INPUTS ?= 1000000
fuzz: .venv/.installed-audit
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/python -m pytest -m fuzz -s tests/fuzz

# Writes a bill of materials and the licences of what is installed to serve, and looks for known vulnerabilities. If the public
# index of vulnerabilities cannot be reached, it fails instead of reporting none.
audit: .venv/.installed-audit
	$(BIN)/python scripts/make_inventory.py
	$(BIN)/pip-audit --requirement requirements/serve.txt --require-hashes --disable-pip --strict --progress-spinner off

data: data/test.json data/expected.json
data/test.json: | .venv/.installed
	$(BIN)/python -m serve_app generate
# The rule above writes it too. This one is for your own rows, and for a changed model.
data/expected.json: data/test.json model_components/manifest.json | .venv/.installed
	$(BIN)/python -m serve_app expect

# Load tests of a running service at URL; docs/load-tests.md explains them.
URL ?= http://127.0.0.1:1313
SCENARIO ?= mixed
stress: .venv/.installed-dev data
	$(BIN)/python -m stress run $(SCENARIO) --url $(URL)

# Needs URL_A=... and URL_B=...
stress-compare: .venv/.installed-dev data
	@test -n "$(URL_A)" && test -n "$(URL_B)" || { echo "make stress-compare URL_A=http://... URL_B=http://..." >&2; exit 1; }
	$(BIN)/python -m stress compare --url-a $(URL_A) --url-b $(URL_B) --scenario $(SCENARIO)

stress-capacity: .venv/.installed-dev data
	$(BIN)/python -m stress capacity --url $(URL)

# Needs wrk. Installs each rival in its own environment. Takes half an hour on two cores.
bench: .venv/.installed-dev data
	$(BIN)/python -m benchmarks

# Takes pictures of a running cluster; see the script.
screenshots: .venv/.installed-dev
	$(BIN)/python scripts/make_screenshots.py

# Takes three minutes: replicas come and go with the load, and docs/scaling.svg shows it.
demo-scaling: .venv/.installed-dev data
	$(BIN)/python scripts/make_scaling.py

charts: .venv/.installed-dev data
	$(BIN)/python scripts/make_charts.py

# Writes the exact version and hash of every requirement. Run it after a change of the dependencies in pyproject.toml.
PIN := CUSTOM_COMPILE_COMMAND="make pins" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
pins: .venv/.installed-dev
	$(BIN)/python -m pip install --quiet pip-tools
	$(PIN) -o requirements/serve.txt pyproject.toml
	$(PIN) --extra data -c requirements/serve.txt -o requirements/data.txt pyproject.toml
	$(PIN) --extra data --extra dev -c requirements/data.txt -o requirements/dev.txt pyproject.toml
	$(PIN) --extra audit -c requirements/dev.txt -o requirements/audit.txt pyproject.toml

# The same for the rivals of the benchmark, after a change of their requirements.in.
bench-pins: .venv/.installed-dev
	$(BIN)/python -m pip install --quiet pip-tools
	for f in benchmarks/rivals/*/requirements.in; do (cd $$(dirname $$f) && CUSTOM_COMPILE_COMMAND="make bench-pins" \
	  $(ROOT)/$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-emit-options requirements.in) || exit 1; done

clean:
	rm -rf .venv benchmarks/.envs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache data/train.csv data/test.json data/expected.json \
	  stress/reports
	find . -name __pycache__ -prune -exec rm -rf {} +

# One line in a .pth file puts the project on the environment's path, so there is nothing to build.
.venv/.installed: requirements/serve.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the path: install Python 3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/serve.txt
	@echo "$(ROOT)" > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/class-prediction.pth
	@touch $@

# For training, explaining and scoring files.
.venv/.installed-data: requirements/data.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/data.txt
	@touch $@

.venv/.installed-dev: requirements/dev.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

.venv/.installed-audit: requirements/audit.txt .venv/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/audit.txt
	@touch $@
