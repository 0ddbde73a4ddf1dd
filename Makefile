# Two commands matter: `make run` does the main job, `make test` proves the house.
# Everything is installed inside the clone: uv into .boot, the locked packages into .venv.
PYTHON ?= python3
UV := .boot/bin/uv
PY := .venv/bin/python
export UV_PYTHON_DOWNLOADS := never
# Byte code is kept, or each of the many processes of a test would compile every library again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run up test check format lock doctor clean
.DEFAULT_GOAL := run

run: .stamps/run  ## the main job on real flights, ending with a report
	$(PY) -m examples.flights

up: .stamps/run  ## the server: API, loop and gateway
	.venv/bin/fourfold up

test: .stamps/dev check  ## everything a reviewer would run
	HYPOTHESIS_PROFILE=thorough $(PY) -m pytest -n 2 --dist worksteal -m "slow or service or property"

check: .stamps/dev  ## format, lint, types, contracts, core tests, examples in the docs: under a minute
	$(PY) tools/check.py

format: .stamps/dev
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

lock: $(UV)  ## resolve the locks anew, with hashes and without any index address
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --extra dev -o locks/dev.txt pyproject.toml
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --extra examples --extra build -c locks/dev.txt -o locks/run.txt pyproject.toml
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header -c locks/dev.txt -o locks/ray.txt locks/ray.in
	$(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header -c locks/dev.txt -o locks/kubernetes.txt locks/kubernetes.in

doctor: .stamps/run
	.venv/bin/fourfold doctor

clean:
	rm -rf .boot .venv .stamps .peers

$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .boot "uv>=0.9,<1"

.venv/bin/python: $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv

.stamps/run: locks/run.txt pyproject.toml .venv/bin/python
	@[ -f .stamps/dev ] || $(UV) pip install --quiet --require-hashes --python $(PY) -r locks/run.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(PY) -e .
	@mkdir -p .stamps && touch $@

.stamps/dev: locks/dev.txt pyproject.toml .venv/bin/python
	$(UV) pip install --quiet --require-hashes --python $(PY) -r locks/dev.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(PY) -e .
	@mkdir -p .stamps && touch $@ .stamps/run
