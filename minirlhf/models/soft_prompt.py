"""A soft prompt (提示调优, prompt tuning): k learned vectors before the embeddings of the prompt.

    columns     0 .. k-1          k .. k+p-1       k+p ..
    embedded    learned vectors   prompt           text        + the position of each column

The vectors take columns of the context like tokens do, so the prompt's positions are shifted by k,
and prompt and text have k columns less. The body may be frozen: then k * width numbers are all that
is learned, and any number of policies share one body. The reference of the KL is one of them: the
same body without the vectors, or with those of another moment.

Rows of one batch may each have a soft prompt of their own (`one_each`).

Source: Lester, Al-Rfou and Constant 2021.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minirlhf.models.policy import Policy
from minirlhf.models.transformer import KeyValueCache, Transformer, TransformerConfig
from minirlhf.system.weights import weights

FORMAT = "minirlhf-soft-prompt"
VECTORS = "body.soft_prompt.vectors"  # their name among a policy's weights


class SoftPrompt(nn.Module):
    """The vectors (k, width); or (batch, k, width), where each row of a batch has its own."""

    def __init__(self, vectors: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone())

    def __len__(self) -> int:
        return self.vectors.shape[-2]

    def rows(self, batch: int) -> Tensor:
        """The vectors of each row, (batch, k, width).

        Raises ValueError for a batch of another size than that of one prompt per row.
        """
        if self.vectors.dim() == 3 and len(self.vectors) != batch:
            raise ValueError(
                f"soft prompts: expected one per row of the batch ({batch}), "
                f"found {len(self.vectors)}"
            )
        return self.vectors.expand(batch, -1, -1)


class PromptedTransformer(Transformer):
    """A body that reads a soft prompt before each row. It shares all other weights with `body`.

    Raises ValueError if the vectors have another width, or leave no room in the context.
    """

    def __init__(self, body: Transformer, soft_prompt: SoftPrompt):
        nn.Module.__init__(self)
        self.config = body.config
        self.token_embedding, self.position_embedding = (
            body.token_embedding,
            body.position_embedding,
        )
        self.blocks, self.final_norm = body.blocks, body.final_norm
        self.soft_prompt = soft_prompt
        length, width = soft_prompt.vectors.shape[-2:]
        if width != self.config.width:
            raise ValueError(
                f"soft prompt: expected vectors of width {self.config.width}, found {width}"
            )
        if length > self.config.context - 2:
            raise ValueError(
                f"soft prompt: expected at most {self.config.context - 2} vectors, beside a prompt "
                f"and a text in a context of {self.config.context}, found {length}"
            )

    def forward(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        cache: KeyValueCache | None = None,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """As `Transformer.forward`; states of the tokens alone. A cache holds the vectors, too."""
        if vectors is None and (cache is None or cache.length == 0):
            vectors = self.soft_prompt.rows(len(tokens))
        return super().forward(tokens, valid, cache, vectors)

    def by_length(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """As `Transformer.by_length`; rows with prompts of their own go through as they stand."""
        if self.soft_prompt.vectors.dim() == 3:
            return self(rows)
        return super().by_length(rows, lengths)


class SoftPromptPolicy(Policy):
    """A policy behind a soft prompt. Body and output layer are those of `policy`: no copies.

    Its context is what the vectors leave to prompt and text. With `frozen_body` nothing but the
    vectors learns; otherwise all of it does. Raises ValueError as `PromptedTransformer`.
    """

    body: PromptedTransformer

    def __init__(self, policy: Policy, vectors: Tensor, frozen_body: bool = True):
        nn.Module.__init__(self)
        self.frozen_body = frozen_body
        prompt = SoftPrompt(vectors.to(policy.head.weight))
        self.body = PromptedTransformer(policy.body, prompt)
        self.head = policy.head
        self.requires_grad_(not frozen_body)
        prompt.requires_grad_(True)

    @property
    def soft_prompt(self) -> SoftPrompt:
        return self.body.soft_prompt

    @property
    def config(self) -> TransformerConfig:
        room = self.body.config.context - self.prompt_columns
        return dataclasses.replace(self.body.config, context=room)

    @property
    def learned(self) -> nn.Module:
        return self.soft_prompt if self.frozen_body else self

    @property
    def prompt_columns(self) -> int:
        return len(self.soft_prompt)


def one_each(policy: Policy, prompts: Sequence[SoftPrompt]) -> SoftPromptPolicy:
    """The policy for a batch whose row i stands behind `prompts[i]`; one body serves all of them.

    Raises ValueError if there are none, or if they differ in length.
    """
    lengths = sorted({len(prompt) for prompt in prompts})
    if len(lengths) != 1:
        found = " and ".join(map(str, lengths)) or "none"
        raise ValueError(f"soft prompts: expected vectors of one length, found {found}")
    return SoftPromptPolicy(policy, torch.stack([prompt.vectors for prompt in prompts]))


def first_vectors(
    policy: Policy, length: int, start: str, tokens: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Vectors to begin with, (length, width), from the embeddings of the policy.

    start: "random", noise of the embeddings' size; "vocabulary", tokens drawn at random;
    "demonstration", the first of `tokens`, repeated if they are too few.
    Their positions are added by the body, as with any embedding. Raises ValueError if a
    demonstration is wanted and there are no tokens.
    """
    embeddings = policy.body.token_embedding.weight.detach().cpu()  # (vocab, width)
    if start == "random":
        noise = torch.randn(length, embeddings.shape[1], generator=generator)
        return noise * embeddings.std() + embeddings.mean()
    if start == "vocabulary":
        return embeddings[torch.randint(len(embeddings), (length,), generator=generator)]
    if not tokens:
        raise ValueError("soft prompt: expected a demonstration to start from, found none")
    return embeddings[[tokens[place % len(tokens)] for place in range(length)]]


# Files -------------------------------------------------------------------------------------------


def base_hash(policy: Policy) -> str:
    """The sha256 of a policy's weights without its soft prompt: which base it is.

    Names, shapes and values count; where they are stored does not.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights(policy).items()):
        if name != VECTORS:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def saved(module: nn.Module) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a module's file.

    Of a policy with a frozen body that is its vectors, and the hash of the base they belong to.
    """
    if not isinstance(module, SoftPromptPolicy) or not module.frozen_body:
        return weights(module), {}
    header = {"format": FORMAT, "base": base_hash(module), "length": len(module.soft_prompt)}
    return weights(module.soft_prompt), header


def is_soft_prompt(header: object) -> bool:
    """Whether the file with this header holds the vectors of a soft prompt, and nothing else."""
    return isinstance(header, dict) and header.get("format") == FORMAT


def empty_policy(policy: Policy, tensors: dict[str, Tensor], where: str) -> Policy:
    """The policy to fill with these weights: behind a soft prompt if they hold its vectors.

    Raises ValueError naming `where` if those have no fitting shape.
    """
    if VECTORS not in tensors:
        return policy
    vectors = tensors[VECTORS]
    if vectors.dim() != 2 or vectors.shape[1] != policy.config.width:
        raise ValueError(
            f"{where}: weight {VECTORS}: expected shape (length, {policy.config.width}), "
            f"found {tuple(vectors.shape)}"
        )
    return SoftPromptPolicy(policy, torch.zeros_like(vectors), frozen_body=False)


def vectors_of(tensors: dict[str, Tensor], header: dict, policy: Policy, where: str) -> Tensor:
    """The vectors (k, width) in a file, for this base.

    Raises ValueError, one line naming `where`, if they belong to another base, or are not finite
    numbers of the length and width that they should have.
    """
    found = base_hash(policy)
    if header.get("base") != found:
        raise ValueError(
            f"{where}: expected a soft prompt of this base (sha256 {found[:12]}...), found one of "
            f"another (sha256 {str(header.get('base'))[:12]}...)"
        )
    shape = (header.get("length"), policy.config.width)
    vectors = tensors.get("vectors", torch.zeros(0))
    if tensors.keys() != {"vectors"} or tuple(vectors.shape) != shape:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"{where}: expected vectors of shape {shape}, found {shapes}")
    if not vectors.isfinite().all():
        raise ValueError(f"{where}: vectors: expected finite numbers, found NaN or inf")
    return vectors
