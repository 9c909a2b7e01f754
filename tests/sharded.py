"""Run by tests/test_processes.py in two processes: a model sharded by FSDP2 (on the CPU) decodes and is saved whole."""

import sys
from pathlib import Path

import torch
from peft import get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from data.build import load
from pipeline import base, processes, prompts, sft
from pipeline.generate import generate
from pipeline.recipe import SftSettings

processes.state()
folder = Path(sys.argv[1])
model, tokenizer = base.load(folder / "base", setting="fp32")
torch.manual_seed(0)
model = get_peft_model(model, sft.lora(SftSettings(lora_rank=4)))
for name, weights in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weights, std=0.1)
asked = [prompts.prompt_ids(tokenizer, problem, "think") for problem in load("arithmetic_v1", "test")[:7]]
before = [sample.ids for sample in generate(model, tokenizer, asked, max_tokens=20)]
whole = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
mesh = init_device_mesh("cpu", (processes.state().num_processes,))
for layer in model.get_base_model().model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert len(processes.sharded(model)) == 3
for _ in range(2):
    ids = torch.tensor([asked[processes.state().process_index]])
    model(ids, labels=ids).loss.backward()
    assert [sample.ids for sample in generate(model, tokenizer, asked, max_tokens=20)] == before
weights = processes.trained_weights(model)
if processes.main():
    assert weights is not None and weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    model.save_pretrained(folder / "adapter", state_dict=weights)
processes.end()
processes.leave(0)
