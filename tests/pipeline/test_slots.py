"""Decoding in slots gives, token for token, what the loop gives; without a GPU everything but the graph is run."""

import copy
import functools
import gc
import math

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from data.datasets import load
from data.problem import Problem
from pipeline import slots
from pipeline.alarms import HIGHEST_DRIFT
from pipeline.forward import merge_adapter
from pipeline.generate import generate
from pipeline.models.load import load_model, resolve
from pipeline.prompts import encode_prompt, encode_text
from pipeline.rollouts import Rollout, measure_drift
from pipeline.thinking_budget import ThinkingLimits, count_thinking_tokens

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.5}
ARCHITECTURES = {"Llama": GROUPED, "Qwen3": GROUPED, "Gemma": GROUPED, "GPTNeoX": SHAPE, "GPT2": GPT2}

# Of the prompts below the longest has 28 tokens, and gets 22 more: nothing is left of the context.
CONTEXT = {"GPT2": {"n_positions": 50}}


def make_model(tokenizer, architecture, **more):
    """A tiny random model."""
    settings = ARCHITECTURES[architecture] | CONTEXT.get(architecture, {}) | more
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **settings,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def make_prompts(tokenizer, count):
    """Prompts of unlike length, some of them twice."""
    texts = [f"What is {i % 7}{' * 7 + 25' * (i % 4)} = ?" for i in range(count)]
    return [encode_text(tokenizer, text) for text in texts]


def compare(model, tokenizer, prompts, **settings):
    """Decode both ways, check that the results are the same, and return them."""
    expected = generate(model, tokenizer, prompts, slots=False, **settings)
    sequences = generate(model, tokenizer, prompts, slots=True, **settings)

    for sequence, other in zip(sequences, expected, strict=True):
        assert sequence.ids == other.ids
        assert sequence.forced == other.forced
        assert sequence.finish == other.finish
        torch.testing.assert_close(torch.tensor(sequence.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)
    return sequences


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_the_loop(tiny, architecture):
    _, tokenizer = tiny
    model = make_model(tokenizer, architecture)
    prompts = make_prompts(tokenizer, 14)

    sequences = compare(model, tokenizer, prompts, max_new_tokens=22, batch_size=4)
    assert len({tuple(sequence.ids) for sequence in sequences}) > 5


def test_nano_gives_the_same_answers():
    model, tokenizer = load_model(resolve("nano-tiny"), load="fp32")
    prompts = [encode_prompt(tokenizer, problem, "think") for problem in load("arithmetic_v1", "dev").problems[:24]]

    sequences = compare(model, tokenizer, prompts, max_new_tokens=60, batch_size=5)
    assert {sequence.finish for sequence in sequences} >= {"stop"}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_tokens_are_those_of_the_loop(tiny, temperature):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 30)
    sequences = compare(model, tokenizer, prompts, max_new_tokens=40, temperature=temperature, seed=3, batch_size=6)

    finishes = {sequence.finish for sequence in sequences}
    assert temperature < 1 or finishes == {"stop", "length"}, "the case is not covered: no row ended early"


LIMITS = [(0, 0), (0, 1), (0, 9), (12, None), (9, 20)]


@pytest.mark.parametrize(("limits", "temperature"), [*((limits, 1.0) for limits in LIMITS), ((9, 20), 0.0)])
def test_limits_on_thinking_are_as_exact_as_in_the_loop(tiny, limits, temperature):
    model, tokenizer = tiny
    min_tokens, max_tokens = limits
    prompts = make_prompts(tokenizer, 16)

    # A thought that is about to end, where there is a minimum.
    start = "" if max_tokens == 0 else "<think>" if not min_tokens else "<think>\n2 + 2 = 4\n<"
    prefix = encode_text(tokenizer, start)

    sequences = compare(
        model,
        tokenizer,
        prompts,
        max_new_tokens=45,
        temperature=temperature,
        thinking=ThinkingLimits(min_tokens, max_tokens),
        prefixes=[prefix] * len(prompts),
        batch_size=7,
    )
    counts = [count_thinking_tokens(tokenizer, sequence.ids) for sequence in sequences]
    assert min(counts) >= min_tokens
    assert max_tokens is None or max(counts) == max_tokens
    assert any(any(sequence.forced[len(prefix) :]) for sequence in sequences) or max_tokens is None


def test_a_slot_is_filled_again_while_others_go_on(tiny, monkeypatch):
    """Beside a row of 40 tokens, that is five blocks, five of 4 tokens find room one after the other."""
    model, tokenizer = tiny
    prompts = [[9] * 12, *[[9] * 6] * 5]
    short = [5, 5, 5, tokenizer.eos_token_id]
    run = slots.Slots.run
    blocks = []
    monkeypatch.setattr(slots.Slots, "run", lambda self, model: blocks.append(run(self, model)))

    sequences = generate(
        model, tokenizer, prompts, max_new_tokens=40, prefixes=[[5] * 40, *[short] * 5], batch_size=2, slots=True
    )
    assert [len(sequence.ids) for sequence in sequences] == [40, 4, 4, 4, 4, 4]
    assert len(blocks) == 5


def test_callbacks_get_every_sequence_once(tiny):
    model, tokenizer = tiny
    finished, progress = [], []
    sequences = generate(
        model,
        tokenizer,
        make_prompts(tokenizer, 12),
        max_new_tokens=20,
        batch_size=5,
        slots=True,
        on_sequence_end=lambda i, sequence: finished.append((i, sequence)),
        on_progress=lambda items, tokens: progress.append((items, tokens)),
    )
    assert sorted(finished, key=lambda pair: pair[0]) == list(enumerate(sequences))
    assert sum(tokens for _, tokens in progress) == sum(len(sequence.ids) for sequence in sequences)


def test_sampling_follows_the_distribution(tiny):
    """Chi-square on the second token, the first that is chosen in a slot; 200 slots are filled 20 times."""
    from scipy.stats import chisquare

    _, tokenizer = tiny
    model = make_model(tokenizer, "Llama", initializer_range=0.1)
    [prompt] = make_prompts(tokenizer, 1)
    count, temperature = 4000, 1.5
    settings = {"max_new_tokens": 2, "temperature": temperature, "seed": 5, "batch_size": 200, "slots": True}
    sequences = generate(model, tokenizer, [prompt] * count, prefixes=[[7]] * count, **settings)

    observed = torch.bincount(torch.tensor([sequence.ids[1] for sequence in sequences]), minlength=len(tokenizer))
    expected = (model(torch.tensor([[*prompt, 7]])).logits[0, -1].double() / temperature).softmax(-1) * count
    order = expected.argsort(descending=True)
    frequent = order[expected[order] >= 5]
    rare = order[expected[order] < 5]
    assert len(frequent) > 20

    bins = [*observed[frequent].tolist(), int(observed[rare].sum())]
    expected_bins = [*expected[frequent].tolist(), float(expected[rare].sum())]
    assert chisquare(bins, expected_bins).pvalue > 0.01


class OnlyOnDevice(TorchDispatchMode):
    """Refuses what makes the host wait for a value, or a result's size depend on one: a graph cannot record it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique")), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_asks_for_no_value(tiny, architecture):
    _, tokenizer = tiny
    model = make_model(tokenizer, architecture)
    block = slots.Slots(model, 3, 32)
    block.last_position.fill_(31)
    block.tokens.fill_(5)

    with torch.no_grad(), OnlyOnDevice():
        block.run_block(model)
        with pytest.raises(AssertionError, match="local_scalar"):
            block.positions[0].item()

    assert block.positions.tolist() == [slots.STEPS] * 3
    assert (block.layers[0].keys[:, :, : slots.STEPS] != 0).any(dim=(1, 3)).all()
    assert not block.layers[0].keys[:, :, slots.STEPS :].any()


@pytest.mark.parametrize(
    ("architecture", "more", "reason"),
    [
        ("Mistral", {"sliding_window": 16}, "not all of its layers attend to all tokens"),
        ("Gemma3Text", {"sliding_window": 16}, "not all of its layers attend to all tokens"),
        ("Llama", {"attn_implementation": "eager"}, "eager, not sdpa"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "longest row"),
        ("Bloom", {}, "does not let others attend"),
    ],
)
def test_other_models_take_the_loop_and_say_so(tiny, monkeypatch, architecture, more, reason):
    _, tokenizer = tiny
    monkeypatch.setitem(ARCHITECTURES, architecture, GROUPED)
    model = make_model(tokenizer, architecture, **more)
    said = []
    monkeypatch.setattr(slots, "say_once", functools.cache(said.append))

    for _ in range(2):
        compare(model, tokenizer, make_prompts(tokenizer, 3), max_new_tokens=8)
    assert len(said) == 1
    assert reason in said[0]


def test_a_lack_of_memory_halves_the_rows(tiny, monkeypatch):
    model, tokenizer = tiny
    prompts = make_prompts(tokenizer, 30)
    said = []
    monkeypatch.setattr(slots, "say", said.append)
    run = slots.Slots.run
    blocks = []

    def lack_memory(self, model):
        blocks.append(self.rows)
        if self.rows > 4 and len(blocks) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        run(self, model)

    monkeypatch.setattr(slots.Slots, "run", lack_memory)
    ended = []
    settings = {"max_new_tokens": 30, "temperature": 1.0, "prefixes": [[5]] * 30, "batch_size": 16}
    compare(model, tokenizer, prompts, on_sequence_end=lambda i, sequence: ended.append(i), **settings)

    assert said == [f"decoding: {rows} rows at once do not fit the memory; {rows // 2} from now on" for rows in (16, 8)]
    assert set(blocks) == {16, 8, 4}
    assert sorted(ended) == sorted([*range(30)] * 2), "once by the loop, once in slots"


@pytest.mark.parametrize(
    ("rows", "most", "fitting", "size"),
    [
        (10, None, math.inf, 64),
        (65, None, math.inf, 256),
        (5000, None, math.inf, 1024),
        (5000, None, 700, 512),
        (5000, 512, math.inf, 512),
        (100, 512, math.inf, 256),
        (100, 128, math.inf, 128),
        (1, 1, math.inf, 1),
        (5000, None, 3, 64),
    ],
)
def test_sizes_are_few_and_follow_from_the_memory(rows, most, fitting, size):
    assert slots.choose_size(rows, most, fitting) == size


def make_adapted(tiny, dtype=torch.float):
    """The tiny model with an adapter that changes what it says."""
    torch.manual_seed(1)
    model = get_peft_model(copy.deepcopy(tiny[0]).to(dtype), LoraConfig(r=4, target_modules="all-linear"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    return model


def test_slots_are_kept_in_training_and_see_new_weights(tiny):
    _, tokenizer = tiny
    model = make_adapted(tiny).train()
    prompts = make_prompts(tokenizer, 12)
    settings = {"max_new_tokens": 20, "batch_size": 4}

    before = compare(model, tokenizer, prompts, **settings)
    _, first = slots.kept_slots[model]
    addresses = [weights.data_ptr() for weights in model.parameters()]

    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.mul_(-1.5)
    after = compare(model, tokenizer, prompts, **settings)

    assert slots.kept_slots[model][1] is first
    assert addresses == [weights.data_ptr() for weights in model.parameters()]
    assert before != after

    # Longer rows do not fit, and where the training has ended nothing is kept.
    compare(model, tokenizer, prompts, max_new_tokens=140, batch_size=4)
    assert slots.kept_slots[model][1] is not first
    compare(model.eval(), tokenizer, prompts, **settings)
    assert model not in slots.kept_slots


def test_slots_go_with_their_model(tiny):
    _, tokenizer = tiny
    model = make_adapted(tiny).train()
    generate(model, tokenizer, make_prompts(tokenizer, 3), max_new_tokens=4, slots=True)
    assert len(slots.kept_slots) == 1

    del model
    gc.collect()
    assert not slots.kept_slots


def test_merged_weights_are_made_in_fp32_and_rounded_once(tiny):
    model = make_adapted(tiny, torch.bfloat16)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    weight = layer.get_base_layer().weight
    before, address = weight.clone(), weight.data_ptr()
    delta = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float() * layer.scaling["default"]

    with merge_adapter(model):
        assert weight.data_ptr() == address
        assert torch.equal(weight, (before.float() + delta).bfloat16())
    assert torch.equal(weight, before)
    assert weight.data_ptr() == address


def test_the_drift_shows_samples_of_other_weights(tiny):
    _, tokenizer = tiny
    model = make_adapted(tiny)
    [prompt] = make_prompts(tokenizer, 1)
    [sequence] = generate(model, tokenizer, [prompt], max_new_tokens=30, temperature=1.0, slots=True)
    rollout = Rollout(Problem("p", "q", "4", "number"), prompt, sequence, None, None)
    assert measure_drift(model, rollout, 1.0) < 1e-4

    # What is forced may be as unlikely as it will.
    [sequence] = generate(model, tokenizer, [prompt], max_new_tokens=30, temperature=1.0, prefixes=[[5] * 10])
    forced = Rollout(rollout.problem, prompt, sequence, None, None)
    assert measure_drift(model, forced, 1.0) < 1e-4

    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights.mul_(1.3)
    assert measure_drift(model, rollout, 1.0) > HIGHEST_DRIFT


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_captured_block_equals_a_plain_one(tiny, monkeypatch, temperature):
    _, tokenizer = tiny
    model = make_adapted(tiny).cuda().train()
    prompts = make_prompts(tokenizer, 200)
    settings = {"max_new_tokens": 60, "temperature": temperature, "batch_size": 64, "slots": True}
    graphs = []

    for _ in range(2):
        captured = generate(model, tokenizer, prompts, **settings)
        wanted, kept = slots.kept_slots.pop(model)
        with monkeypatch.context() as patch:
            patch.setattr(slots.Slots, "prepare", lambda self, model: None)
            plain = generate(model, tokenizer, prompts, **settings)
        assert [sequence.ids for sequence in captured] == [sequence.ids for sequence in plain]

        # Then the same graph with other weights at the same addresses.
        graphs.append(kept.graph)
        slots.kept_slots[model] = (wanted, kept)
        with torch.no_grad():
            for weights in model.parameters():
                if weights.requires_grad:
                    weights.mul_(-1.5)

    assert graphs[0] is not None
    assert graphs[0] is graphs[1]


@pytest.mark.gpu
@needs_gpu
def test_greedy_answers_are_those_of_vllm():
    vllm = pytest.importorskip("vllm")
    folder = resolve("nano")
    model, tokenizer = load_model(folder, load="fp32")
    prompts = [encode_prompt(tokenizer, problem, "think") for problem in load("arithmetic_v1", "dev").problems[:64]]
    ours = generate(model, tokenizer, prompts, max_new_tokens=60)

    engine = vllm.LLM(str(folder), dtype="float32", gpu_memory_utilization=0.3)
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=60)
    theirs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling)

    pairs = zip(ours, theirs, strict=True)
    equal = sum(sequence.ids == list(output.outputs[0].token_ids) for sequence, output in pairs)
    assert equal >= 62, "near ties may fall either way, but few are that near"
