"""One step of sampling as a CUDA graph: recorded once, then replayed for every token of every batch of that shape.

A new token takes a GPU microseconds of arithmetic, in more than a hundred small kernels that Python would launch one by one, each
launch slower than its kernel. A recording launches them all at once. It repeats the very same kernels on the same addresses, so
everything that changes from step to step lives in tensors on the device: the column that is written next, the tokens, the random
numbers. Texts that have ended stay in the batch until all have: on an H200 16 rows take four fifths of the time of 128.

One recording is kept, the latest: another shape or policy replaces it. (Several would share work space of cuBLAS, which newer
versions of PyTorch free with the first of them that goes.)
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minirlhf.models.draw import draw
from minirlhf.models.transformer import KeyValueCache

if TYPE_CHECKING:
    from minirlhf.models.policy import Policy

COLUMNS = 32  # the cache has a multiple of so many columns, so that prompts of like length share a recording
CHECK_EVERY = {
    "cpu": 1,
    "cuda": 8,
}  # sampling looks for ended texts after so many tokens; a GPU comes to a halt for it
_latest: weakref.WeakKeyDictionary[Policy, tuple[tuple, DecodeGraph]] = (
    weakref.WeakKeyDictionary()
)  # goes with its policy


class DecodeGraph:
    """The step for `batch` texts of up to `max_new_tokens` with a cache of `columns`, and the tensors that it works on.

    `model` is a copy as `rounded_copy` makes it: `start` brings its weights up to date. `cuts` are temperature, top_k and top_p.
    On a CPU there are no graphs; `step` computes the same there.
    """

    def __init__(
        self,
        model: Policy,
        batch: int,
        columns: int,
        max_new_tokens: int,
        cuts: tuple,
        dtype: torch.dtype,
    ):
        device, self.model, self.cuts = model.head.weight.device, model, cuts
        self.cache = KeyValueCache(model.config, batch, columns, device, dtype)
        self.hidden = torch.zeros(
            batch, model.config.width, device=device, dtype=model.body.token_embedding.weight.dtype
        )
        self.uniform = torch.zeros(batch, max_new_tokens, device=device)
        self.tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(batch, max_new_tokens, device=device)
        self.padding = torch.zeros(
            batch, 1, dtype=torch.long, device=device
        )  # columns before a row's first token
        self.drawn, self.column = (
            torch.zeros(1, dtype=torch.long, device=device) for _ in range(2)
        )
        self.all_columns = torch.arange(columns, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def start(self, policy: Policy, padded: Tensor, valid: Tensor | None, uniform: Tensor) -> None:
        """Read the prompts, padded (batch, prompt) as `Transformer.forward` takes them; uniform (batch, max_new_tokens)."""
        ours, theirs = self.model.state_dict(), policy.state_dict()
        torch._foreach_copy_(list(ours.values()), [theirs[name] for name in ours])
        self.cache.column, self.cache.length, self.cache.padding, self.cache.bias = (
            None,
            0,
            None,
            None,
        )
        self.cache.valid.fill_(True)
        self.cache.keys.zero_()  # every column takes part in the products, unwritten ones with weight 0: no NaN may lie there
        self.cache.values.zero_()
        self.hidden.copy_(self.model.body(padded, valid, self.cache)[:, -1])
        self.padding.zero_()
        if valid is not None:
            self.padding.copy_((~valid).sum(1, keepdim=True))
        self.uniform.copy_(uniform)
        self.drawn.zero_()
        self.column.fill_(padded.shape[1])
        self.cache.column = self.column

    def step(self) -> None:
        """Draw a token for each row, write it down, and let the body read it."""
        uniform = self.uniform.index_select(1, self.drawn).squeeze(1)
        tokens, log_probs = draw(self.model.head(self.hidden).float(), *self.cuts, None, uniform)
        self.tokens.index_copy_(1, self.drawn, tokens[:, None])
        self.log_probs.index_copy_(1, self.drawn, log_probs[:, None])
        seen = (self.padding <= self.all_columns) & (
            self.all_columns <= self.column
        )  # (batch, columns)
        mask = torch.zeros_like(seen, dtype=self.cache.keys.dtype).masked_fill(~seen, -torch.inf)[
            :, None, None
        ]
        hidden = self.model.body.layers(
            tokens[:, None], self.column - self.padding, mask, self.cache
        )
        self.hidden.copy_(hidden[:, -1])
        self.drawn += 1
        self.column += 1

    def record(self) -> None:
        """Record `step`, for `sample` to replay. What the step has written meanwhile, `start` overwrites."""
        self.cache.column = self.column
        with torch.cuda.device(self.hidden.device):
            aside, here = recording_stream(self.hidden.device), torch.cuda.current_stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self.step()  # the libraries beneath set themselves up at their first call, which no recording may hold
            here.wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=aside):
                self.step()

    def sample(
        self, policy: Policy, padded: Tensor, valid: Tensor | None, uniform: Tensor, end_id: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their log-probabilities (batch, time); time is the longest text's, rounded up to CHECK_EVERY."""
        self.start(policy, padded, valid, uniform)
        new, check_every = self.tokens.shape[1], CHECK_EVERY.get(self.tokens.device.type, 8)
        for t in range(1, new + 1):
            self.step() if self.graph is None else self.graph.replay()
            if (
                t % check_every == 0
                and t < new
                and bool((self.tokens[:, :t] == end_id).any(1).all())
            ):
                break
        return self.tokens[:, :t].clone(), self.log_probs[:, :t].clone()


def rounded_copy(policy: Policy, dtype: torch.dtype) -> Policy:
    """A frozen copy whose products have weights of that dtype, so that autocast need not round them again for every token."""
    model = policy.frozen_copy()
    model.head.weight = nn.Parameter(
        model.head.weight.clone(), requires_grad=False
    )  # apart from the embedding: that stays exact
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return model


@functools.cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: libraries keep work space for each stream that they have seen."""
    return torch.cuda.Stream(device)


def recorded(
    policy: Policy, batch: int, columns: int, max_new_tokens: int, cuts: tuple, dtype: torch.dtype
) -> DecodeGraph:
    """The recording for this policy, shape and precision of products: the latest one if it fits, else a new one."""
    key = (batch, -(-columns // COLUMNS) * COLUMNS, max_new_tokens, cuts, dtype)
    if policy not in _latest or _latest[policy][0] != key:
        _latest.clear()
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # tensors made in inference mode could not be written to outside of it
            graph = DecodeGraph(rounded_copy(policy, dtype), *key)
            graph.record()
        _latest[policy] = key, graph
    return _latest[policy][1]
