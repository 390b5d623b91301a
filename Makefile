# make demo | learn | deploy | test | test-all | soak | setup | ops | peers | zoo | matrix | doctor | lint | bench | tables
#      docs | docs-serve | tutorials | pictures
# Each target sets up what it needs on first use, in $(VENV).
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
PEERS := .venv-peers
BARE := .venv-bare
DOCS := .venv-docs

.PHONY: help setup demo learn deploy test test-all soak lint format ops peers zoo matrix doctor bench tables docs docs-serve tutorials pictures

help:
	@echo "make demo     train, evaluate and draw a small detector and a small segmentor"
	@echo "make learn    DATA=FOLDER: a detector overfits 50 real images of COCO, in less than an hour on two cores"
	@echo "make deploy   export the models of make demo to ONNX, and predict without torch"
	@echo "make test     the tests, without what only repeats a proof at full size"
	@echo "make test-all all tests"
	@echo "make soak     kill training at random, fill its disk, and compare the results"
	@echo "make setup    virtual environment in $(VENV) with the tested versions"
	@echo "make ops      compile mmcv's ops against the installed torch (five to ten minutes, once)"
	@echo "make peers    features against timm, transformers, torchvision and mmpretrain (installs them apart)"
	@echo "make zoo      ConvNeXt in every config of mmdet and mmseg: judge what has no verdict of the present code"
	@echo "make matrix   ROWS=...: this package in ten environments (two hours; rows tried on this code are left out)"
	@echo "make doctor   what this machine has, and remedies for what it lacks"
	@echo "make lint     ruff, the types of the core, and spelling; make format rewrites"
	@echo "make bench    speed ratios against the peers"
	@echo "make docs     the site, in site/; make docs-serve shows it while you write"
	@echo "make tutorials  run the commands of the tutorials and write their outputs; CHECK=1 runs them only"
	@echo "make pictures the drawings of the site, from the code"
	@echo "make tables   model tables of the README and docs from the paper's figures and results/"

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements/runtime.txt requirements/lite.txt setup.py | $(PY)
	@! $(PY) -m pip show -q onedl-mmengine 2>/dev/null || \
	  { echo "$(VENV) has the OneDL fork, whose files this would replace: pip install -e . there, or make VENV=.venv-official $(MAKECMDGOALS)"; exit 1; }
	$(PY) -m pip install --disable-pip-version-check -r requirements/runtime.txt \
	  $$($(PY) -m pip show -q mmcv 2>/dev/null || echo -r requirements/lite.txt)
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -q -e .
	@touch $@

$(DEV): requirements/dev.txt $(RUNTIME)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements/dev.txt
	@touch $@

setup: $(RUNTIME)

demo: $(RUNTIME)
	$(PY) tools/demo.py

# Two processes with one thread each: a second thread in one process was only a third faster.
learn: $(RUNTIME)
	@test -d "$(DATA)/annotations" || { echo "make learn DATA=FOLDER in the layout of COCO; see docs/learning_run.md"; exit 1; }
	OMP_NUM_THREADS=1 $(PY) -m torch.distributed.run --standalone --nproc_per_node=2 tools/train.py \
	  configs/demo/mask_rcnn_coco_tiny.py --data-root "$(DATA)" --launcher pytorch

# An environment without torch, for the runtime of exported models.
$(BARE)/.installed: requirements/onnx_runtime.txt
	$(PYTHON) -m venv $(BARE)
	$(BARE)/bin/python -m pip install --disable-pip-version-check -q -r requirements/onnx_runtime.txt
	@touch $@

deploy: $(DEV) $(BARE)/.installed
	@test -f work_dirs/demo/metrics.json || { echo "make demo comes first: its models are exported"; exit 1; }
	OMP_NUM_THREADS=1 $(PY) tools/dev/check_export.py --python $(BARE)/bin/python $(DEPLOY_ARGS)

PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest
test: $(DEV)
	$(PYTEST) $(or $(PYTEST_ARGS),-n 2 --dist loadfile -m "not slow")

test-all: $(DEV)
	$(PYTEST) -n 2 --dist loadfile

soak: $(RUNTIME)
	OMP_NUM_THREADS=1 $(PY) tools/dev/soak.py $(SOAK_ARGS)

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib

format: $(DEV)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

ops: $(RUNTIME)
	$(PY) tools/build_ops.py

$(PEERS)/.installed: requirements/peers.txt setup.py
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -q -r requirements/peers.txt
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -q -e .
	@touch $@

# Checkpoints of passed tests are deleted at once: together they have 18 GB.
peers: $(PEERS)/.installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -n 2 -o tmp_path_retention_policy=failed tests/peers tests/checkpoints/test_fetch.py tests/checkpoints/test_read.py

zoo: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -W ignore tools/dev/zoo.py $(ZOO_ARGS)

matrix: $(RUNTIME)
	$(PY) -W ignore tools/dev/matrix.py $(ROWS)

doctor: $(RUNTIME)
	$(PY) tools/doctor.py

# The backbone and UperNet at 512x512, a few minutes in total; docs/performance.md has the other commands.
BACKBONE = OMP_NUM_THREADS=1 $(PEERS)/bin/python -W ignore tools/dev/bench_backbone.py
WHOLE = OMP_NUM_THREADS=1 $(PY) -W ignore tools/benchmark.py speed upernet/convnext_t_512_160k --part model --shape 512 512
bench: $(DEV) $(PEERS)/.installed
	$(BACKBONE) tiny base --pass training --device meta --shape 512 512 --memory plain lean leaner
	$(BACKBONE) tiny --shape 512 512 --channels-last --bound --memory plain lean leaner
	$(BACKBONE) tiny --shape 512 512 --pass inference --dtype bf16 --channels-last --bound
	$(WHOLE) --pass inference --peers stock onnxruntime openvino --repeats 3
	$(WHOLE) --pass training --batch 2 --peers stock --repeats 1
	$(PY) tools/dev/bench_ops.py
	$(PY) tools/dev/bench_windows.py

tables: $(RUNTIME)
	$(PY) tools/dev/tables.py

$(DOCS)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --disable-pip-version-check -q -r requirements/docs.txt
	@touch $@

# Reads the sources without importing them, so it needs neither torch nor OpenMMLab. The variable hushes a
# note of the theme's authors about a version of mkdocs that is not installed here.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs
docs: $(DOCS)/.installed
	$(MKDOCS) build --strict
	@echo "site/index.html"

docs-serve: $(DOCS)/.installed
	$(MKDOCS) serve --livereload $(SERVE_ARGS)

tutorials: $(DEV)
	OMP_NUM_THREADS=1 $(PY) tools/dev/tutorials.py $(TUTORIALS) $(if $(CHECK),--check)

pictures: $(RUNTIME)
	OMP_NUM_THREADS=1 $(PY) tools/dev/pictures.py
