"""RL on an untrained model: the trainer's shortcuts change nothing, and a training that trains nothing is refused."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

from data.records import Completion, Problem
from pipeline import rl, samples, sft
from pipeline.prompts import encode
from pipeline.recipe import RlSettings, SftSettings
from pipeline.sampler import Sampler
from pipeline.samples import Task
from pipeline.watch import alarm

SETTINGS = RlSettings(
    steps=2,
    prompts=2,
    samples=4,
    micro_batch=4,
    max_tokens=12,
    probe=4,
    eval_every=1,
    dev=4,
    learning_rate=1e-3,
    reward="mine.py:of_a_test",
)
PAID = replace(SETTINGS, reward="correctness")
PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i), "number") for i in range(6, 14)]
POOL = {"sums 1": PROBLEMS}


def adapted(tiny):
    import copy

    from peft import get_peft_model

    model, tokenizer = tiny
    torch.manual_seed(0)
    return get_peft_model(copy.deepcopy(model), sft.lora(SftSettings(lora_rank=4))), tokenizer


@pytest.fixture
def losses(monkeypatch):
    """What reaches TRL's loss, a dictionary a call."""
    seen, original = [], rl.GRPOTrainer._compute_loss
    monkeypatch.setattr(
        rl.GRPOTrainer,
        "_compute_loss",
        lambda self, model, inputs: seen.append(inputs) or original(self, model, inputs),
    )
    return seen


def length_reward(problem, completion):
    return float(len(completion.text) % 2)


def train(model, tokenizer, task, settings, folder, label="rl"):
    return rl.train(model, tokenizer, POOL, POOL, task, settings, 0, folder, label)


def log_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_the_weights_move_and_the_best_adapter_is_kept(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    task = Task(length_reward)
    settings = replace(SETTINGS, steps=3, eval_every=2)  # the last step is looked at, too
    best = train(model, tokenizer, task, settings, tmp_path)
    assert (best / "adapter_model.safetensors").is_file()
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["step"] for point in curve] == [0, 2, 3]
    assert any(p.detach().abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_a_training_that_moves_no_weight_is_stopped_and_says_so(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    frozen = replace(SETTINGS, learning_rate=0.0, steps=6, eval_every=6)
    assert train(model, tokenizer, Task(length_reward), frozen, tmp_path) == tmp_path / "best"
    assert (tmp_path / "alarm.txt").read_text() == "stopped at step 2: no weight has moved in 2 steps\n"
    assert len(log_of(tmp_path)) == 2


def repetition(problem, completion):
    """The share of the most common letter."""
    return max(Counter(completion.text).values()) / len(completion.text) if completion.text else 0.0


def test_a_planted_collapse_is_stopped_and_the_best_adapter_kept(tiny, tmp_path):
    """What pays here is to write one letter for ever, and it is learnt within some steps."""
    model, tokenizer = adapted(tiny)
    high = replace(SETTINGS, steps=40, eval_every=40, learning_rate=0.05, prompts=4, samples=8, micro_batch=32)
    best = train(model, tokenizer, Task(repetition), high, tmp_path)
    assert "the entropy fell from" in (tmp_path / "alarm.txt").read_text()
    assert len(log_of(tmp_path)) < 40
    from safetensors.torch import load_file

    kept = load_file(best / "adapter_model.safetensors")
    assert not any(bool(tensor.abs().sum()) for name, tensor in kept.items() if "lora_B" in name)  # step 0


def test_an_interrupted_training_goes_on_to_the_same_adapter(tiny, tmp_path, monkeypatch):
    """On the same problems: the sampler goes on from its own state, too."""
    settings = replace(SETTINGS, steps=4, eval_every=2, learning_rate=1e-2, micro_batch=8)
    ended = []
    for folder in ("whole", "broken"):
        model, tokenizer = adapted(tiny)
        if folder == "broken":
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                begin = rl.Watch.on_step_begin

                def stop(self, args, state, control, begin=begin, **kwargs):
                    if state.global_step == 3:
                        raise KeyboardInterrupt
                    begin(self, args, state, control, **kwargs)

                patch.setattr(rl.Watch, "on_step_begin", stop)
                train(model, tokenizer, Task(length_reward), settings, tmp_path / folder)
            model, tokenizer = adapted(tiny)
        train(model, tokenizer, Task(length_reward), settings, tmp_path / folder)
        ended.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    logs = [[{k: v for k, v in s.items() if k != "seconds"} for s in log_of(tmp_path / f)] for f in ("whole", "broken")]
    assert logs[0] == logs[1] and all(torch.equal(p, ended[1][name]) for name, p in ended[0].items())


def test_samples_of_old_weights_are_noticed(tiny, tmp_path, monkeypatch):
    import copy

    model, tokenizer = adapted(tiny)
    old, original = copy.deepcopy(model), rl.sample
    monkeypatch.setattr(rl, "sample", lambda policy, *rest: original(old, *rest))
    settings = replace(SETTINGS, steps=20, eval_every=20, learning_rate=3e-2)
    train(model, tokenizer, Task(length_reward), settings, tmp_path)
    assert "the samples are not the trained model's" in (tmp_path / "alarm.txt").read_text()


def test_samples_of_the_trained_model_have_no_drift(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    train(model, tokenizer, Task(length_reward), replace(SETTINGS, learning_rate=3e-2, temperature=0.7), tmp_path)
    assert all(step["drift"] < 1e-4 for step in log_of(tmp_path))


def test_groups_without_a_signal_are_replaced(tiny, tmp_path, losses):
    """Half of the problems always earn the same; every group that is trained on is of the other half."""
    model, tokenizer = adapted(tiny)
    dull = {p.id for p in PROBLEMS[::2]}

    def reward(problem, completion):
        return 0.0 if problem.id in dull else float(len(completion.text) % 2)

    settings = replace(SETTINGS, steps=4, samples=8, prompts=2, tries=6, probe=0, micro_batch=16, eval_every=4)
    train(model, tokenizer, Task(reward), settings, tmp_path)
    log = log_of(tmp_path)
    assert len(losses) == 4 and all(len(i["advantages"].unique()) > 1 for i in losses)
    assert sum(step["samples"] for step in log) > 4 * 16 and any(step["mixed"] < 1 for step in log)
    assert all(len({tuple(row) for row in i["prompt_ids"].tolist()}) == 2 for i in losses)


def test_levels_named_in_the_recipe_are_the_ones_drawn_from():
    from pipeline.problems import by_level, train_problems
    from pipeline.recipe import Recipe

    some = by_level(train_problems(Recipe(), 40, 20, [2, 4]))
    assert sorted(some) == ["arithmetic_v1 2", "arithmetic_v1 4", "logic_v1 2", "logic_v1 4"]
    assert sum(map(len, some.values())) == 60
    assert len(by_level(train_problems(Recipe(), 40, 20, []))) == 10


def test_levels_named_in_the_recipe_are_drawn_from_what_sft_has_not_seen():
    from pipeline.problems import every_train_problem, sft_problems, train_problems
    from pipeline.recipe import load

    recipe = load("cpu", ["rl.levels=[5]", "rl.arithmetic=300"])
    hard = train_problems(recipe, 300, 0, [5])["arithmetic_v1"]
    seen = {problem.id for problem in sft_problems(recipe.sft)}
    assert len(hard) > 280 and not seen & {problem.id for problem in hard}
    assert {p.id for p in hard} <= {p.id for p in every_train_problem(recipe)}


def test_a_level_is_drawn_as_often_as_its_samples_differ():
    pools = {name: [Problem(f"{name} {i}", "?", "1", "number") for i in range(100)] for name in ("easy", "mid", "hard")}
    drawn = Sampler(pools, {"easy": (98, 100), "mid": (50, 100), "hard": (1, 100)}).draw(300, "0")
    count = {name: sum(level == name for level, _ in drawn) for name in pools}
    assert count["mid"] > 230 and count["easy"] > 0 and len({p.id for level, p in drawn if level == "mid"}) == 100
    sampler = Sampler(pools, {})
    for _ in range(30):
        sampler.note("easy", [1.0] * 8)
    assert sampler.rate("easy") > 0.98 and sampler.rate("mid") == 0.5
    again = Sampler(pools, {})
    again.restore(json.loads(json.dumps(sampler.state())))
    assert again.draw(50, "1") == sampler.draw(50, "1")


SEEN = {"reward": 0.5, "correct": 0.5, "boxed": 0.8, "length": 40.0}
POINTS = [{"accuracy": 0.4, "n": 200}, {"accuracy": 0.38, "n": 200}]


def step(number, entropy=0.4, drift=0.0, moved=None, **levels):
    """A line of the log; ``levels``: what was seen of each level."""
    moved = float(number) if moved is None else moved
    return {"entropy": entropy, "drift": drift, "moved": moved, "levels": levels or {"mid": SEEN}}


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ({}, None),
        ({"mid": SEEN | {"reward": 0.3, "length": 70.0, "boxed": 0.95}, "entropy": 0.1}, None),
        ({"mid": SEEN | {"reward": 0.2}}, "the reward fell from 0.50 to 0.20"),
        ({"entropy": 0.03}, "the entropy fell from 0.400 to 0.030"),
        ({"mid": SEEN | {"length": 90.0}}, "the length went from 40 to 90"),
        ({"mid": SEEN | {"length": 15.0}}, "the length went from 40 to 15"),
        ({"mid": SEEN | {"boxed": 1.0, "correct": 0.35}}, "the form climbed from 80% to 100% while right answers fell"),
        ({"drift": 0.3}, "the samples are not the trained model's"),
        ({"hard": SEEN | {"reward": 0.1, "length": 120.0}}, None),  # another level is another matter
    ],
)
def test_the_alarm_hears_each_kind_of_collapse_and_nothing_else(last, says):
    heard = alarm([step(i) for i in range(1, 5)] + [step(i, **last) for i in (5, 6)], POINTS, content=True)
    assert heard is None if says is None else says in heard


def test_the_alarm_hears_a_fall_on_dev_that_is_no_chance():
    fallen = {"accuracy": 0.29, "n": 200}
    assert "fell from 40.0% to 29.0%" in alarm([step(1)], [*POINTS, fallen], content=False)
    few = [{"accuracy": 0.05, "n": 120}, {"accuracy": 0.033, "n": 120}]  # 6 and 4 of 120
    assert alarm([step(1)], few, content=False) is None


def test_the_alarm_hears_weights_that_stay_from_the_start_or_from_some_step_on():
    assert "no weight has moved in 2 steps" in alarm([step(i, moved=0.0) for i in (1, 2)], POINTS, content=False)
    assert "no weight has moved in 2 steps" in alarm([step(i, moved=1.0) for i in (1, 2, 3)], POINTS, content=False)
    assert alarm([step(1, moved=0.0)], POINTS, content=False) is None
    short = {"mid": SEEN | {"length": 15.0}}
    assert alarm([step(i) for i in range(4)] + [step(i, **short) for i in (5, 6)], POINTS, content=False) is None


def answer(text: str, finish: str = "stop", tokens: int = 10) -> Completion:
    return Completion("p6", text, 0, 0, tokens, finish)


def test_blame_falls_on_the_first_step_that_is_wrong(tiny, tmp_path, monkeypatch, losses):
    model, tokenizer = adapted(tiny)

    def blamed(text: str) -> str:
        ids = encode(tokenizer, text)
        mask = samples.blamed(tokenizer, PROBLEMS[0], answer(text), ids)
        assert len(mask) == len(ids)
        return tokenizer.decode([token for token, one in zip(ids, mask, strict=True) if one])

    wrong = "<think>\n6 + 0 = 6\n6 + 6 = 13\n13 + 1 = 15\n</think>\n\\boxed{15}"
    assert blamed(wrong).strip() == "6 + 6 = 13"
    twice = "<think>\n16 + 6 = 22\n6 + 6 = 22\n</think>\n\\boxed{22}"
    assert blamed(twice).strip() == "6 + 6 = 22"
    right, unclear = wrong.replace("15}", "12}"), "<think>\n6 + 1 = 7\n</think>\n\\boxed{7}"
    assert blamed(right) == right and blamed(unclear) == unclear
    monkeypatch.setattr(rl, "blamed", lambda tokenizer, problem, completion, ids: [i % 2 for i in range(len(ids))])
    train(model, tokenizer, Task(length_reward), replace(SETTINGS, blame="step"), tmp_path)
    assert losses and all(i["tool_mask"][0].tolist()[:4] == [0, 1, 0, 1] for i in losses)


PREFIXES = ("<think></think>\n", "<think>\n")


def direct_pays(problem, completion):
    return float(completion.text.startswith(PREFIXES[0]))


def test_with_prefixes_only_the_choice_is_trained(tiny, tmp_path, losses):
    """Nothing reaches TRL's loss after the token in which the prefixes differ, and its ratio is to a fair coin."""
    model, tokenizer = adapted(tiny)
    task = Task(direct_pays, PREFIXES)
    train(model, tokenizer, task, SETTINGS, tmp_path, "adaptive")
    assert len(losses) == 4
    for inputs in losses:
        assert (inputs["completion_mask"] * inputs["tool_mask"]).tolist() == [[0, 1]] * 4
        torch.testing.assert_close(inputs["old_per_token_logps"][:, 1].exp(), torch.full((4,), 0.5))


def test_the_choice_that_pays_is_learnt(tiny, tmp_path):
    model, tokenizer = adapted(tiny)
    task = Task(direct_pays, PREFIXES)

    def preference() -> float:
        logits = model(torch.tensor([encode(tokenizer, samples.asked(tokenizer, PROBLEMS[0]) + "<think>")])).logits[
            0, -1
        ]
        direct, think = (encode(tokenizer, prefix)[1] for prefix in PREFIXES)
        return float(logits[direct] - logits[think])

    before = preference()
    settings = RlSettings(**{**SETTINGS.__dict__, "steps": 8, "probe": 0, "learning_rate": 1e-2})
    train(model, tokenizer, task, settings, tmp_path, "adaptive")
    assert preference() > before + 0.5


def test_a_choice_is_held_against_what_the_stage_before_earned(tiny, tmp_path, losses):
    """AdaptThink's advantage: the untrained model is right on nothing, so what is earned is the advantage whole, where
    a group's mean would take half of it away."""
    model, tokenizer = adapted(tiny)
    settings = replace(SETTINGS, reference=1, temperature=0.0, probe=0)
    train(model, tokenizer, Task(direct_pays, PREFIXES), settings, tmp_path, "adaptive")
    values = [value for inputs in losses for value in inputs["advantages"].tolist() if value]
    assert values == [1.0] * 8  # two steps' direct ones; what has no advantage is left out
    assert set(json.loads((tmp_path / "reference.json").read_text()).values()) == {0.0}


def test_against_a_reference_one_sample_a_problem_at_once_will_do(tiny, tmp_path, losses):
    model, tokenizer = adapted(tiny)
    settings = replace(SETTINGS, reference=1, temperature=0.0, probe=0, samples=1, prompts=8, micro_batch=8, steps=1)
    train(model, tokenizer, Task(direct_pays, PREFIXES), settings, tmp_path, "adaptive")
    [inputs] = losses
    assert inputs["advantages"].tolist() == [1.0] * 8
    # Each begins at once, and of what it went on to write nothing is trained.
    assert {tokenizer.decode(ids[:2]) for ids in inputs["completion_ids"]} == {"<think></think>"}
    assert (inputs["completion_mask"] * inputs["tool_mask"]).sum(-1).tolist() == [1] * 8
    assert len({tuple(ids.tolist()) for ids in inputs["prompt_ids"]}) > 1


def test_budgets_are_asked_for_in_turn_and_going_beyond_costs(tiny, tmp_path, monkeypatch):
    model, tokenizer = adapted(tiny)
    texts = []
    original = rl.sample

    def note(model, tokenizer, prompts, *rest):
        texts.extend(prompts)
        return original(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(rl, "sample", note)
    task = Task(lambda problem, completion: 1.0, PREFIXES, (0, 8))
    train(model, tokenizer, task, replace(SETTINGS, probe=0, tries=1), tmp_path, "adaptive_budget")
    found = [re.findall(r"at most (\d+) tokens", text) for text in texts]
    assert found == [["0"]] * 4 + [["8"]] * 4 + [["0"]] * 4 + [["8"]] * 4  # a group is asked for one
    [problem] = PROBLEMS[:1]
    thoughts = [replace(answer(""), thinking_tokens=n) for n in (0, 8, 24, 40, 60)]
    assert [task.earned(problem, thought, 8) for thought in thoughts] == [0.625, 0.5, 0.25, 0.0, 0.0]
    assert task.earned(problem, thoughts[-1], None) == 1.0
    kept, point = {"reward": 0.4, "tokens": 30.0, "accuracy": 0.5}, {"reward": 0.5, "tokens": 40.0, "accuracy": 0.4}
    assert task.better(point, kept, kept, 0.0) and not task.better(kept, point, kept, 0.0)


def sometimes(problem, completion):
    return length_reward(problem, completion) if int(problem.answer) % 4 else 0.0


@pytest.mark.parametrize("variant", ["dapo", "dr_grpo", "gspo"])
def test_leaving_out_rows_and_columns_and_sharing_prompts_keeps_the_gradient(
    tiny, tmp_path, monkeypatch, variant, losses
):
    """The same step with TRL's own loss and with ours."""
    gradients = []
    for ours in (True, False):
        with monkeypatch.context() as patch:
            if not ours:
                patch.delattr(rl.Trainer, "_compute_loss")
                patch.delattr(rl.Trainer, "_get_per_token_logps_and_entropies")
            model, tokenizer = adapted(tiny)
            seen: dict[str, torch.Tensor] = {}
            step = torch.optim.AdamW.step

            def note(self, *args, seen=seen, model=model, step=step, **kwargs):
                seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
                return step(self, *args, **kwargs)

            patch.setattr(torch.optim.AdamW, "step", note)
            folder = tmp_path / str(ours)
            one = RlSettings(**{**SETTINGS.__dict__, "steps": 1, "prompts": 4, "micro_batch": 8, "variant": variant})
            one = replace(one, tries=1)  # so that groups without a signal are among them
            train(model, tokenizer, Task(sometimes), one, folder)
            gradients.append(seen)
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)
