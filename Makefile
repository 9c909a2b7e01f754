# Ladder: five rungs of reasoning training, one table. `make help` lists what there is.

BASE    ?= smollm2-135m
PROFILE ?=
PROCESSES ?=
RUNS    ?= runs
LIMIT   ?=
BENCHMARK ?=
SET     ?=
Q       ?=
STAGES  ?=
BUDGET  ?=
MIN_THINKING ?=
ALLOW_OVERLAP ?=
TO      ?= exported
BASES   ?= smollm2-135m nano
SOURCE  ?= own
STAGE   ?= sft
# Without a GPU torch is installed first and pinned: a bare `torch` may bring gigabytes of CUDA.
TORCH   ?= torch==2.13.0

# PYTHON= names an interpreter whose environment exists already; then nothing is installed.
ifeq ($(origin PYTHON),undefined)
PYTHON := .venv/bin/python
READY  := .venv/ready
endif

LADDER  = $(PYTHON) -m pipeline
# What several processes do together, one a card (docs/machines.md).
SHARED  = $(PYTHON)$(if $(PROCESSES), -m torch.distributed.run --nproc-per-node "$(PROCESSES)") -m pipeline
OPTIONS = --base "$(BASE)" --runs "$(RUNS)" $(if $(PROFILE),--profile "$(PROFILE)") \
          $(if $(LIMIT),--limit "$(LIMIT)") $(foreach item,$(BENCHMARK),--benchmark "$(item)") \
          $(foreach item,$(SET),--set "$(item)") $(if $(ALLOW_OVERLAP),--allow-overlap)

.DEFAULT_GOAL := all
.PHONY: help env all plain cot sft rl adaptive controls tradeoff traces show-traces table status report ask bench compare export smoke test faults check clean

all: $(READY)       ## all five stages on BASE, then the table (the default)
	@$(SHARED) all $(OPTIONS)

plain: $(READY)     ## 1: the base answers at once
	@$(SHARED) plain $(OPTIONS)

cot: $(READY)       ## 2: the base thinks step by step
	@$(SHARED) cot $(OPTIONS)

sft: $(READY)       ## 3: fine-tuned on verified reasoning traces
	@$(SHARED) sft $(OPTIONS)

rl: $(READY)        ## 4: reinforced with the grader as reward (after sft)
	@$(SHARED) rl $(OPTIONS)

adaptive: $(READY)  ## 5: learns when to think (after rl)
	@$(SHARED) adaptive $(OPTIONS)

controls: $(READY)  ## what must not help: random or format reward, shuffled or no steps; in the table
	@$(SHARED) controls $(OPTIONS)

traces: $(READY)    ## write verified traces of SOURCE: short, long, prose, own (of STAGE), teacher, a set or file
	@$(LADDER) traces $(OPTIONS) --source "$(SOURCE)" --stage "$(STAGE)"

show-traces: $(READY) ## print some of them, at random
	@$(LADDER) show-traces $(OPTIONS) --source "$(SOURCE)" --stage "$(STAGE)"

table: $(READY)     ## print the table of what has been run
	@$(LADDER) table $(OPTIONS)

status: $(READY)    ## which stages are up to date, and why the others are not
	@$(LADDER) status $(OPTIONS)

report: $(READY)    ## one HTML page: table, levels, costs, curves, errors, every answer; BASES="…" for several runs
	@$(LADDER) report $(OPTIONS) $(if $(filter-out file,$(origin BASES)),--bases $(BASES))

tradeoff: $(READY)  ## accuracy against tokens: never, always, budgets, a probe, adaptive; table and plot
	@$(LADDER) tradeoff $(OPTIONS)

bench: $(READY)     ## how fast this is: ratios against the same libraries used plainly
	@$(LADDER) bench $(OPTIONS)

compare: $(READY)   ## all stages on each of BASES="smollm2-135m nano …", in one table
	@$(LADDER) compare $(OPTIONS) --bases $(BASES)

export: $(READY)    ## STAGE as one merged model, with a model card, in the folder TO
	@$(LADDER) export $(OPTIONS) --stage "$(STAGE)" --to "$(TO)"

ask: $(READY)       ## chat with all STAGES; or they answer Q="…", side by side; BUDGET=N, MIN_THINKING=N bound the thought
	@$(LADDER) ask $(OPTIONS) $(if $(BUDGET),--budget "$(BUDGET)") $(if $(MIN_THINKING),--min-thinking "$(MIN_THINKING)") \
	  $(if $(Q),"$(Q)") $(if $(STAGES),--stages $(STAGES))

smoke: $(READY)     ## all five stages on nano, in minutes
	@$(SHARED) all $(OPTIONS) --base nano

test: $(READY)      ## the tests, one of them all five stages on nano
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile

faults: $(READY)    ## each stage on nano killed 20 times, a full disk, damaged files: all must end as an unbroken run
	@FAULTS=20 $(PYTHON) -m pytest -q -s tests/test_faults.py

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
	@echo 'BASE=$(BASE)    a name, a hub id, a folder or a GGUF file'
	@echo 'PROFILE=             cpu, gpu or multi_gpu; by what is there'
	@echo 'PROCESSES=N          the stages by N processes, one a card (docs/machines.md)'
	@echo 'RUNS=$(RUNS)            where results go'
	@echo 'LIMIT=               problems a benchmark, stratified by level'
	@echo 'BENCHMARK=           files, names or hub sets in place of ours: "gsm8k mine.jsonl" (data/sets.py)'
	@echo 'ALLOW_OVERLAP=1      score problems that the train split gives away, and say so in the table'
	@echo 'SOURCE=, STAGE=      for traces; STAGE= (sft) and TO= (exported) for export'
	@echo 'BASES=               for compare and report'
	@echo 'SET=                 "sft.learning_rate=1e-4 rl.steps=20"'
	@echo 'TORCH=               what pip is given for torch where there is no card (README)'
	@echo 'PYTHON=              an interpreter to use as it is, nothing installed'

.venv/ready: constraints.txt pyproject.toml
	python3 -m venv .venv
	$(if $(shell command -v nvidia-smi),,.venv/bin/python -m pip install --quiet $(TORCH))
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
