# `make demo` and `make test` need Python 3.11 or newer, pip and make; they set up the rest in .venv.
PYTHON ?= python3
RUN := .venv/bin/python
DEMO := build/demo

.PHONY: help nightly test check demo format docs setup vendors models clean

help:
	@echo "make test    lint, types, import contracts, all tests"
	@echo "make check   the same without the tests"
	@echo "make demo    deploy a text recogniser to this machine and read a line with it"
	@echo "make format  format the code"
	@echo "make docs    write the command reference from the program"
	@echo "make clean   remove .venv, .models and build"

setup:
	@$(PYTHON) tools/setup_venv.py .venv

# What the tests need that comes under its vendor's own licence (docs/backends.md), and PyTorch.
vendors: setup
	@$(PYTHON) tools/setup_venv.py .venv --vendors

models: setup
	@$(RUN) tools/fetch_models.py > /dev/null

check: setup
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

# Two files of tests at a time; each file's stay in one process, as they share what they set up.
test: check models vendors
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

# What takes minutes: a whole ARM computer under emulation, and deploys on emulated and far devices.
nightly: setup vendors
	$(RUN) -m pytest -m nightly

demo: models
	@rm -rf $(DEMO)
	$(RUN) -m examples.ocr.render $(DEMO)
	$(RUN) -m edgesdk deploy .models/ch_PP-OCRv4_rec_infer.onnx --profile x86 \
	  --samples $(DEMO)/samples.npz --metric examples/ocr/metric.py:character_accuracy \
	  --floor character_accuracy=-1% --out $(DEMO)/deploy
	@echo "The bundle reads $(DEMO)/line.png:"
	@$(RUN) -m examples.ocr.read_line $(DEMO)/deploy/bundle $(DEMO)/line.png

format: setup
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

docs: setup
	$(RUN) tools/gen_cli_docs.py

clean:
	rm -rf .venv .models build dist
