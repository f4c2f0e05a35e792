"""Steps 3 and 4 of section 3.2: the loop that turns scores into a better writer (语言模型微调, 迭代优化).

for each update:
    sample texts from the policy            (rollout.py)
    score every prefix, measure the KL      (rollout.py)
    one update of the policy                (reinforce.py, ppo.py or trpo.py)
    log it, warn if something goes wrong    (diagnostics.py)
between rounds: have new texts rated, refit the reward model, go on
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minirlhf import equations
from minirlhf.config import FinetuneConfig
from minirlhf.feedback.records import Triple
from minirlhf.feedback.splits import without
from minirlhf.models.policy import Policy
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.sampling import sample
from minirlhf.models.value_model import ValueModel
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.stats import correlation
from minirlhf.system import distributed
from minirlhf.system.devices import autocast, release_freed_memory
from minirlhf.system.seeds import step_seed
from minirlhf.tasks.task import Task, rated
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.policy_gradient import reinforce
from minirlhf.training.algorithms.ppo import ppo
from minirlhf.training.algorithms.trpo import trpo
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.diagnostics import diagnose
from minirlhf.training.optimizers import adamw, gradient_step, set_learning_rate
from minirlhf.training.pretrain import language_model_loss
from minirlhf.training.rollout import Rollout, collect
from minirlhf.training.train_reward_model import ScoredTexts, fit_reward, refit_config


def finetune(
    run: Run,
    task: Task,
    tokenizer: Tokenizer,
    policy: Policy,
    reward_model: RewardModel,
    feedback: list[Triple],
    heldout: list[Triple],
) -> tuple[Policy, RewardModel, int]:
    """Fine-tune `policy` in place; return it, the reward model (refitted where raters could be asked) and how many new
    texts were rated. `feedback` and `heldout` are the reward model's training and held-out triples."""
    config, device = run.config.finetune, run.device
    config.check()
    check_share(config)
    reference = policy.frozen_copy()
    models = {"policy": policy, "reward_model": reward_model}
    if config.algorithm == "ppo":
        models["value"] = (
            ValueModel(policy.config.width).to(device)
            if config.ppo.value == "shared"
            else ValueModel.from_reward_model(reward_model)
        )
    learner = nn.ModuleList(model for name, model in models.items() if name != "reward_model")
    learning_rate = config.ppo.learning_rate if config.algorithm == "ppo" else config.learning_rate
    optimizer = adamw(learner, learning_rate, weight_decay=0.0)  # TRPO takes no step with it
    pretraining_loss = mixed_in(run, task, tokenizer, policy)
    checkpoints = Checkpoints(run, "finetune", models, optimizer)
    state = checkpoints.resume() or {
        "step": 0,
        "kl_weight": config.kl_weight,
        "collected": 0,
        "refits": 0,
    }
    kl_weight, refits = state["kl_weight"], state["refits"]
    collected = [
        Triple(row["topic"], row["text"], row["score"], tuple(row["ratings"]), row["provenance"])
        for row in run.read("collected.jsonl")[: state["collected"]]
    ]
    rounds = config.rounds if task.raters else 1
    starts = [
        round(index * config.updates / rounds) for index in range(rounds)
    ]  # first update of each round
    longest = run.config.model.context - config.max_new_tokens
    prompts = {topic: tokenizer.encode_prompt(topic)[-longest:] for topic in task.train_prompts}
    group = (
        config.group_size if config.algorithm in ("rloo", "grpo") else 1
    )  # texts of one prompt, in a row
    history = [row for row in run.read("metrics.jsonl") if row["stage"] == "finetune"]

    bar = tqdm(
        range(state["step"], config.updates),
        desc="finetune",
        unit="update",
        initial=state["step"],
        total=config.updates,
    )
    for update in bar:
        if (
            update in starts[1:] and (index := starts.index(update)) > refits
        ):  # not if resumed right after it
            collected += ask_raters(run, task, tokenizer, policy, prompts, index)
            run.rewrite("collected.jsonl", [vars(triple) for triple in collected])
            context = run.config.model.context
            draw = random.Random(step_seed(run.config.seed, "old feedback", index))
            old = draw.sample(feedback, min(len(feedback), len(collected)))
            fit_reward(
                run,
                reward_model,
                ScoredTexts(tokenizer, old + without(collected, heldout), context),
                ScoredTexts(tokenizer, heldout, context),
                refit_config(run.config.reward, config.refit_steps),
                stage=f"refit {index}",
            )
            distributed.broadcast_weights(reward_model)
            refits = index
            release_freed_memory()
            checkpoints.save(update, kl_weight=kl_weight, collected=len(collected), refits=refits)

        drawn = draw_topics(
            task.train_prompts, config.batch_size // group, run.generator("topics", update)
        )
        topics = [topic for topic in drawn for _ in range(group)]
        rollout = collect(
            policy,
            reference,
            reward_model,
            tokenizer,
            [prompts[topic] for topic in topics],
            config.max_new_tokens,
            run.generator("rollout", update, device),
        )
        set_learning_rate(
            optimizer,
            learning_rate * min(1.0, (update + 1) / 5) * (1 - 0.9 * update / config.updates),
        )
        if config.algorithm == "trpo":
            metrics = trpo(policy, rollout, advantages(rollout, config, kl_weight), config.trpo)
        elif config.algorithm == "ppo":
            metrics = ppo(
                policy,
                models["value"],
                optimizer,
                rollout,
                config,
                kl_weight,
                run.generator("ppo", update),
                pretraining_loss and (lambda number: pretraining_loss(update, number)),
            )
        else:
            loss, metrics = reinforce(policy, rollout, config, kl_weight)
            metrics["gradient_norm"] = gradient_step(
                loss, optimizer, [policy], config.gradient_clip
            )

        row = {
            "stage": "finetune",
            "step": update + 1,
            "seconds": round(checkpoints.seconds, 3),
            **summarise(rollout, topics, task, metrics),
            "kl_weight": kl_weight,
            "round": sum(start <= update for start in starts),
            "samples": (update + 1) * config.batch_size,
        }
        history.append(row)
        if warnings := diagnose(history, config):
            row["warnings"] = warnings
            for message in warnings.values() if distributed.rank() == 0 else ():
                tqdm.write(f"warning at update {update + 1}: {message}", file=sys.stderr)
        run.append("metrics.jsonl", [row])
        if update % max(1, config.updates // 8) == 0:
            run.append("samples.jsonl", [sample_row(rollout, topics, task, update + 1)])
        bar.set_postfix_str(
            f"reward {row['reward']:.2f}, judge {row['judge']:.2f}, KL {row['kl_nats']:.1f} nats"
        )
        if config.kl_target is not None:
            # Ziegler et al. 2019: turn the weight up where the KL is above its target, at most 4% a step.
            kl_weight *= 1 + 0.04 * max(-1.0, min(1.0, row["kl_nats"] / config.kl_target - 1))
        checkpoints.maybe_save(
            update + 1, kl_weight=kl_weight, collected=len(collected), refits=refits
        )
    return policy, reward_model, len(collected)


def check_share(config: FinetuneConfig) -> None:
    """Raises ValueError unless the processes that torchrun started can share an update's texts evenly."""
    if distributed.world_size() > 1:
        if config.algorithm in ("ppo", "trpo"):
            raise ValueError(
                f"algorithm: expected reinforce, rloo or grpo with more than one process, found {config.algorithm}"
            )
        if config.batch_size % distributed.world_size():
            raise ValueError(
                f"batch_size: expected a multiple of the {distributed.world_size()} processes, found {config.batch_size}"
            )


def mixed_in(
    run: Run, task: Task, tokenizer: Tokenizer, policy: Policy
) -> Callable[[int, int], Tensor] | None:
    """The pretraining loss of PPO-ptx as a function of (update, minibatch), or None where its weight is 0."""
    settings = run.config.finetune.ppo
    if run.config.finetune.algorithm != "ppo" or settings.pretraining_weight == 0:
        return None
    texts = EncodedTexts(tokenizer, task.corpus, run.config.model.context)

    def loss(update: int, number: int) -> Tensor:
        batch = texts.random_batch(
            settings.minibatch_size,
            run.config.seed,
            f"pretraining mix {update}",
            number,
            run.device,
        )
        with autocast(run.device):
            return language_model_loss(policy, batch)

    return loss


def sample_row(rollout: Rollout, topics: list[str], task: Task, step: int) -> dict:
    """One text of the first training topic, for samples.jsonl: how the writing changes as training goes on."""
    index = topics.index(task.train_prompts[0]) if task.train_prompts[0] in topics else 0
    kl = equations.kl_k1(
        rollout.log_probs[index : index + 1],
        rollout.reference_log_probs[index : index + 1],
        rollout.mask[index : index + 1],
    ).sum()
    return {
        "stage": "finetune",
        "step": step,
        "when": f"step {step}",
        "split": "train",
        "topic": topics[index],
        "text": rollout.texts[index],
        "reward": float(rollout.reward[index]),
        "judge": task.judge(topics[index], rollout.texts[index]),
        "kl_nats": float(kl),
        "length_tokens": int(rollout.mask[index].sum()),
    }


def draw_topics(topics: list[str], count: int, generator: torch.Generator) -> list[str]:
    """`count` topics, each as often as any other but for the remainder."""
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(topics), generator=generator).tolist()
    return [topics[index] for index in order[:count]]


def ask_raters(
    run: Run,
    task: Task,
    tokenizer: Tokenizer,
    policy: Policy,
    prompts: dict[str, list[int]],
    index: int,
) -> list[Triple]:
    """Step 4 of section 3.2: sample with the present policy, have the texts rated (those too that were cut off)."""
    config = run.config.finetune
    topics = draw_topics(
        task.train_prompts, config.ratings_per_round, run.generator("rated topics", index)
    )
    generator, triples = run.generator("rated texts", index, run.device), []
    for start in range(0, len(topics), config.batch_size):
        part = topics[start : start + config.batch_size]
        with autocast(run.device):
            samples = sample(
                policy,
                [prompts[topic] for topic in part],
                config.max_new_tokens,
                tokenizer.end_id,
                randomness=generator,
            )
        texts = [tokenizer.decode_text(ids) for ids in samples.ids()]
        triples += [rated(task, topic, text, run.config.seed) for topic, text in zip(part, texts)]
    return triples


def summarise(
    rollout: Rollout, topics: list[str], task: Task, metrics: dict[str, torch.Tensor]
) -> dict[str, float]:
    """One line of metrics.jsonl; all tensors come to the CPU in one copy."""
    kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, rollout.mask).sum(1).mean()
    values = {
        "reward": rollout.reward.mean(),
        "reward_std": rollout.reward.std(),
        "kl_nats": kl,
        "length_tokens": rollout.mask.sum(1).float().mean(),
        "ended": rollout.ended.float().mean(),
        **metrics,
    }
    numbers = dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist()))
    judged = [task.judge(topic, text) for topic, text in zip(topics, rollout.texts)]
    # How far the reward model is off on the policy's own texts, which is where it will be exploited.
    reward, judge = rollout.reward.float().cpu(), torch.tensor(judged)
    return numbers | {
        "judge": statistics.fmean(judged),
        "distinct": len(set(rollout.texts)) / len(judged),
        "reward_judge_mse": (reward - judge).square().mean().item(),
        "reward_judge_pearson": correlation(reward, judge),
    }
