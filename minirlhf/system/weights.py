"""TODO"""

from __future__ import annotations

from torch import Tensor, nn


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's state, a tensor that two names share (tied embeddings) only once."""
    seen: dict[int, str] = {}
    return {
        name: tensor
        for name, tensor in module.state_dict().items()
        if seen.setdefault(tensor.data_ptr(), name) == name
    }


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the module. Raises ValueError naming `where` and the first weight that is missing, misshapen or not finite."""
    for name, tensor in weights(module).items():
        if name not in state:
            raise ValueError(f"{where}: weight {name} is missing")
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{where}: weight {name}: expected shape {tuple(tensor.shape)}, "
                f"found {tuple(state[name].shape)}"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"{where}: weight {name}: expected finite numbers, found NaN or inf")
    module.load_state_dict(state, strict=False)
