"""Steps 3 and 4 of section 3.2: the loop that turns scores into a better writer (语言模型微调,
迭代优化).

for each update:
    between rounds: have new texts rated, refit the reward model      (ratings.py)
    draw prompts, sample a text for each from the policy              (rollout.py)
    score every prefix, measure the KL                                (rollout.py)
    one update of the policy                                          (algorithms/)
    log it, warn if something goes wrong                              (rollout_log.py)
"""

from __future__ import annotations

from minirlhf.config import Config
from minirlhf.feedback.records import Triple
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.task import Task
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.batches import Split, corpus_of
from minirlhf.training.log import CheckpointKeeper, NoCheckpoints, TrainLog
from minirlhf.training.prompts import Prompts
from minirlhf.training.ratings import RatingRounds
from minirlhf.training.rollout import Models, collect
from minirlhf.training.rollout_log import RolloutLog


def finetune(
    models: Models,
    task: Task,
    config: Config,
    feedback: Split[list[Triple]],
    log: TrainLog | None = None,
    checkpoints: CheckpointKeeper | None = None,
) -> list[Triple]:
    """Fine-tune the policy in place, and refit the reward model where raters can be asked.

    Returns what was rated on the way. `feedback`: the triples that the reward model was trained on,
    and its held-out ones. Without `log` the rows stay in memory, without `checkpoints` an
    interruption loses the work.
    """
    settings, seed = config.finetune, config.seed
    log, checkpoints = log or TrainLog("finetune"), checkpoints or NoCheckpoints()
    algorithm = make_algorithm(models, config, corpus_of(task))
    prompts = Prompts(models, task.train_prompts, settings, algorithm.group_size, seed)
    ratings = RatingRounds(models, task, config, feedback, log)
    rollout_log = RolloutLog(log, task, settings, models)
    start = checkpoints.resume(
        {"policy": models.policy.learned, "reward_model": models.reward_model, **algorithm.modules},
        algorithm.optimizers,
        {"log": log, "ratings": ratings, **algorithm.states},
    )

    for update in log.steps(start, settings.updates, unit="update"):
        # Step 4, between rounds: people or programs rate what the policy writes now.
        if ratings.rate_and_refit_if_due(update):
            checkpoints.save(update)  # nobody is asked twice

        # Step 3: sample texts, score them and learn from the scores.
        topics, batch = prompts.draw(update)
        generator = step_generator(seed, "rollout", update, models.device)
        rollout = collect(models, batch, settings.max_new_tokens, generator)
        metrics = algorithm.update(rollout, update)

        metrics["round"] = ratings.round_of(update)
        rollout_log.write(update, topics, rollout, metrics)
        checkpoints.maybe_save(update + 1)
    return ratings.collected
