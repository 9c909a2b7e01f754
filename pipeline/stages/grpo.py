"""Stage 4 by GRPO (arXiv 2402.03300, section 4.1): TRL's trainer as it is, through its public hooks.

Three things are added to a plain run. Samples of dev problems say first whether there is anything to learn. A group of
samples that all earn the same carries no gradient, and is replaced by another problem's (DAPO, arXiv 2503.14476,
section 3.2). And a training that collapses is stopped. The adapter that is best on dev is kept, which may be the one
that the training began with.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from data.files import UserError, read_json, write_json
from data.problem import Problem
from pipeline import processes
from pipeline.alarms import AlarmCallback
from pipeline.fast_training import speed_up_training
from pipeline.forward import router_arguments
from pipeline.learnability import Learnability, estimate_learnability
from pipeline.memory import fit_batch
from pipeline.models.adapters import save_adapter
from pipeline.problem_sampler import ProblemSampler
from pipeline.progress import progress_bar, say
from pipeline.prompts import encode_prompt
from pipeline.rewards import combine_rewards
from pipeline.rollouts import GroupSampler, RolloutFunction, build_reward_functions
from pipeline.settings import RlSettings
from pipeline.stages.stage import TrainingContext
from pipeline.training import (
    DevScoring,
    build_callbacks,
    build_common_settings,
    build_config,
    build_dev_scorer,
    count_batch_rows,
    find_last_checkpoint,
    read_curve,
    split_batch,
)

# A GRPOConfig. Its hints call optional what it has filled in.
Config = Any

# Below so many samples, published runs on models of this size gain next to nothing.
SAMPLES_KNOWN_TO_HELP = 90_000


class DevScoredGrpoTrainer(DevScoring, GRPOTrainer):
    """TRL's GRPO trainer with scores on dev."""


def train_grpo(context: TrainingContext) -> Path:
    """Train the parent's adapter further and return the folder of the best adapter on dev."""
    return GrpoTraining(context).run()


class GrpoTraining:
    """One GRPO training, in the order in which it is done."""

    def __init__(self, context: TrainingContext) -> None:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise UserError("rl: GRPO cannot train sharded weights; start it with recipes/accelerate/ddp.yaml")

        self.context = context
        self.settings: RlSettings = context.settings
        self.label = context.stage.name
        self.work = context.work
        self.recipe = context.run.recipe
        self.trainer_settings = self.settings.grpo.trainer

        # Before the model is loaded, which takes longer than to find that there is nothing to do.
        self.pools = group_by_level(context.train_problems())
        if not self.pools:
            raise UserError(f"{self.label}: no problem to draw from; change rl.problems")

        self.dev = context.dev_problems()
        self.model, self.tokenizer = context.load_model(context.parent_adapter, trainable=True)

    def run(self) -> Path:
        """Estimate what there is to learn, train, and return the folder of the best adapter on dev."""
        # The configuration and the trainer both depend on it.
        self.checkpoint = processes.on_main_process(lambda: find_last_checkpoint(self.work))
        batch = split_batch(self.trainer_settings, self.label)
        config = self.build_grpo_config(batch)
        self.warn_of_few_samples(config)

        sampler = GroupSampler(
            tokenizer=self.tokenizer,
            reward=combine_rewards(self.settings.rewards, self.settings.reward_weights),
            size=config.num_generations,
            max_new_tokens=config.max_completion_length,
            temperature=config.temperature,
        )
        problems = ProblemSampler(self.pools, self.estimate_rates(sampler), self.context.seed)
        rollouts = RolloutFunction(sampler, problems, self.settings.grpo.max_resample, self.context.seed)

        trainer = self.build_trainer(config, rollouts)
        fitting = fit_batch(trainer.model, batch, self.measure_longest_row(config), self.label)
        if fitting != batch:
            trainer = self.build_trainer(self.build_grpo_config(fitting), rollouts)

        trainer.train(resume_from_checkpoint=self.checkpoint)
        return self.keep_best(trainer)

    def build_grpo_config(self, batch: Mapping[str, int]) -> Config:
        """Return the recipe's trainer block as TRL's configuration, with what the pipeline sets itself."""
        run_name = f"{self.context.run.base}/{self.label}"
        common = build_common_settings(self.model, self.work, self.context.seed, self.recipe.report_to, run_name)
        trainer = self.trainer_settings
        forced = {
            # What is sampled without dropout is trained without it.
            "disable_dropout": True,
            "reward_weights": self.settings.reward_weights,
            "metric_for_best_model": "eval_accuracy",
            "greater_is_better": True,
            "load_best_model_at_end": True,
            # The log of a checkpoint has the first point already.
            "eval_on_start": self.checkpoint is None,
            "router_aux_loss_coef": 0.0 if router_arguments(self.model) else None,
            # TRL wants whole groups here too, although dev is scored by our own evaluation.
            "per_device_eval_batch_size": trainer["num_generations"],
        }

        return build_config(GRPOConfig, {**common, **trainer, **forced, **batch}, "rl.grpo.trainer")

    def warn_of_few_samples(self, config: Config) -> None:
        """Say where the recipe takes fewer samples than are known to help."""
        samples = config.max_steps * count_batch_rows(self.trainer_settings) // config.num_iterations
        if samples < SAMPLES_KNOWN_TO_HELP:
            say(
                f"{self.label}: the recipe takes {samples:,} samples; GRPO at this size is known to gain from about "
                f"{SAMPLES_KNOWN_TO_HELP:,} on (rl.algorithm=expert_iteration gains from fewer)"
            )

    def estimate_rates(self, sampler: GroupSampler) -> dict[str, float]:
        """Return the pass rates by level of samples of dev problems; none where the recipe takes no samples.

        Raises:
            NoSignal: where no group of samples is mixed.
        """
        size = self.settings.learnability.samples
        if not size:
            return {}

        # A training that goes on from a checkpoint must draw by the same rates.
        path = self.work / "learnability.json"
        if not processes.on_main_process(path.is_file):
            estimate = self.sample_dev(replace(sampler, size=size))
            processes.on_main_process(lambda: write_json(path, vars(estimate)))

        found = Learnability(**processes.on_main_process(lambda: read_json(path)))
        say(
            f"{self.label}: of {found.problems} dev problems {found.pass_at_1:.0%} are solved by one sample, "
            f"{found.pass_at_k:.0%} by {found.samples}; {self.label} {found.describe()}"
        )
        found.check(self.label)
        return found.rates

    def sample_dev(self, sampler: GroupSampler) -> Learnability:
        """Sample some dev problems of each level that is trained on."""
        levels = []
        problems = []
        for level, pool in group_by_level(self.dev).items():
            if level in self.pools:
                part = pool[: self.settings.learnability.problems_per_level]
                levels += [level] * len(part)
                problems += part

        if not problems:
            raise UserError(f"{self.label}: no dev problem is of the training problems' levels; raise rl.dev")

        with progress_bar(f"{self.label}: sampling dev problems", len(problems) * sampler.size) as on_progress:
            groups = sampler.sample(self.model, problems, self.context.seed, on_progress)
        return estimate_learnability(levels, groups)

    def build_trainer(self, config: Config, rollouts: RolloutFunction) -> DevScoredGrpoTrainer:
        """Return TRL's trainer with our rollouts, rewards and scores on dev."""
        # Which problem a row stands for is decided when it is sampled.
        rows = config.generation_batch_size // config.num_generations
        dataset = Dataset.from_list([{"prompt": str(i)} for i in range(rows)])

        trainer = DevScoredGrpoTrainer(
            model=self.model,
            args=config,
            reward_funcs=build_reward_functions(self.settings.rewards, rollouts),
            rollout_func=rollouts,
            train_dataset=dataset,
            # transformers wants one where there are evaluations; ours reads no row of it.
            eval_dataset=dataset,
            processing_class=self.tokenizer,
            callbacks=[AlarmCallback(self.model, self.work), *build_callbacks(self.work, self.label)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.score_dev = build_dev_scorer(
            self.tokenizer, self.dev, self.recipe.eval.generation, self.recipe.eval.batch_size
        )
        if self.recipe.base.fast_training:
            speed_up_training(trainer.model, config.temperature)
        return trainer

    def measure_longest_row(self, config: Config) -> int:
        """Return the tokens of the longest prompt with the longest completion."""
        longest = 0
        for problem in itertools.chain(*self.pools.values()):
            prompt = encode_prompt(self.tokenizer, problem, "think")
            longest = max(longest, len(prompt))
        return longest + config.max_completion_length

    def keep_best(self, trainer: DevScoredGrpoTrainer) -> Path:
        """Return the folder of the best adapter on dev, and say where that is not the last one."""
        # The first of equals is taken: training must have gained something.
        curve = read_curve(trainer.state.log_history)
        best = max(curve, key=lambda point: point["accuracy"])
        alarm = self.work / "alarm.txt"
        if processes.on_main_process(alarm.is_file):
            say(f"{self.label}: {alarm.read_text().strip()}; the adapter of step {best['step']} is kept")

        if best["step"] == 0:
            assert self.context.parent_adapter is not None
            say(f"{self.label}: GRPO came to nothing better on dev, so the adapter that it started from is kept")
            return self.context.parent_adapter

        # The trainer has loaded its best checkpoint.
        return save_adapter(trainer.model, self.work / "final")


def group_by_level(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Return problems by kind of answer and level ("number 2")."""
    groups: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: (problem.kind, problem.level)):
        groups.setdefault(f"{problem.kind} {problem.level}", []).append(problem)
    return groups
