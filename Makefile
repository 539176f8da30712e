# Two commands on a fresh machine with Python 3.11, make and git: `make serve` and `make test`.

PYTHON ?= python3
PROVIDER ?= auto
TESTERS ?= 2
FUZZ_SECONDS ?= 30
SOAK_MINUTES ?= 30
VENV := .venv
BIN := $(VENV)/bin
# As variables and not as an option, the constraints also hold where pip builds a package: older pips read the first there,
# newer ones the second.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
    $(BIN)/pip install --quiet --disable-pip-version-check
BIOME := ../clients/typescript/node_modules/.bin/biome
# onnxruntime and onnxruntime-gpu install the same module, so a machine has one of them.
RUNTIME := $(if $(filter cuda tensorrt,$(PROVIDER)),gpu,cpu)

# Each step of a training frees and takes large blocks again. Kept instead of handed back to the system, which would clear
# them anew, they make a step a sixth faster.
KEEP_FREED_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456

.PHONY: serve test develop check format proto contract readme models catalogue bench sbom audit fuzz soak clean

## serve: install server and client, start the server on the bundled models (PROVIDER=cuda for a GPU, ARGS for more flags)
serve: $(VENV)/.serve-$(RUNTIME)
	$(BIN)/retinue-server --models models --provider $(PROVIDER) $(ARGS)

## test: install everything tests need and run all of them (ARGS for pytest's arguments), in so many processes as TESTERS says;
## each takes up to three gigabytes
test: $(VENV)/.develop
	scripts/install-system-packages
	scripts/install-node-packages
	$(BIN)/pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder $(ARGS)

## develop: install everything, the export tools with PyTorch included
develop: $(VENV)/.develop
	scripts/install-node-packages

## check: everything that reads the code without running it
check: $(VENV)/.develop
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/contract.binpb
	scripts/check-generated-protos
	scripts/check-generated-typescript
	npm --prefix clients/typescript run --silent check
	cd server && $(BIOME) check --error-on-warnings .

## format: apply ruff's and biome's formatting and safe fixes
format: $(VENV)/.develop
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	scripts/install-node-packages
	npm --prefix clients/typescript run --silent format
	cd server && $(BIOME) check --write .

## proto: regenerate protos/gen and clients/typescript/src/gen from protos/retinue
proto: $(VENV)/.develop
	scripts/generate-protos
	scripts/generate-typescript

## contract: make protos/contract.binpb anew, which no change may break: at a release, or where a break is meant
contract: $(VENV)/.develop
	$(BIN)/buf build --exclude-source-info --output protos/contract.binpb

## readme: run the README's session and write what it prints now into it, its picture included
readme: $(VENV)/.develop
	$(BIN)/python -m tests.readme

## models: train and export every bundled model anew into .work/models (two cores: about an hour)
models: $(VENV)/.develop
	scripts/install-system-packages
	rm -rf .work/models
	scripts/fetch-mobilenet-weights .work/weights
	$(KEEP_FREED_MEMORY) $(BIN)/retinue-export train all --out .work/models
	$(BIN)/retinue-export torchvision mobilenet_v2 --name mobilenet-v2 --out .work/models \
	    --weights .work/weights/mobilenet_v2-b0353104.pth

## catalogue: export every architecture of the catalogue and 100 of timm's, compare each with PyTorch, write docs/catalogue.md
## (two hours; proofs that are kept in docs/catalogue.jsonl are not made again: remove it, or lines of it, to prove anew)
catalogue: $(VENV)/.develop
	$(BIN)/retinue-export catalogue '*' --timm-sample 100 --prove --proofs docs/catalogue.jsonl --page docs/catalogue.md

## bench: measure the server beside its roofline and other servers on this machine, print the tables, write benchmarks/results
## (25 minutes, in which nothing else should run; ARGS names scenarios, or --quick to see in a few minutes whether all works)
bench: $(VENV)/.develop
	scripts/install-system-packages
	$(BIN)/python -m benchmarks $(ARGS)

## fuzz: 10,000 schedules of faults, 20,000 random requests at each door of a server, and every parser of what comes from
## outside for FUZZ_SECONDS; prints a table; what breaks something is kept in .work/fuzz/crashes
fuzz: $(VENV)/.develop
	$(BIN)/python -m tests.fuzz.fault_schedules --count 10000
	$(BIN)/python -m tests.fuzz.boundary --requests 20000
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

## soak: mixed traffic and faults against two servers for SOAK_MINUTES, and a verdict (ARGS="--seed 7" repeats the faults of a run)
soak: $(VENV)/.develop
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) $(ARGS)

## sbom: write what the server's image installs as CycloneDX into .work/sbom (PROVIDER=cuda for the GPU's; EXTRAS as in
## server/Dockerfile)
sbom: $(VENV)/.develop
	PATH=$(CURDIR)/$(BIN):$$PATH scripts/make-sbom .work/sbom/retinue-server.cdx.json $(RUNTIME) $(EXTRAS)

## audit: ask PyPI's database of advisories about every pinned version (ARGS for pip-audit's arguments)
audit: $(VENV)/.develop
	PATH=$(CURDIR)/$(BIN):$$PATH scripts/audit $(ARGS)

clean:
	rm -rf $(VENV) .venv-proto .work clients/typescript/node_modules clients/typescript/dist

# On Debian and Ubuntu the venv module is a package of its own, and without it leaves half an environment behind.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "install python3-venv (apt-get install python3-venv)"; exit 1; }

$(VENV)/.serve-%: $(BIN)/pip constraints.txt protos/pyproject.toml server/pyproject.toml clients/python/pyproject.toml
	rm -f $(VENV)/.serve-* $(VENV)/.develop
	$(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu 2>/dev/null
	$(PIP) --editable protos --editable 'server[$*]' --editable 'clients/python[cli]'
	touch $@

$(VENV)/.develop: $(VENV)/.serve-$(RUNTIME) export/pyproject.toml requirements-dev.txt
	$(PIP) --editable 'export[$(RUNTIME)]' --requirement requirements-dev.txt
	touch $@
