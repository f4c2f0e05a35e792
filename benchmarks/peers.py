"""The same work done by transformers and TRL, as quick as their options allow; used by step.py.

Same shapes, same reward model, KL to a reference, one AdamW step a batch. No dropout, no gradient
checkpointing, no logging, no saving; the end token lies outside the vocabulary, so that every text
has its full length, here as with us.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from minirlhf.system.devices import autocast, precision_of

if TYPE_CHECKING:
    from benchmarks.step import Ours

GROUP = 8  # texts of one prompt that RLOO and GRPO compare


def gpt2(shape, context: int) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab,
            n_positions=context,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            # The same function as GPT-2's "gelu_new" in one kernel, as ours has it.
            activation_function="gelu_pytorch_tanh",
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def sampler(shape, prompts: list[list[int]], device: torch.device) -> Callable[[], None]:
    """transformers' generate on the same prompts."""
    model, rows = (
        gpt2(shape, shape.prompt + shape.new).to(device).eval(),
        torch.tensor(prompts, device=device),
    )

    def sample() -> None:
        with autocast(device):
            found = model.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                do_sample=True,
                top_k=0,
                pad_token_id=0,
                max_new_tokens=shape.new,
            )
        if found.shape != (shape.batch, shape.prompt + shape.new):
            raise RuntimeError(f"generate: expected full texts, found shape {tuple(found.shape)}")

    return sample


def pretrainer(shape, rows: Tensor) -> Callable[[], None]:
    """One step of language modelling with transformers' GPT-2 and fused AdamW."""
    model = gpt2(shape, rows.shape[1]).to(rows.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with autocast(rows.device):
            loss = model(rows, labels=rows, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


class Stopwatch(TrainerCallback):
    """Seconds of each step; `between` runs after each, outside the watch, so that both sides meet
    the same weather.
    """

    def __init__(self, clock: Callable[[], float], between: Callable[[], None]):
        self.clock, self.between, self.seconds = clock, between, []

    def on_step_begin(self, *_, **__) -> None:
        self.started = self.clock()

    def on_step_end(self, *_, **__) -> None:
        self.seconds.append(self.clock() - self.started)
        self.between()


def trl_steps(kind: str, ours: Ours, steps: int) -> list[float]:
    """Seconds of `steps` steps of TRL's trainer of that kind ("rloo" or "grpo").

    Our shape, prompts, scores of texts, device and clock; between the steps runs one of ours.
    """
    shape, prompts, device = ours.shape, ours.prompts, ours.device
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # of names that the next TRL will change
    words = {f"t{index}": index for index in range(shape.vocab)} | {"<end>": shape.vocab}
    inner = Tokenizer(models.WordLevel(words, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="t0")

    def reward(prompts: list[str], completion_ids: list[list[int]], **_) -> list[float]:
        if {len(ids) for ids in completion_ids} != {shape.new} or len(prompts) != shape.batch:
            raise RuntimeError("TRL: expected a whole batch of full texts")
        return ours.score(
            [[int(word[1:]) for word in prompt.split()] for prompt in prompts], completion_ids
        )

    config_class, trainer_class = {
        "rloo": (RLOOConfig, RLOOTrainer),
        "grpo": (GRPOConfig, GRPOTrainer),
    }[kind]
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            folder,
            per_device_train_batch_size=shape.batch,
            num_generations=GROUP,
            max_completion_length=shape.new,
            max_steps=steps,
            beta=0.03,
            learning_rate=1e-4,
            gradient_checkpointing=False,
            bf16=precision_of(device) == "bfloat16",
            use_cpu=device.type == "cpu",
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        watch = Stopwatch(ours.clock, ours.step)
        data = Dataset.from_dict(
            {"prompt": [" ".join(f"t{token}" for token in row) for row in prompts]}
        )
        gpt2(shape, shape.prompt + shape.new).save_pretrained(
            folder
        )  # the trainer reads its reference from there
        trainer = trainer_class(
            folder,
            reward,
            config,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.seconds
