"""Run by test_processes.py in two processes: what they must do together.

python in_two_processes.py FOLDER, where FOLDER/base holds a tiny model.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.files import UserError
from data.problem import Problem
from pipeline import processes, prompts
from pipeline.evaluate import evaluate
from pipeline.generate import generate

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(9)]


def load_base(folder: Path):
    """The model and tokenizer of FOLDER/base."""
    return AutoModelForCausalLM.from_pretrained(folder / "base"), AutoTokenizer.from_pretrained(folder / "base")


def run_evaluation(folder: Path) -> None:
    """Evaluate with a partial folder, and write what each process returns."""
    model, tokenizer = load_base(folder)
    evaluation = evaluate(
        model,
        tokenizer,
        PROBLEMS,
        "think",
        max_new_tokens=12,
        batch_size=2,
        temperature=1.0,
        label="test",
        partial=folder / "partial",
    )
    index = processes.get_state().process_index
    rows = [asdict(completion) for completion in evaluation.completions]
    (folder / f"returned_{index}.json").write_text(json.dumps(rows))


def run_errors(folder: Path) -> None:
    """All processes get the main one's result, and its error."""
    index = processes.on_main_process(lambda: processes.get_state().process_index)
    assert index == 0

    def fail():
        raise UserError("bad input")

    try:
        processes.on_main_process(fail)
    except UserError as error:
        own_index = processes.get_state().process_index
        (folder / f"error_{own_index}.txt").write_text(str(error))


def run_sharded(folder: Path) -> None:
    """A model sharded by FSDP2 (on the CPU) decodes as before, also after training steps, and is saved whole."""
    model, tokenizer = load_base(folder)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)

    questions = [prompts.encode_prompt(tokenizer, problem, "think") for problem in PROBLEMS]
    before = [sequence.ids for sequence in generate(model, tokenizer, questions, max_new_tokens=20)]
    whole = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    mesh = init_device_mesh("cpu", (processes.get_state().num_processes,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert len(processes.find_sharded_modules(model)) == 3

    for _ in range(2):
        ids = torch.tensor([questions[processes.get_state().process_index]])
        model(ids, labels=ids).loss.backward()
        sequences = generate(model, tokenizer, questions, max_new_tokens=20)
        assert [sequence.ids for sequence in sequences] == before

    weights = processes.collect_trained_weights(model)
    if processes.is_main():
        assert weights is not None
        assert weights.keys() == whole.keys()
        assert all(torch.equal(weights[name], whole[name]) for name in whole)
        model.save_pretrained(folder / "adapter", state_dict=weights)


processes.get_state()
for part in (run_evaluation, run_errors, run_sharded):
    part(Path(sys.argv[1]))
processes.disconnect()
processes.leave(0)
