"""An exported stage: it answers as it was scored, comes whole or not at all, and stale stages are refused."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from data.files import UserError
from pipeline.config import load_recipe
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.tools import export as module
from pipeline.tools.export import export


def test_the_exported_model_answers_as_the_stage(finished_run, tmp_path):
    folder = tmp_path / "model"
    text = export(finished_run, "rl", folder)
    assert text.startswith(f"{folder}: rl of {finished_run.base} in float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

    problems = finished_run.benchmarks[0].problems
    settings = {"max_new_tokens": 24, "batch_size": 4, "label": "test"}
    scored = load_model(finished_run.base_folder, finished_run.dir.stage("rl").adapter, load="fp32")
    exported = load_model(folder, load="fp32")
    expected = evaluate(*scored, problems, "think", **settings).completions
    assert evaluate(*exported, problems, "think", **settings).completions == expected

    # As the model card says, without Ladder.
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [
        {"role": "system", "content": "Think, then answer."},
        {"role": "user", "content": problems[0].question},
    ]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        whole = model.generate(**ids)[0]
    answer = tokenizer.decode(whole[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == expected[0].text


def test_the_bases_own_way_of_generating_is_left_behind(tiny):
    model = copy.deepcopy(tiny[0])
    model.generation_config = GenerationConfig(bos_token_id=1, temperature=0.7, repetition_penalty=1.3)
    module.set_greedy(model, tiny[1], stops=[2, 3], max_new_tokens=9)

    settings = model.generation_config
    assert (settings.do_sample, settings.max_new_tokens, settings.eos_token_id) == (False, 9, [2, 3])
    assert settings.bos_token_id == 1
    # Qwen2.5 has one, and it counts in greedy decoding, too.
    assert settings.repetition_penalty in (None, 1.0)


def test_the_model_card_has_scores_and_settings(finished_run, tmp_path):
    export(finished_run, "adaptive", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()

    assert card.startswith("---\nlicense: other\n")
    assert re.search(r"\| arithmetic_v1 +\| adaptive +\| zero-shot +\| +4 \|", card)
    assert "adaptive:\n" in card
    assert "solutions of dev problems" in card


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("plain", "no weights of its own; choose one of sft, rl, adaptive"),
        ("sft_answers", "not run yet"),
    ],
)
def test_a_stage_without_an_adapter_is_refused(finished_run, tmp_path, stage, words):
    with pytest.raises(UserError, match=words):
        export(finished_run, stage, tmp_path / "model")


def test_other_settings_a_damaged_adapter_and_a_folder_in_use_are_refused(copy_run, tmp_path):
    changed = dataclasses.replace(copy_run, recipe=load_recipe("cpu", ["base.load=fp32"]))
    with pytest.raises(UserError, match="give the SET= that it was trained with"):
        export(changed, "rl", tmp_path / "model")

    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for taken in (tmp_path, tmp_path / "link", Path("/dev/null")):
        with pytest.raises(UserError, match="exists and is no empty folder"):
            export(copy_run, "rl", taken)

    weights = copy_run.dir.stage("rl").adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match="is not what was trained"):
        export(copy_run, "rl", tmp_path / "model")


def test_a_model_that_cannot_be_written_leaves_no_folder_of_its_name(finished_run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(module, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        export(finished_run, "rl", tmp_path / "model")
    assert not (tmp_path / "model").exists()
