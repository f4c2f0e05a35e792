"""Data parallelism (数据并行): each process samples and learns from its share of the texts.

    torchrun --nproc-per-node 2 -m -- minirlhf finetune --run demo

(The "--" is needed: without it torchrun takes --run for its own option.)

Every process holds all weights. Its share of an update's texts is sampled, scored and then gathered
by all, so that baselines, logs and the KL see the whole batch. Each takes the gradient of its own
share; the mean of the gradients is that of the whole batch. The random numbers of a text depend
only on its place in the batch, so N processes write what one would have written.

Only rank 0 writes files. Without torchrun every function here is a no-op.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> None:
    """Join the other processes, if torchrun started this one: nccl for GPUs, gloo for CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=timedelta(minutes=10))


def stop() -> None:
    """Shut down the process group; call on normal exit only, never after an error."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank 0 runs the block first; the others wait at its start until rank 0 has reached its end.

    If rank 0 raises in the block, the others are not released: their error comes when it exits.
    """
    if rank() > 0:
        _call_or_exit(dist.barrier)
    yield
    if world_size() > 1 and rank() == 0:
        _call_or_exit(dist.barrier)


def local_rows(count: int) -> list[int]:
    """Which of `count` rows are this process's share.

    All shares are equally long; where `count` does not divide evenly, the last row is repeated.
    """
    size = -(-count // world_size())  # rounded up
    first = rank() * size
    return [min(row, count - 1) for row in range(first, first + size)]


def gather_rows(tensor: Tensor, count: int) -> Tensor:
    """The first `count` rows of all processes' shares, in order.

    (share,) to (count,), or (share, columns) to (count, most columns of any share): shares with
    fewer columns are padded with 0 (False).
    """
    if world_size() == 1:
        return tensor
    dtype, is_flat = tensor.dtype, tensor.dim() == 1
    if dtype == torch.bool:  # not every backend gathers bool
        tensor = tensor.to(torch.uint8)
    tensor = tensor.reshape(len(tensor), -1)  # (share, columns)
    columns = torch.tensor(tensor.shape[1], device=tensor.device)
    _call_or_exit(dist.all_reduce, columns, dist.ReduceOp.MAX)
    tensor = nn.functional.pad(tensor, (0, int(columns) - tensor.shape[1])).contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    _call_or_exit(dist.all_gather, parts, tensor)
    whole = torch.cat(parts)[:count].to(dtype)
    return whole.squeeze(1) if is_flat else whole


def average(value: Tensor) -> Tensor:
    """The mean of `value` over all processes; what every process then decides by is the same."""
    return value if world_size() == 1 else all_reduce_sum(value) / world_size()


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all processes."""
    return _all_reduce(value, dist.ReduceOp.SUM)


def all_reduce_max(value: Tensor) -> Tensor:
    """The largest `value` of any process, element by element."""
    return _all_reduce(value, dist.ReduceOp.MAX)


def _all_reduce(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    value = value.detach().clone()
    _call_or_exit(dist.all_reduce, value, operation)
    return value


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient by its mean over all processes, in one exchange."""
    if world_size() == 1:
        return
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    _call_or_exit(dist.all_reduce, flat)
    means = flat.div_(world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def broadcast_weights(module: nn.Module) -> None:
    """All processes take rank 0's weights; GPUs may have rounded theirs differently."""
    if world_size() == 1:
        return
    for parameter in module.parameters():
        _call_or_exit(dist.broadcast, parameter.detach(), 0)


def _call_or_exit(operation: Callable[..., object], *arguments: object) -> None:
    """Call a collective operation; if another process has died, report it in one line and exit."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:80]
        print(
            f"\nerror: process {rank()} of {world_size()}: lost another process ({reason}); "
            "go on from the last checkpoint with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)  # a normal exit would wait for the others
