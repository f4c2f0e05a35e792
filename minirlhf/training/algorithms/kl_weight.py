"""The price of KL (KL 惩罚): how many reward units one nat of distance to the reference costs."""

from __future__ import annotations

from minirlhf import equations
from minirlhf.training.rollout import Rollout

STEP = 0.04  # the weight moves by at most this share per update


class KLWeight:
    """A constant weight, or with a target one that is adapted so that the KL stays near it.

    Where the KL of whole texts (nats) is above the target the weight rises, where it is below it
    falls. Source: Ziegler et al. 2019, section 2.2.
    """

    def __init__(self, weight: float, target: float | None):
        self.weight, self.target = weight, target

    def adapt(self, rollout: Rollout) -> None:
        if self.target is None:
            return
        kl = equations.kl_k1(rollout.log_probs, rollout.reference_log_probs, rollout.mask)
        error = float(kl.sum(1).mean()) / self.target - 1
        self.weight *= 1 + STEP * max(-1.0, min(1.0, error))

    def state_dict(self) -> dict:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict) -> None:
        self.weight = state["weight"]
