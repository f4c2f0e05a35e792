"""The optimizers: AdamW for the policy gradient, Muon beside AdamW for learning from a fixed data set."""
from __future__ import annotations

import torch
from torch import Tensor, nn


def adamw(module: nn.Module, learning_rate: float, weight_decay: float, betas=(0.9, 0.95)) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only (not on norms and biases)."""
    parameters = list(module.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def muon_and_adamw(
    module: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """For learning from a fixed data set: Muon (Jordan et al. 2024) on the matrices of all blocks, AdamW on all else.

    Muon makes each step of a matrix orthogonal, so that all its directions learn at one pace. On this task it reaches the loss
    of AdamW with less than half of the texts.
    """
    matrices = [p for name, p in module.named_parameters() if "blocks." in name and p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0,
                              fused=rest[0].device.type in ("cpu", "cuda"))]


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str, where: str) -> None:
    """Fill the optimizer's moments from tensors named PREFIX/index/name; its settings stay.

    Raises ValueError naming `where` and the first moment that is of another shape than its weight or not finite.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            wanted = parameters[int(index)].shape if tensor.dim() else tensor.shape  # a count of steps has no shape
            if tensor.shape != wanted or not tensor.isfinite().all():
                raise ValueError(f"{where}: {name}: expected finite numbers of shape {tuple(wanted)}, found "
                                 + (f"shape {tuple(tensor.shape)}" if tensor.shape != wanted else "NaN or inf"))
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
