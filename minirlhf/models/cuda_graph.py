"""One decoding step as a CUDA graph: recorded once, then replayed for every token.

A recording serves every batch of its shape. On a GPU the arithmetic of a new token takes
microseconds, but it is split over more than a hundred small kernels, and launching each from Python
takes longer than running it. A recorded graph launches them all at once. It repeats exactly the
same kernels on the same addresses, so everything that changes from step to step lives in tensors on
the device: the column to write, the tokens, the random numbers. Texts that have ended stay in the
batch until all have: on an H200, 16 rows take four fifths of the time of 128.

Only the latest recording is kept; another shape or policy replaces it. (Several would share cuBLAS
workspace, which newer versions of PyTorch free together with the first of them.)
"""

from __future__ import annotations

import functools
import weakref

import torch
from torch import Tensor, nn

from minirlhf.models.next_token import SamplingOptions, next_token
from minirlhf.models.policy import Policy
from minirlhf.models.transformer import KeyValueCache

# The cache is rounded up to a multiple of this many columns, so that prompts of similar length
# share a recording.
COLUMNS = 32
# Sampling looks for ended texts every so many tokens; on a GPU each check forces a device sync.
CHECK_EVERY = {"cpu": 1, "cuda": 8}
# The latest recording and its key. The entry disappears with its policy.
_latest: weakref.WeakKeyDictionary[Policy, tuple[tuple, DecodeGraph]] = weakref.WeakKeyDictionary()


class DecodeGraph:
    """The decoding step for a fixed shape, and the tensors that it works on.

    `batch` texts of up to `max_new_tokens`, with a cache of `columns`. `model` is a copy as
    `rounded_copy` makes it; `start` updates its weights. On a CPU there are no graphs: without
    `record`, `step` computes the same.
    """

    def __init__(
        self,
        model: Policy,
        batch: int,
        columns: int,
        max_new_tokens: int,
        options: SamplingOptions,
        dtype: torch.dtype,
    ):
        self.model, self.options = model, options
        device, width = model.device, model.config.width
        self.cache = KeyValueCache(model.config, batch, columns, device, dtype)
        hidden_dtype = model.body.token_embedding.weight.dtype
        self.hidden = torch.zeros(batch, width, device=device, dtype=hidden_dtype)
        self.uniform = torch.zeros(batch, max_new_tokens, device=device)
        self.tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(batch, max_new_tokens, device=device)
        # Number of padded columns before each row's first token.
        self.padding = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.drawn = torch.zeros(1, dtype=torch.long, device=device)  # tokens drawn so far
        self.column = torch.zeros(1, dtype=torch.long, device=device)  # of the cache, written next
        self.all_columns = torch.arange(columns, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def start(self, policy: Policy, padded: Tensor, valid: Tensor | None, uniform: Tensor) -> None:
        """Take over the policy's weights and read the prompts.

        `padded` and `valid` (batch, prompt) as in `Transformer.forward`; `uniform`
        (batch, max_new_tokens), the random numbers in [0, 1).
        """
        ours, theirs = self.model.state_dict(), policy.state_dict()
        torch._foreach_copy_(list(ours.values()), [theirs[name] for name in ours])

        self.cache.column, self.cache.length = None, 0
        self.cache.padding, self.cache.bias = None, None
        self.cache.valid.fill_(True)
        # Every column takes part in the products, unwritten ones with weight 0. They must not hold
        # NaN.
        self.cache.keys.zero_()
        self.cache.values.zero_()
        self.hidden.copy_(self.model.body(padded, valid, self.cache)[:, -1])

        self.padding.zero_()
        if valid is not None:
            self.padding.copy_((~valid).sum(1, keepdim=True))
        self.uniform.copy_(uniform)
        self.drawn.zero_()
        self.column.fill_(self.cache.length)
        self.cache.column = self.column  # from here on the cache is filled by `step`

    def step(self) -> None:
        """Draw a token for each row, store it, and run it through the body. All in place."""
        uniform = self.uniform.index_select(1, self.drawn).squeeze(1)  # (batch,)
        logits = self.model.head(self.hidden).float()  # (batch, vocab)
        tokens, log_probs = next_token(logits, self.options, uniform)
        self.tokens.index_copy_(1, self.drawn, tokens[:, None])
        self.log_probs.index_copy_(1, self.drawn, log_probs[:, None])

        # The real columns of a row up to the new one, (batch, columns).
        seen = self.cache.valid & (self.all_columns <= self.column)
        mask = torch.zeros_like(seen, dtype=self.cache.keys.dtype).masked_fill(~seen, -torch.inf)
        hidden = self.model.body.layers(
            tokens[:, None], self.column - self.padding, mask[:, None, None], self.cache
        )  # (batch, 1, width)
        self.hidden.copy_(hidden[:, -1])
        self.drawn += 1
        self.column += 1

    def record(self) -> None:
        """Record `step`, for `sample` to replay. `start` overwrites what it writes meanwhile."""
        self.cache.column = self.column
        device = self.hidden.device
        with torch.cuda.device(device):
            side_stream, current_stream = recording_stream(device), torch.cuda.current_stream()
            side_stream.wait_stream(current_stream)
            with torch.cuda.stream(side_stream):
                # The libraries underneath set themselves up at their first call; that must not be
                # recorded.
                self.step()
            current_stream.wait_stream(side_stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=side_stream):
                self.step()

    def sample(
        self, policy: Policy, padded: Tensor, valid: Tensor | None, uniform: Tensor, end_id: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities (batch, time), until all texts have ended.

        time is the longest text's, rounded up to a multiple of CHECK_EVERY.
        """
        self.start(policy, padded, valid, uniform)
        max_new_tokens = self.tokens.shape[1]
        check_every = CHECK_EVERY.get(self.tokens.device.type, 8)
        for t in range(1, max_new_tokens + 1):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
            if t % check_every == 0 and t < max_new_tokens:
                has_ended = (self.tokens[:, :t] == end_id).any(1)
                if bool(has_ended.all()):
                    break
        return self.tokens[:, :t].clone(), self.log_probs[:, :t].clone()


def rounded_copy(policy: Policy, dtype: torch.dtype) -> Policy:
    """A frozen copy with linear layers in `dtype`: autocast need not round them at every step."""
    model = policy.frozen_copy()
    # Untie the output layer from the embedding, which must stay exact.
    model.head.weight = nn.Parameter(model.head.weight.clone(), requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return model


@functools.cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings: libraries keep workspace for each stream they have seen."""
    return torch.cuda.Stream(device)


def recorded(
    policy: Policy,
    batch: int,
    columns: int,
    max_new_tokens: int,
    options: SamplingOptions,
    dtype: torch.dtype,
) -> DecodeGraph:
    """The recording for this policy, shape and matmul dtype: the latest, or a new one."""
    columns = -(-columns // COLUMNS) * COLUMNS
    key = (batch, columns, max_new_tokens, options, dtype)
    if policy not in _latest or _latest[policy][0] != key:
        _latest.clear()
        # Tensors made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            graph = DecodeGraph(rounded_copy(policy, dtype), *key)
            graph.record()
        _latest[policy] = key, graph
    return _latest[policy][1]
