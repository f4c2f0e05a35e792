"""A module's weights as a dictionary of tensors, and back, with checks."""

from __future__ import annotations

from torch import Tensor, nn


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The module's state; a tensor with two names (tied embeddings) only under the first."""
    first_name: dict[int, str] = {}
    unique = {}
    for name, tensor in module.state_dict().items():
        if first_name.setdefault(tensor.data_ptr(), name) == name:
            unique[name] = tensor
    return unique


def load_weights(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the module with `state`.

    Raises ValueError naming `where` (a path) and the first weight that is missing, misshapen, not
    finite or unknown.
    """
    ours = weights(module)
    for name, tensor in ours.items():
        if name not in state:
            raise ValueError(f"{where}: weight {name} is missing")
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{where}: weight {name}: expected shape {tuple(tensor.shape)}, "
                f"found {tuple(state[name].shape)}"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"{where}: weight {name}: expected finite numbers, found NaN or inf")
    if unknown := state.keys() - ours.keys():
        raise ValueError(f"{where}: weight {min(unknown)}: unknown to a model of these settings")
    # Not strict: the second name of a shared tensor is not in `state`.
    module.load_state_dict(state, strict=False)
