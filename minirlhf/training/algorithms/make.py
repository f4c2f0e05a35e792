"""The algorithm that the settings name. A new one is one more file and one line in ALGORITHMS,
beside its name and its settings in config.py.

An algorithm is made once and holds all that it needs from update to update: optimizer,
learning-rate schedule, KL weight, value model. The loop (finetune.py) asks for no more than this:

    update(rollout, step)   one update of the policy in place; returns what to log
    group_size              texts to sample per prompt, which then stand in a row
    modules, optimizers     what a checkpoint must hold beside the policy
    states                  the rest of its state: objects whose state_dict is plain JSON

DPO is not among them: it learns from comparisons, in a loop of its own (training/dpo.py).
"""

from __future__ import annotations

from collections.abc import Callable

from minirlhf.config import Config, FinetuneConfig
from minirlhf.settings import option
from minirlhf.system import distributed
from minirlhf.training.algorithms.policy_gradient import PolicyGradient, grpo, reinforce, rloo
from minirlhf.training.algorithms.ppo import PPO
from minirlhf.training.algorithms.trpo import TRPO
from minirlhf.training.batches import Corpus
from minirlhf.training.rollout import Models

Algorithm = PolicyGradient | PPO | TRPO
ALGORITHMS: dict[str, Callable[[Models, Config, Corpus | None], Algorithm]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "ppo": PPO,
    "trpo": TRPO,
}


def make_algorithm(models: Models, config: Config, corpus: Corpus | None = None) -> Algorithm:
    """The algorithm of `config.finetune`, for these models.

    `corpus`: unscored texts, for an algorithm that mixes them in. Raises ValueError for an update
    that the processes of torchrun cannot share.
    """
    check_processes(config.finetune)
    if config.finetune.algorithm not in ALGORITHMS:
        raise ValueError(
            f"--finetune.algorithm: expected one of {', '.join(ALGORITHMS)}, which learn from "
            f"rollouts, found {config.finetune.algorithm}"
        )
    return ALGORITHMS[config.finetune.algorithm](models, config, corpus)


def check_processes(settings: FinetuneConfig) -> None:
    """Raises ValueError unless the processes of torchrun can share an update's texts evenly."""
    processes = distributed.world_size()
    if processes == 1:
        return
    if settings.algorithm not in ALGORITHMS:
        raise ValueError(
            f"--finetune.algorithm: expected one of {', '.join(ALGORITHMS)} with more than one "
            f"process, found {settings.algorithm}"
        )
    own, parts = settings.of_algorithm, {"--finetune.batch-size": settings.batch_size}
    # An update may take parts of the batch, which must be shared evenly, too.
    if name := getattr(own, "texts_at_once", ""):
        parts[option(own.place + name)] = getattr(own, name)
    for name, texts in parts.items():
        if min(texts, settings.batch_size) % processes:
            raise ValueError(
                f"{name}: expected a multiple of the {processes} processes, found {texts}"
            )
