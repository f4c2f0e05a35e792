"""Early stopping (早停): remember the weights of the lowest held-out loss."""

from __future__ import annotations

import copy
import math

from torch import nn

from minirlhf.system.weights import load_weights, weights


class BestModel:
    """The weights of the lowest held-out loss, and how many evaluations have not been better."""

    def __init__(self, model: nn.Module, patience: int):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.patience, self.loss, self.worse = patience, math.inf, 0

    @property
    def out_of_patience(self) -> bool:
        return self.worse >= self.patience

    def offer(self, model: nn.Module, loss: float) -> None:
        if loss < self.loss:  # false for NaN
            self.loss, self.worse = loss, 0
            load_weights(self.model, weights(model), "best")
        else:
            self.worse += 1

    def state_dict(self) -> dict:
        return {"loss": self.loss, "worse": self.worse}

    def load_state_dict(self, state: dict) -> None:
        self.loss, self.worse = state["loss"], state["worse"]
