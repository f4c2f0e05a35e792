"""More than one process: each samples and learns from its share of the texts of an update (data parallelism, 数据并行).

    torchrun --nproc-per-node 2 -m -- minirlhf finetune --run demo      # without "--" torchrun takes --run for its own

Every process holds all weights. Its share of the texts is sampled, scored and then shown to all, so that baselines, logs and the
KL see the whole batch; each takes the gradient of its own share, and the mean of the gradients is that of the whole batch. The
random numbers of a text depend on its place in the batch alone, so N processes write what one would have written.
Only rank 0 writes files. Without torchrun every function here is a no-op.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> None:
    """Join the other processes if torchrun started this one. nccl between GPUs, gloo between CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            timeout=timedelta(minutes=10),
        )


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def stop() -> None:
    """Leave the others in good order: call it at the end only, never after an error."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leader_first() -> None:
    """Here all but rank 0 wait, until rank 0 has come to `leader_done`."""
    if rank() > 0:
        _together(dist.barrier)


def leader_done() -> None:
    if world() > 1 and rank() == 0:
        _together(dist.barrier)


def shares(count: int) -> list[int]:
    """Positions of this process's share of `count` rows. All shares are equally long: the last row fills them up."""
    size = -(-count // world())
    return [min(index, count - 1) for index in range(rank() * size, (rank() + 1) * size)]


def gather_rows(tensor: Tensor, count: int) -> Tensor:
    """The first `count` rows of all processes' shares, in order: (share,) or (share, columns) to (count, longest columns).

    Shares may differ in their number of columns; the shorter ones are filled up with 0 (False).
    """
    if world() == 1:
        return tensor
    kind, shape = tensor.dtype, tensor.shape
    tensor = tensor.reshape(len(tensor), -1).to(torch.uint8 if kind == torch.bool else kind)
    columns = torch.tensor(tensor.shape[1], device=tensor.device)
    _together(dist.all_reduce, columns, dist.ReduceOp.MAX)
    tensor = nn.functional.pad(tensor, (0, int(columns) - tensor.shape[1])).contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world())]
    _together(dist.all_gather, parts, tensor)
    whole = torch.cat(parts)[:count].to(kind)
    return whole.squeeze(1) if len(shape) == 1 else whole


def total(value: Tensor) -> Tensor:
    """The sum of `value` over all processes."""
    return _reduced(value, dist.ReduceOp.SUM)


def largest(value: Tensor) -> Tensor:
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: Tensor, operation) -> Tensor:
    if world() > 1:
        value = value.detach().clone()
        _together(dist.all_reduce, value, operation)
    return value


def average_gradients(module: nn.Module) -> None:
    """Every gradient becomes its mean over all processes, in one exchange."""
    if world() > 1:
        gradients = [
            parameter.grad for parameter in module.parameters() if parameter.grad is not None
        ]
        flat = total(torch.cat([gradient.flatten() for gradient in gradients])) / world()
        for gradient, mean in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients])
        ):
            gradient.copy_(mean.view_as(gradient))


def broadcast_weights(module: nn.Module) -> None:
    """All processes take rank 0's weights. (They computed the same; GPUs may round otherwise.)"""
    if world() > 1:
        for parameter in module.parameters():
            _together(dist.broadcast, parameter.detach(), 0)


def _together(operation, *arguments) -> None:
    """Call it; if another process has died, say so in one line and end: there is nothing to go on with."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        print(
            f"\nerror: process {rank()} of {world()}: lost another process ({str(error).strip().splitlines()[0][:80]}); "
            "go on from the last checkpoint with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # a normal exit would wait for the others
