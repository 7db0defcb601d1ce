PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test check format fuzz bench-align bench-alignment bench-methods bench-lab bench-loss bench-step bench-rollouts bench-tables bench-teacher clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# A run never shares a folder with an earlier one, so each further quickstart gets the next free number.
quickstart: $(STAMP) ## Fetch the embedded pair and train on it; prints the folder of the run
	$(BIN)/dragoman assets get
	@run=runs/quickstart; number=1; \
	while [ -e "$$run" ]; do number=$$((number + 1)); run=runs/quickstart-$$number; done; \
	[ $$number = 1 ] || echo "runs/quickstart exists and is kept; this run goes to $$run" >&2; \
	$(BIN)/dragoman train recipes/quickstart.yaml run.dir=$$run

test: $(STAMP) ## Run the tests in two processes; those of assets that cannot be had are skipped
	$(BIN)/dragoman assets get pair tokenizers || \
		echo 'not all assets can be had: the tests that need them are skipped' >&2
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile

check: $(STAMP) ## Format, lint, types, layers, spelling, sizes
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/check_sizes.py

format: $(STAMP) ## Format, and repair what the linter can repair
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

fuzz: $(STAMP) ## Some 23,000 random examples of views and alignments, in about four minutes
	DRAGOMAN_FUZZ_EXAMPLES=300 OMP_NUM_THREADS=1 $(BIN)/pytest -q --timeout 1800 tests/property/test_fuzz.py

bench-align: $(STAMP) ## Measure the aligner against TRL's, in an environment made for it; five minutes
	$(BIN)/dragoman assets get tokenizers
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/align_speed.py \
		--json benchmarks/results/align_speed.json --plot benchmarks/results/align_speed.svg

bench-alignment: $(STAMP) ## Judge the chunks of all aligners on all pairs of tokenizers; a table and a plot
	$(BIN)/dragoman assets get pair tokenizers
	OMP_NUM_THREADS=1 $(BIN)/pytest -q benchmarks/alignment
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/alignment/run.py

bench-methods: $(STAMP) ## Train every method on the embedded pair, one table; hours, and goes on where it was
	$(BIN)/dragoman assets get
	OMP_NUM_THREADS=1 $(BIN)/pytest -q benchmarks/methods
	$(BIN)/python benchmarks/methods/run.py

bench-lab: $(STAMP) ## Every method in every world of the lab, and worlds not used before; hours, and goes on
	OMP_NUM_THREADS=1 $(BIN)/pytest -q benchmarks/lab
	$(BIN)/python benchmarks/lab/run.py

bench-loss: $(STAMP) ## Time and memory of head and loss, in one pass and on whole logits; a quarter of an hour
	$(BIN)/python benchmarks/loss_kernels.py --json benchmarks/results/loss_kernels.json
	$(BIN)/python benchmarks/loss_kernels.py --growth --json benchmarks/results/loss_growth.json \
	  --plot benchmarks/results/loss_growth.svg

bench-step: $(STAMP) ## A whole training step against TRL's GOLD, in an environment made for it; half an hour
	$(BIN)/dragoman assets get pair tokenizers
	$(BIN)/python benchmarks/step_vs_trl.py --json benchmarks/results/step_vs_trl.json

bench-rollouts: $(STAMP) ## Sampling against transformers' generate, by rows, contexts and vocabulary; twelve minutes
	$(BIN)/dragoman assets get pair
	$(BIN)/python benchmarks/rollouts.py --json benchmarks/results/rollouts.json --plot benchmarks/results/rollouts.svg

bench-tables: $(STAMP) ## Tables of pairs of tokenizers, made and read from disk, by vocabulary; ten minutes
	$(BIN)/dragoman assets get pair tokenizers
	OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 $(BIN)/python benchmarks/table_build.py \
		--json benchmarks/results/table_build.json --plot benchmarks/results/table_build.svg

bench-teacher: $(STAMP) ## Teacher scoring against whole logits and the best products; ten minutes
	$(BIN)/dragoman assets get pair
	$(BIN)/python benchmarks/teacher_scoring.py --json benchmarks/results/teacher_scoring.json --plot benchmarks/results/teacher_scoring.svg

clean: ## Remove the environment and caches; keeps runs/ and the fetched assets
	rm -rf $(VENV) build dist src/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
