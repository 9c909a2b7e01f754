"""From a name to a folder, a tokenizer and a model; and what is refused on the way."""

import copy
import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import Lfm2Config, MambaConfig

from data.files import UserError
from pipeline import processes
from pipeline.config import load_recipe
from pipeline.models import check, load
from pipeline.models.load import (
    base_folder_name,
    check_base,
    check_layers,
    check_tokenizer,
    fingerprint,
    get_context_tokens,
    load_model,
    load_tokenizer,
    resolve,
    resolve_precision,
)
from pipeline.prompts import PLAIN_TEMPLATE, encode_prompt


@pytest.fixture
def folder(tiny, tmp_path):
    """The folder of a tiny base."""
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_base_has_one_folder_name_whatever_its_path(tmp_path, monkeypatch):
    (tmp_path / "model" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model" / "inside")

    names = {
        "nano": "nano",
        "nano-tiny": "nano-tiny",
        "owner/name": "owner--name",
        "a/b.gguf": "b",
        "..": "model",
        "../": "model",
        ".././inside/..": "model",
    }
    assert {name: base_folder_name(name) for name in names} == names


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nanoo", "base 'nanoo' is unknown; did you mean nano"),
        ("none.gguf", "no such file"),
        ("cut.gguf", r"cannot be read as a GGUF file \(.*\); take another"),
        ("damaged.gguf", r"cannot be read as a GGUF file \(.*\); take another"),
        ("models/my model", "check the name"),
        ("empty", "no config.json"),
        ("pickled", "no safetensors, and weights in a pickle are not loaded"),
    ],
)
def test_what_is_no_base_is_refused(tmp_path, monkeypatch, base, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"a pickle")
    (tmp_path / "damaged.gguf").write_bytes(b"no weights")
    # Its magic and its version, and then nothing.
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))

    with pytest.raises(UserError, match=message):
        resolve(base)


def test_a_folder_is_loaded_as_it_was_saved(tiny, folder):
    model, tokenizer = load_model(resolve(str(folder)), load="fp32")

    assert not model.training
    assert tokenizer.chat_template == tiny[1].chat_template
    for name, weights in tiny[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], weights)


def test_a_tokenizer_gets_our_template_and_a_padding_token_where_it_has_none(tiny, tmp_path):
    bare = copy.deepcopy(tiny[1])
    bare.chat_template = None
    bare.pad_token = None
    bare.save_pretrained(tmp_path)

    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == PLAIN_TEMPLATE
    assert tokenizer.pad_token == tokenizer.eos_token


def test_a_tokenizer_that_begins_each_text_with_a_token_does_so_in_our_template(tiny, tmp_path):
    bare = copy.deepcopy(tiny[1])
    bare.chat_template = None
    bare.bos_token = "<|user|>"
    post = {"single": "<|user|> $A", "special_tokens": [("<|user|>", bare.bos_token_id)]}
    bare.backend_tokenizer.post_processor = TemplateProcessing(**post)
    bare.save_pretrained(tmp_path)

    tokenizer = load_tokenizer(tmp_path)
    ids = encode_prompt(tokenizer, load.SAMPLE_PROBLEM, "plain")
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(ids[0]) == 1


def test_a_fingerprint_follows_the_weights_and_nothing_else(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    first = fingerprint(folder)

    (folder / "notes.txt").write_text("nothing that counts")
    os.utime(folder / "config.json")
    assert fingerprint(folder) == first

    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(folder) != first


def test_two_bases_whose_files_look_alike_have_fingerprints_of_their_own(folder, tmp_path, monkeypatch):
    """As two trainings of one base from archives that set the same times."""
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    other = shutil.copytree(folder, tmp_path / "other")
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    for file in [*folder.iterdir(), *other.iterdir()]:
        os.utime(file, (0, 0))
    assert fingerprint(folder) != fingerprint(other)


@pytest.mark.parametrize(
    ("gpus", "is_new", "flags", "precision"),
    [
        (0, False, "fpu sse", "fp32"),
        (0, False, "fpu avx512_bf16", "bf16"),
        (1, True, "fpu sse", "bf16"),
        # A GPU before Ampere imitates it.
        (1, False, "fpu avx512_bf16", "fp32"),
    ],
)
def test_auto_is_what_the_machine_computes_in(monkeypatch, gpus, is_new, flags, precision):
    monkeypatch.setattr(processes, "count_gpus", lambda: gpus)
    monkeypatch.setattr(load, "read_cpuinfo", lambda: flags)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or is_new)

    assert resolve_precision("auto") == precision
    assert resolve_precision("nf4") == "nf4"


def test_a_context_that_is_too_short_is_refused(tiny, folder):
    context = get_context_tokens(tiny[0].config)
    check_base("tiny", folder, context)
    with pytest.raises(
        UserError, match=f"base tiny: its context of {context} tokens is below the {context + 1} needed"
    ):
        check_base("tiny", folder, context + 1)


def test_a_tokenizer_that_changes_the_answer_format_is_refused(tiny):
    class Lossy:
        eos_token = tiny[1].eos_token
        eos_token_id = tiny[1].eos_token_id

        def __call__(self, text, **options):
            return tiny[1](text, **options)

        def decode(self, ids):
            return tiny[1].decode(ids).lower().replace("\n", " ")

    with pytest.raises(UserError, match="does not give the answer format back unchanged"):
        check_tokenizer(Lossy(), "tiny")


def test_an_end_of_turn_of_several_tokens_is_refused(tiny):
    broken = copy.deepcopy(tiny[1])
    broken.backend_tokenizer.add_special_tokens(["x"])
    broken._special_tokens_map["eos_token"] = "not one token"

    with pytest.raises(UserError, match="its end-of-turn token 'not one token' is not one token"):
        check_tokenizer(broken, "tiny")


# What a folder may lack


def edit_weights(folder, change):
    """Have a function change the weights of a base, a mapping from name to tensor."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit_json(folder, name, **changes):
    """Change keys of a JSON file of a base."""
    old = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(old | changes))


def assert_refused(folder, message):
    """Loading and `check` refuse a base, each with one line that says why; no code in its folder is run."""
    for action in (lambda: load_model(resolve(str(folder)), load="fp32"), lambda: list_faults(folder)):
        with pytest.raises(UserError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("base ")


def list_faults(folder):
    """Raise what `check` says against a base."""
    for finding in check.check_base(str(folder), load_recipe("cpu")):
        if not finding.good:
            raise UserError(finding.text)


def test_missing_weights_are_refused_and_tied_ones_are_not_missing(tiny, folder, tmp_path, capfd):
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    assert_refused(folder, r"1 of its weights are missing .*\(model\.layers\.1\.mlp\.up_proj\.weight, …\)")
    assert "LOAD REPORT" not in capfd.readouterr().err

    config = copy.deepcopy(tiny[0].config)
    config.tie_word_embeddings = True
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    tiny[1].save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    load_model(resolve(str(tmp_path / "tied")), load="fp32")
    list_faults(tmp_path / "tied")


def test_weights_of_another_shape_are_refused(folder):
    edit_json(folder, "config.json", intermediate_size=48)
    assert_refused(folder, "6 of its weights are missing or of another shape")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "model-00002-of-0000..safetensors is missing, which its index names"),
        (lambda file: os.truncate(file, file.stat().st_size - 1), "model-00002-of-.* is cut or damaged"),
        (lambda file: os.truncate(file, 0), "model-00002-of-.* is cut or damaged"),
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    ],
    ids=["missing", "cut", "empty", "pointer"],
)
def test_a_file_of_weights_that_is_not_whole_is_refused(tiny, tmp_path, damage, message):
    tiny[0].save_pretrained(tmp_path, max_shard_size="40KB")
    tiny[1].save_pretrained(tmp_path)
    list_faults(tmp_path)

    [second] = tmp_path.glob("model-00002-of-*")
    damage(second)
    assert_refused(tmp_path, message)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(tiny, folder):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    assert_refused(folder, rf"its tokenizer has {len(tokenizer)} tokens, its embedding {len(tiny[1])} rows")


def test_a_base_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    assert_refused(folder, "it has no tokenizer that can be loaded")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert_refused(folder, "it has no tokenizer that can be loaded")


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "configuration"),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", None]}},
            "tokenizer",
        ),
    ],
)
def test_a_base_that_needs_code_of_its_own_is_refused(folder, name, changes, what):
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    edit_json(folder, name, **changes)
    assert_refused(folder, f"its {what} needs code of its own, which is not run")


def test_an_unknown_architecture_is_refused(folder):
    edit_json(folder, "config.json", model_type="own")
    assert_refused(folder, "it has no configuration that can be loaded")


def test_a_base_with_layers_that_are_no_attention_is_refused():
    for config in (Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]), MambaConfig()):
        with pytest.raises(UserError, match="base other: it has layers of another kind than attention"):
            check_layers(config, "other")


def test_a_template_that_loses_the_question_is_refused(tiny, folder):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.chat_template = "Assistant:"
    with pytest.raises(UserError, match="base tiny: the base's chat template leaves out"):
        check_tokenizer(tokenizer, "tiny")

    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="chat template leaves out"):
        list_faults(folder)


@pytest.mark.parametrize(("setting", "width"), [("nf4", 64), ("nf4", 96), ("int8", 64)])
def test_a_quantized_base_computes_and_takes_an_adapter(tiny, tmp_path, setting, width):
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny
    shape = {"hidden_size": width, "intermediate_size": 128, "head_dim": width // 4}
    config = transformers.LlamaConfig(**(model.config.to_dict() | shape))
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")

    quantized, _ = load_model(tmp_path / "base", trainable=True, load=setting)
    kinds = {type(module).__name__ for module in quantized.modules()}
    assert any("4bit" in kind or "8bit" in kind for kind in kinds)

    trainable = get_peft_model(quantized, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.tensor([tokenizer("What is 25 * 4?")["input_ids"]], device=trainable.device)
    trainable(ids, labels=ids).loss.backward()
    gradients = [weights.grad for weights in trainable.parameters() if weights.requires_grad]
    assert gradients
    assert all(gradient is not None for gradient in gradients)
