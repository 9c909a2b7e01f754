# Ladder: five stages of reasoning training on one small model, and one table. `make help` lists what there is.

BASE      ?= smollm2-135m
PROFILE   ?=
PROCESSES ?=
RUNS      ?= runs
SEED      ?=
LIMIT     ?=
SAMPLES   ?=
BENCHMARK ?=
ALLOW_OVERLAP ?=
BASES     ?=
# These are not taken from the environment, where other programs have a NAME, too, such as WSL.
SET       =
NAME      =
Q         =
ANSWER    =
STAGES    =
BUDGET    =
SOURCE    = own
STAGE     =
TO        = exported
# What makes the environment.
PYTHON3   ?= python3
# Without a GPU torch is installed first, so that a build without CUDA can be named here (README.md).
TORCH     ?= torch==2.13.0

# PYTHON= names an interpreter whose environment exists already; then nothing is installed.
ifeq ($(origin PYTHON),undefined)
PYTHON := .venv/bin/python
READY  := .venv/ready
endif

LADDER  = $(PYTHON) -m pipeline
# What several processes do together, one for each GPU (docs/machines.md).
SHARED  = $(PYTHON)$(if $(PROCESSES), -m torch.distributed.run --nproc-per-node "$(PROCESSES)") -m pipeline
COMMON  = $(if $(PROFILE),--profile "$(PROFILE)") $(if $(SEED),--seed "$(SEED)") $(if $(LIMIT),--limit "$(LIMIT)") \
          $(foreach item,$(BENCHMARK),--benchmark "$(item)") $(foreach item,$(SET),--set "$(item)") \
          $(if $(ALLOW_OVERLAP),--allow-overlap)
STUDY   = $(if $(PROFILE)$(SEED)$(LIMIT)$(BENCHMARK),$(error a study has a recipe of its own; change it by SET=, such as \
          SET=planning.seed=2)) \
          $(if $(filter file,$(origin BASE)),,--base "$(BASE)") --runs "$(RUNS)" $(foreach item,$(SET),--set "$(item)")
OPTIONS = --base "$(BASE)" --runs "$(RUNS)" $(COMMON)
# Of the stages that are trained.
SAMPLED = $(OPTIONS) $(if $(SAMPLES),--samples "$(SAMPLES)")

.DEFAULT_GOAL := all
.PHONY: help env all plain cot sft rl adaptive table seeds report plan status ask controls tradeoff compare \
        studies study traces export smoke test faults bench check clean

# The stages

all: $(READY)       ## all five stages on BASE, then the table (the default)
	@$(SHARED) all $(SAMPLED)

plain: $(READY)     ## 1: the base gives a direct answer
	@$(SHARED) plain $(OPTIONS)

cot: $(READY)       ## 2: the base thinks step by step
	@$(SHARED) cot $(OPTIONS)

sft: $(READY)       ## 3: an adapter learns from worked solutions
	@$(SHARED) sft $(SAMPLED)

rl: $(READY)        ## 4: it learns from rewards (after sft)
	@$(SHARED) rl $(SAMPLED)

adaptive: $(READY)  ## 5: it learns when to think (after rl)
	@$(SHARED) adaptive $(SAMPLED)

# What came of them

table: $(READY)     ## print the table of what has been run
	@$(LADDER) table $(OPTIONS)

seeds: $(READY)     ## mean and spread over all seeds that have been run (by make SEED=2), and tests over them
	@$(LADDER) seeds $(OPTIONS)

report: $(READY)    ## one HTML page: table, levels, curves, errors, every answer; BASES="…" for several runs
	@$(LADDER) report $(OPTIONS) $(if $(BASES),--bases $(BASES))

plan: $(READY)      ## how long each stage will take here, by a short measurement
	@$(LADDER) plan $(OPTIONS)

status: $(READY)    ## which stages are up to date, and why the others are not; runs no stage
	@$(LADDER) status $(OPTIONS)

ask: $(READY)       ## ask all STAGES Q="…", or what you type; ANSWER="…" gives verdicts, BUDGET=N limits the thought
	@$(LADDER) ask $(OPTIONS) $(if $(BUDGET),--budget "$(BUDGET)") $(if $(Q),"$$Q") $(if $(ANSWER),--answer "$$ANSWER") \
		$(if $(STAGES),--stages $(STAGES))

controls: $(READY)  ## stages without what they should learn from; all, or those of NAME="…"
	@$(SHARED) controls $(SAMPLED) $(foreach item,$(NAME),"$(item)")

tradeoff: $(READY)  ## accuracy against tokens, of all ways to decide how long to think; table and plot
	@$(LADDER) tradeoff $(OPTIONS)

studies: $(READY)   ## claims about language models, measured: all of them, on the bases that their recipes name
	@$(LADDER) studies $(STUDY) $(foreach item,$(NAME),"$(item)")

study: $(READY)     ## one of them: NAME=analogy
	@$(LADDER) studies $(STUDY) "$(NAME)"

compare: $(READY)   ## all stages of BASES="smollm2-135m nano", or of RUNS="runs/a runs/b", in one table
	@$(LADDER) compare $(if $(BASES),--bases $(BASES) --runs "$(RUNS)",--folders $(RUNS)) $(COMMON)

# What goes in and out

traces: $(READY)    ## solutions to train on, verified, of SOURCE: a style, own (of STAGE), teacher, a data set, a file
	@$(LADDER) traces $(OPTIONS) --source "$(SOURCE)" $(if $(STAGE),--stage "$(STAGE)")

export: $(READY)    ## STAGE as one merged model, with a model card, in the folder TO
	@$(LADDER) export $(OPTIONS) $(if $(STAGE),--stage "$(STAGE)") --to "$(TO)"

# The project itself

smoke: $(READY)     ## all five stages on nano, in a quarter to half an hour
	@$(SHARED) all $(SAMPLED) --base nano

test: $(READY)      ## the tests, in two processes
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile

faults: $(READY)    ## each stage on nano killed 20 times, a full disk, damaged files: all must end as an unbroken run
	@FAULTS=20 $(PYTHON) -m pytest -q -s tests/test_faults.py

bench: $(READY)     ## how fast this is, against the same libraries used plainly
	@$(PYTHON) -m tests.bench --base "$(BASE)"

check: $(READY)     ## lint, format, types, the import rule
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest -q tests/test_imports.py

env: $(READY)       ## the environment in .venv

clean:              ## remove RUNS and .venv; the cached base models stay
	rm -rf "$(RUNS)" .venv

help:               ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo 'BASE=$(BASE)    the model to start from: a name, a hub id, a folder or a GGUF file'
	@echo 'PROFILE=             the size of the run: cpu, gpu, quick or long; where empty, cpu or gpu by what is there'
	@echo 'PROCESSES=N          runs the stages in N processes, one for each GPU (docs/machines.md)'
	@echo 'RUNS=$(RUNS)            where results go'
	@echo 'SEED=N               of training and sampling (1); another seed has a folder of its own'
	@echo 'LIMIT=N              problems of each benchmark that are scored, spread evenly over the levels'
	@echo 'BENCHMARK=           what is scored: files, names or hub sets in place of ours: "gsm8k mine.jsonl?split=test"'
	@echo 'ALLOW_OVERLAP=1      score problems that are trained on, and say so in the table'
	@echo 'SAMPLES=N            with a training: pass@1 to pass@N of the trained stages, after the table'
	@echo 'NAME=                some of the controls, or of the studies'
	@echo 'SET=                 values of the recipes: "sft.trainer.learning_rate=1e-4 sft.lora.r=16" (recipes/README.md)'
	@echo 'TORCH=               what pip is given for torch where there is no GPU (README)'
	@echo 'PYTHON=              an interpreter to use as it is, nothing installed'
	@echo
	@echo 'Begin with make smoke, then make plan, make and make report. Step by step: docs/tutorial.md'

.venv/ready: constraints.txt pyproject.toml
	@$(PYTHON3) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON3) is Python " + \
		sys.version.split()[0] + "; name one from 3.11 on: make env PYTHON3=python3.12")'
	$(PYTHON3) -m venv .venv
	$(if $(shell command -v nvidia-smi),,.venv/bin/python -m pip install --quiet $(TORCH))
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
