"""The tokenizer and the models of a run: loaded from its folder, or made for its next stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from minirlhf.feedback.conversation import in_words
from minirlhf.models import build
from minirlhf.models.encoder import MaskedLanguageModel
from minirlhf.models.policy import Policy
from minirlhf.models.soft_prompt import (
    SoftPromptPolicy,
    base_hash,
    empty_policy,
    is_soft_prompt,
    one_each,
    vectors_of,
)
from minirlhf.runs.divergence import check_finite, check_loss
from minirlhf.runs.folder import Run
from minirlhf.runs.products import ENCODER, RESULT, REWARD_MODELS, SFT, is_done
from minirlhf.system.files import load_tensors
from minirlhf.system.weights import load_weights
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training.batches import corpus_of
from minirlhf.training.pretrain_mlm import pretrain_mlm
from minirlhf.training.train_reward_model import AnyReward


def tokenizer_of(run: Run, task: Task) -> Tokenizer:
    """The run's tokenizer; it is trained on the task's corpus first if the run has none."""
    path = run.path / "tokenizer.json"
    if not path.exists():
        texts = [f"{in_words(topic)} {text}" for topic, text in task.corpus]
        Tokenizer(train_bpe(texts, run.config.model.vocab_size)).save(path)
    return Tokenizer.load(path)


def load_policy(run: Run, name: str, tokenizer: Tokenizer) -> Policy:
    """The policy in a file of the run: all of its weights, or a soft prompt for one that has them.

    Raises ValueError, one line, if the file is damaged, or its soft prompt belongs to another base.
    """
    path = run.path / name
    tensors, header = load_tensors(path)
    if is_soft_prompt(header):
        return _behind(run, tensors, header, path, tokenizer)
    return _whole_policy(run, tensors, path, tokenizer)


def behind_soft_prompt(run: Run, path: Path, tokenizer: Tokenizer) -> SoftPromptPolicy:
    """A policy of the run behind the soft prompt in a file, of this run or of another.

    Raises ValueError, one line, if the file holds none, or one of another base.
    """
    tensors, header = load_tensors(path)
    if not is_soft_prompt(header):
        raise ValueError(f"{path}: expected a soft prompt alone, found other weights")
    return _behind(run, tensors, header, path, tokenizer)


def _whole_policy(run: Run, tensors: dict[str, Tensor], path: Path, tokenizer: Tokenizer) -> Policy:
    """The policy that has these weights, on the run's device."""
    policy = build.new_policy(run.config.model, tokenizer.vocab_size)
    policy = empty_policy(policy, tensors, str(path))
    load_weights(policy, tensors, str(path))
    return policy.to(run.device)


def _behind(
    run: Run, tensors: dict[str, Tensor], header: dict, path: Path, tokenizer: Tokenizer
) -> SoftPromptPolicy:
    """The base that a soft prompt names by its hash, behind it.

    That is the run's policy after supervised fine-tuning, or the pretrained one.
    """
    for stage in (SFT, "pretrain"):
        if not run.is_done(stage):
            continue
        file = run.path / RESULT[stage]
        own, own_header = load_tensors(file)
        if not is_soft_prompt(own_header):
            base = _whole_policy(run, own, file, tokenizer)
            if stage == "pretrain" or base_hash(base) == header["base"]:
                break
    return SoftPromptPolicy(base, vectors_of(tensors, header, base, str(path)))


def behind_soft_prompt_of(run: Run, other: Path, tokenizer: Tokenizer) -> SoftPromptPolicy:
    """A policy of this run behind the soft prompt of another one.

    Of a run that feedback has tuned it is that prompt, else the one of its demonstrations. Raises
    ValueError, one line, if the other run has none, or if its base is another one.
    """
    done = [stage for stage in ("finetune", SFT) if is_done(other, stage)]
    if not done:
        raise ValueError(f"{other}: expected a run with a soft prompt, found none")
    return behind_soft_prompt(run, other / RESULT[done[0]], tokenizer)


def behind_soft_prompts(
    run: Run, others: Sequence[Path], each: int, tokenizer: Tokenizer
) -> SoftPromptPolicy:
    """The body of this run for a batch of `each` rows per soft prompt of other runs.

    Raises ValueError, one line, if the runs have several bases; else as `behind_soft_prompt_of`.
    """
    prompted = [behind_soft_prompt_of(run, path, tokenizer) for path in others]
    hashes = {base_hash(policy) for policy in prompted}
    if len(hashes) > 1:
        raise ValueError("--soft-prompt: expected runs on one base, found several")
    prompts = [policy.soft_prompt for policy in prompted for _ in range(each)]
    return one_each(prompted[0], prompts).to(run.device).eval()


def room_for_text(run: Run) -> int:
    """Tokens of the context that every model of the run has for prompt and text together."""
    config = run.config
    taken = [
        part.soft_prompt.length for part in (config.sft, config.finetune) if part.tune != "all"
    ]
    return config.model.context - max(taken, default=0)


def model_for_sampling(run: Run, tokenizer: Tokenizer, tuned: bool) -> Policy:
    """The policy after (or, with tuned=False, before) fine-tuning, in evaluation mode."""
    name = RESULT["finetune"] if tuned else start_of(run)
    return load_policy(run, name, tokenizer).eval()


def start_of(run: Run) -> str:
    """The weights that feedback tunes: those of supervised fine-tuning, else of pretraining."""
    return RESULT[SFT] if run.is_done(SFT) else RESULT["pretrain"]


def newest_reward_model(run: Run) -> str | None:
    """The file of the reward model that was trained last; None if there is none yet."""
    return next((name for name in REWARD_MODELS if (run.path / name).exists()), None)


def load_reward_model(
    run: Run, name: str, tokenizer: Tokenizer, conservatism: float = 0.0
) -> AnyReward:
    return run.load_model(name, empty_reward_model(run, tokenizer, conservatism))


def empty_reward_model(run: Run, tokenizer: Tokenizer, conservatism: float = 0.0) -> AnyReward:
    """A reward model with random weights."""
    return build.new_reward_model(
        run.config.model, run.config.reward, tokenizer.vocab_size, conservatism
    )


def new_reward_model(run: Run, tokenizer: Tokenizer, task: Task) -> AnyReward:
    """The reward model before it is trained on feedback, on the run's device.

    An encoder is pretrained first if the run has none.
    """
    model = empty_reward_model(run, tokenizer)
    if run.config.reward.start == "pretrained":
        if run.config.reward.body == "encoder":
            body: nn.Module = masked_language_model(run, tokenizer, task).body
        else:
            body = load_policy(run, start_of(run), tokenizer).body
        own = body.state_dict()
        for member in model.members:  # which read no soft prompt
            names = member.body.state_dict()
            member.body.load_state_dict({name: own[name] for name in names})
    return model.to(run.device)


def masked_language_model(run: Run, tokenizer: Tokenizer, task: Task) -> MaskedLanguageModel:
    """The run's encoder, pretrained once on the task's corpus and kept in encoder.safetensors."""
    if not (run.path / ENCODER).exists():
        log, checkpoints = run.log("masked-lm"), run.checkpoints("masked-lm")
        trained = pretrain_mlm(tokenizer, corpus_of(task), run.config, log, checkpoints)
        check_loss(log.rows, "masked-lm", run.config)
        check_finite({"encoder": trained}, "masked-lm", run.config)
        run.save_model(ENCODER, trained)
    empty = build.new_masked_language_model(run.config.model, tokenizer.vocab_size)
    return run.load_model(ENCODER, empty)
