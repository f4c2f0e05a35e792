"""The optimizers: AdamW for the policy gradient, Muon and AdamW for a fixed data set."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minirlhf.config import OptimizerConfig, SFTConfig
from minirlhf.models.soft_prompt import VECTORS
from minirlhf.system import distributed
from minirlhf.system.devices import precision_of

# Jordan et al. 2024: the quintic a x + b x^3 + c x^5 that lifts small singular values fastest.
# Repeated, it does not settle at 1 but keeps them within about 0.7 to 1.2, which is all that a step
# needs.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)

# Of fine-tuning: Adam knows nothing of the gradient's size at first, and near the end small steps
# lose least.
WARMUP_UPDATES = 5
FINAL_SHARE = 0.1


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix whose singular values are all near 1: for U S V^T about U V^T.

        X <- X / |X|_F,  then repeatedly  A <- X X^T,  X <- a X + (b A + c A A) X

    Same shape (rows, columns), float32. This is Newton-Schulz iteration: matrix products only, no
    decomposition. The products are
    bfloat16 where the device multiplies that quickly (`devices.precision_of`), and float32
    elsewhere: a CPU without such instructions takes a hundred times as long.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # (short, long): the Gram matrix A is the small one
    # The Frobenius norm bounds the largest singular value: all of them start in [0, 1].
    x = x / x.norm().clamp(min=1e-7)
    if precision_of(matrix.device) == "bfloat16":
        x = x.bfloat16()
    for _ in range(iterations):
        gram = x @ x.T  # (short, short)
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), for weight matrices: momentum whose every step is orthogonalized.

        M <- mu M + (1 - mu) G               momentum of the gradient G
        U <- (1 - mu) G + mu M               Nesterov: look one step ahead
        W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonalize(U)

    A gradient is mostly a few large directions. With all singular values near 1, the rare ones are
    learned at the same pace. The factor keeps the size of a layer's output change the same for a
    tall matrix as for a square one.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        iterations: int = 5,
    ):
        """Raises ValueError for a parameter that is not a matrix."""
        super().__init__(
            parameters,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "iterations": iterations,
            },
        )
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() != 2:
                raise ValueError(
                    f"Muon: expected matrices, found a parameter of shape {tuple(parameter.shape)}"
                )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        for group in self.param_groups:
            mu = group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - mu)
                update = orthogonalize(weight.grad.lerp(momentum, mu), group["iterations"])
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=group["lr"] * math.sqrt(max(1.0, rows / columns)))


def adamw(
    module: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    soft_prompt_rate: float | None = None,
) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only (not on norms and biases, nor on a soft prompt).

    A soft prompt learns at `soft_prompt_rate`, if that is given.
    """
    vectors = soft_prompt_of(module)
    parameters = [p for p in module.parameters() if all(p is not one for one in vectors)]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        *soft_prompt_group(vectors, soft_prompt_rate, learning_rate),
    ]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def muon_and_adamw(module: nn.Module, settings: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """For learning from a fixed data set: Muon on the matrices of all blocks, AdamW on all else.

    On this task it reaches the loss of AdamW with less than half of the texts.
    A soft prompt learns at its own rate.
    """
    matrices = [p for name, p in module.named_parameters() if "blocks." in name and p.dim() == 2]
    vectors = soft_prompt_of(module)
    chosen = {id(p) for p in matrices + vectors}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    rate = settings.soft_prompt.learning_rate if isinstance(settings, SFTConfig) else None
    return [
        Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay),
        torch.optim.AdamW(
            [{"params": rest}, *soft_prompt_group(vectors, rate, settings.learning_rate)],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=rest[0].device.type in ("cpu", "cuda"),
        ),
    ]


def soft_prompt_of(module: nn.Module) -> list[nn.Parameter]:
    """The vectors of a policy's soft prompt, if it has one (models/soft_prompt.py)."""
    return [p for name, p in module.named_parameters() if name.endswith(VECTORS)]


def soft_prompt_group(
    vectors: list[nn.Parameter], rate: float | None, learning_rate: float
) -> list[dict]:
    """The vectors as a group of AdamW with their own learning rate; no group if there are none.

    `scale`: their rate over the optimizer's `learning_rate`, which every schedule keeps.
    """
    if not vectors:
        return []
    scale = 1.0 if rate is None or learning_rate == 0 else rate / learning_rate
    group = {"params": vectors, "weight_decay": 0.0, "lr": learning_rate * scale, "scale": scale}
    return [group]


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str, where: str
) -> None:
    """Fill the optimizer's moments from tensors named PREFIX/index/name; its settings stay.

    Raises ValueError naming `where` and the first moment that is of another shape than its weight
    or not finite.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            wanted = (
                parameters[int(index)].shape if tensor.dim() else tensor.shape
            )  # a count of steps has no shape
            if tensor.shape != wanted or not tensor.isfinite().all():
                raise ValueError(
                    f"{where}: {name}: expected finite numbers of shape {tuple(wanted)}, found "
                    + (f"shape {tuple(tensor.shape)}" if tensor.shape != wanted else "NaN or inf")
                )
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def gradient_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, modules: list[nn.Module], clip: float
) -> Tensor:
    """One step of Adam, each module's gradient clipped to norm `clip`.

    Returns the norm of the first module's gradient before clipping; NaN or inf if any module's is.
    A gradient that is not finite is not followed: it would turn every weight into NaN.
    diagnostics.py warns of it.
    """
    optimizer.zero_grad()
    loss.backward()
    for module in modules:
        distributed.average_gradients(module)
    norms = torch.stack([nn.utils.clip_grad_norm_(module.parameters(), clip) for module in modules])
    if not norms.isfinite().all():
        return norms.sum()
    optimizer.step()
    return norms[0]


def backward(loss: Tensor, module: nn.Module, clip: float = 1.0) -> None:
    """Gradients of the loss, those of `module` clipped to norm `clip`."""
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), clip)


def step_all(optimizers: list[torch.optim.Optimizer], module: nn.Module) -> None:
    """One step of each; then the gradients of `module` are cleared for the next."""
    for optimizer in optimizers:
        optimizer.step()
    module.zero_grad()


def linear_schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: up from 0 in `warmup` steps, then straight down to 0."""
    return min(
        (step + 1) / warmup if step < warmup else 1.0, (steps - step) / max(1, steps - warmup)
    )


def finetuning_rate(learning_rate: float, update: int, updates: int) -> float:
    """The rate of an update of fine-tuning: up in a few updates, straight down to a tenth."""
    warmup = min(1.0, (update + 1) / WARMUP_UPDATES)
    decay = 1 - (1 - FINAL_SHARE) * update / updates
    return learning_rate * warmup * decay


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """All groups at this rate, but for a soft prompt, which learns at a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("scale", 1.0)


def scale_learning_rates(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Each group at this share of the rate that its optimizer was made with."""
    for optimizer in optimizers:
        set_learning_rate(optimizer, optimizer.defaults["lr"] * share)
