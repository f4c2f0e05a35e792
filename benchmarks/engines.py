"""Several processes, one update: our own averaging of gradients, DistributedDataParallel or FSDP2?

    torchrun --nproc-per-node 2 -m benchmarks.engines
    torchrun --nproc-per-node 8 -m -- benchmarks.engines --width 1280 --layers 36 --vocab 50304

The update is that of REINFORCE: the log-probabilities of each process's texts, their gradient, one
step of AdamW. All three start from the same weights and take turns. Printed for each: the median
time of an update; the largest error of its first gradient, relative to the largest entry of that
weight's gradient in one process with all texts; bytes of weights, gradients and Adam's moments that
each process holds.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step import take_turns
from minirlhf import equations
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import TransformerConfig
from minirlhf.system import distributed
from minirlhf.system.devices import autocast
from minirlhf.training.optimizers import adamw

ENGINES = ("ours", "DDP", "FSDP2")


@dataclass
class Texts:
    """Random texts of one length and the weight of each token: all of one update."""

    rows: Tensor  # (batch, prompt + time)
    prompt_lengths: Tensor  # (batch,)
    weights: Tensor  # (batch, time)

    def share(self) -> Texts:
        """This process's part."""
        mine = distributed.local_rows(len(self.rows))
        return Texts(self.rows[mine], self.prompt_lengths[mine], self.weights[mine])


def random_texts(arguments: argparse.Namespace, device: torch.device) -> Texts:
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.texts, arguments.prompt + arguments.tokens)
    rows = torch.randint(arguments.vocab, shape, generator=generator)
    weights = torch.randn(arguments.texts, arguments.tokens, generator=generator)
    lengths = torch.full((arguments.texts,), arguments.prompt)
    return Texts(rows.to(device), lengths.to(device), weights.to(device))


class Loss(nn.Module):
    """DistributedDataParallel wants one module whose `forward` returns the loss."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy

    def forward(self, texts: Texts) -> Tensor:
        tokens = texts.rows[:, -texts.weights.shape[1] :]  # (batch, time)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        with autocast(tokens.device):
            log_probs = self.policy.text_log_probs(texts.rows, texts.prompt_lengths, tokens, mask)
        return equations.per_token_reinforce_loss(log_probs, texts.weights, mask)


class Learner:
    """A copy of the policy that learns through one of ENGINES."""

    def __init__(self, engine: str, policy: Policy):
        self.engine, self.policy = engine, copy.deepcopy(policy)
        self.loss: nn.Module = Loss(self.policy)
        if engine == "DDP":
            self.loss = DistributedDataParallel(self.loss)
        if engine == "FSDP2":
            mesh = init_device_mesh(policy.device.type, (distributed.world_size(),))
            # A block is gathered when it is needed; embedding and output layer with the whole.
            for block in self.policy.body.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self.policy, mesh=mesh)
            # We call this method, not `forward`; it must gather the weights, too.
            register_fsdp_forward_method(self.policy, "text_log_probs")
        self.optimizer = adamw(self.policy, 1e-4, weight_decay=0.0)

    def gradient(self, texts: Texts) -> None:
        self.optimizer.zero_grad()
        self.loss(texts).backward()
        if self.engine == "ours":
            distributed.average_gradients(self.policy)

    def update(self, texts: Texts) -> None:
        self.gradient(texts)
        nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()

    def error(self, exact: Policy) -> float:
        """Of the gradient, relative to that of `exact`; the largest of all entries."""
        errors = []
        for mine, other in zip(self.policy.parameters(), exact.parameters(), strict=True):
            found, right = mine.grad, other.grad
            if isinstance(found, DTensor):
                found = found.full_tensor()
            if found is None or right is None:
                raise RuntimeError(f"{self.engine}: expected a gradient of every weight")
            errors.append(float((found - right).abs().max() / right.abs().max()))
        return max(errors)

    def held_bytes(self) -> int:
        """Weights, gradients and Adam's moments in this process."""
        tensors = [*self.policy.parameters(), *(p.grad for p in self.policy.parameters())]
        tensors += [value for state in self.optimizer.state.values() for value in state.values()]
        local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors if t is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in local)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=64, help="of all processes")
    parser.add_argument("--prompt", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    distributed.start()
    if distributed.world_size() == 1:
        parser.error(
            "expected several processes: torchrun --nproc-per-node 2 -m benchmarks.engines"
        )
    if arguments.texts % distributed.world_size():
        parser.error(
            f"--texts: expected a multiple of {distributed.world_size()} processes, "
            f"found {arguments.texts}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    torch.manual_seed(0)
    context = arguments.prompt + arguments.tokens
    heads = max(1, arguments.width // 64)
    config = TransformerConfig(arguments.vocab, context, arguments.width, arguments.layers, heads)
    policy = Policy(config).to(device)
    texts = random_texts(arguments, device)
    learners = [Learner(engine, policy) for engine in ENGINES]
    Loss(policy)(texts).backward()  # one process with all texts
    share, errors = texts.share(), []
    for learner in learners:
        learner.gradient(share)
        errors.append(learner.error(policy))

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    updates = {learner.engine: partial(learner.update, share) for learner in learners}
    seconds = take_turns(arguments.repeats, clock, **updates)
    if distributed.rank() == 0:
        parameters = sum(weight.numel() for weight in policy.parameters())
        print(f"{parameters:,} weights, {distributed.world_size()} processes on {device.type}")
        for learner, error in zip(learners, errors, strict=True):
            median = 1e3 * seconds[learner.engine]
            per_weight = learner.held_bytes() / parameters
            print(
                f"{learner.engine:6s} {median:7.0f} ms   gradient off by {error:.1e}   "
                f"{per_weight:.1f} bytes per weight in each process"
            )
    distributed.stop()


if __name__ == "__main__":
    main()
