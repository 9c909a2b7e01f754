"""A run on the tiny model whose adapters are random and whose answers are real."""

import dataclasses

import pytest

from data.datasets import load
from pipeline.config import load_recipe
from pipeline.models.load import fingerprint, load_model
from pipeline.run import Run
from pipeline.run_dir import RunDir
from pipeline.stages import get_stage
from pipeline.stages.run import score_stage, training_inputs

OVERRIDES = (
    "base.load=fp32",
    "eval.generation.max_new_tokens=24",
    "plain.shots=[0, 1]",
    "sft.problems=[{set: arithmetic_v1, split: train, take: 20}]",
    "rl.problems=[{set: arithmetic_v1, split: train, take: 20}]",
    "adaptive.problems=[{set: arithmetic_v1, split: train, take: 20}]",
)


def save_adapter(run, stage, seed):
    """Leave an adapter with random weights as if the stage had been trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = run.dir.stage(stage.name)
    inputs = training_inputs(run, stage)
    work = folder.begin("training", inputs)

    torch.manual_seed(seed)
    model, _ = load_model(run.base_folder, load="fp32")
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(work / "final")
    folder.keep_training(work / "final", inputs, {"base": run.base, "seconds": 1.0})


@pytest.fixture(scope="session")
def overrides():
    """What the finished run's recipe changes."""
    return OVERRIDES


@pytest.fixture(scope="session")
def finished_run(tiny, tmp_path_factory):
    """A run of plain, sft, rl and adaptive; make a copy to write to it (copy_run)."""
    folder = tmp_path_factory.mktemp("tools")
    for part in tiny:
        part.save_pretrained(folder / "mini")

    run = Run(
        base=str(folder / "mini"),
        base_folder=folder / "mini",
        fingerprint=fingerprint(folder / "mini"),
        dir=RunDir(folder / "runs" / "mini"),
        profile="cpu",
        recipe=load_recipe("cpu", OVERRIDES),
        benchmarks=[load("arithmetic_v1", "test", 4), load("logic_v1", "test", 3)],
        overlaps={"arithmetic_v1": [], "logic_v1": []},
        pretraining_overlaps={"arithmetic_v1": [], "logic_v1": []},
    )
    score_stage(run, get_stage("plain"))
    for seed, name in enumerate(("sft", "rl", "adaptive")):
        save_adapter(run, get_stage(name), seed)
        score_stage(run, get_stage(name))
    return run


@pytest.fixture
def copy_run(finished_run, tmp_path):
    """The same run in a folder that may be written to."""
    import shutil

    shutil.copytree(finished_run.dir.root, tmp_path / "mini")
    return dataclasses.replace(finished_run, dir=RunDir(tmp_path / "mini"))
