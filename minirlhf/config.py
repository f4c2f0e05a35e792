"""Every setting of a run, as plain dataclasses.

The command line (by tyro) and config.json are both derived from them, and the strings below the
settings are the texts of --help.
(--help keeps the line breaks of these strings, so break them where a sentence ends.)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class ModelConfig:
    """Size of the policy and of the reward model, which have the same shape."""

    vocab_size: int = 4096
    """Size of the byte-pair vocabulary, including the 256 single bytes."""
    context: int = 96
    """Maximum length of topic and text together, in tokens."""
    width: int = 192
    layers: int = 2
    heads: int = 4
    tie_embeddings: bool = True


@dataclass(frozen=True)
class PretrainConfig:
    """Autoregressive pretraining of the policy."""

    start: Literal["base", "scratch"] = "scratch"
    """base: a pretrained model (the shipped one, or `base`); scratch: random weights."""
    base: Path | None = None
    """Folder of another pretrained model, made by `pretrain --export`, to start from."""
    corpus_texts: int = 20_000
    """Texts that the task `openings` composes for pretraining."""
    steps: int = 1500
    """From a base: further steps on the task's corpus (0: as many as the task needs)."""
    batch_size: int = 32
    """Texts per step."""
    learning_rate: float = 1.4e-2
    """Learning rate of AdamW, which updates the embeddings, norms and biases."""
    muon_learning_rate: float = 0.02
    """Learning rate of Muon, which updates the matrices of the blocks."""
    weight_decay: float = 0.01
    warmup: int = 50
    """Steps over which the learning rate rises from 0; afterwards it decays linearly to 0."""
    match_weight: float = 4.0
    """Initial weight of the auxiliary topic-matching loss; 0 disables it."""
    match_share: float = 0.6
    """Fraction of training over which match_weight decays linearly to 0."""
    evaluate_every: int = 300


@dataclass(frozen=True)
class RewardConfig:
    """Reward model: regression on human scores (E7), or ranking of texts by them (E8)."""

    loss: Literal["mse", "ranking"] = "mse"
    """mse: learn the scores; ranking: learn which of two texts on a topic is better."""
    min_gap: float = 0.125
    """For ranking by scores: how far apart two scores (0 to 1) must lie to form a comparison.
    With 0, equal scores count as ties."""
    target: Literal["every-prefix", "final"] = "every-prefix"
    """Predict the score at every prefix of a text, or for whole texts only."""
    ensemble: int = 1
    """Number of reward models; the score is their mean (see finetune.conservatism)."""
    start: Literal["pretrained", "fresh"] = "pretrained"
    """pretrained: copied from the policy (an encoder: trained to fill in masked tokens first).
    fresh: random weights."""
    body: Literal["causal", "encoder"] = "causal"
    """Causal like the policy, or bidirectional like BERT (one forward pass per prefix)."""
    masking: Literal["dynamic", "static"] = "dynamic"
    """For the encoder. dynamic: different masked tokens each time (RoBERTa).
    static: one of ten masks drawn in advance (BERT)."""
    mlm_steps: int = 1500
    mlm_learning_rate: float = 3e-3
    """Learning rate of AdamW when pretraining the encoder."""
    mlm_muon_learning_rate: float = 0.02
    own_texts: int = 1000
    """Samples from the pretrained policy that are rated first, if the task has raters."""
    steps: int = 250
    batch_size: int = 48
    learning_rate: float = 5e-3
    """Learning rate of AdamW, which updates the embeddings, norms, biases and the head."""
    muon_learning_rate: float = 0.015
    """Learning rate of Muon, which updates the matrices of the blocks."""
    weight_decay: float = 0.05
    warmup: int = 30
    dropout: float = 0.0
    """Fraction of the text's tokens hidden at random during training, to reduce overfitting."""
    heldout_share: float = 0.05
    """Fraction of the feedback kept out of training.
    It decides when to stop; the reported correlation and MSE are measured on it."""
    evaluate_every: int = 50
    patience: int = 2
    """Stop after this many evaluations without an improvement of the held-out loss."""


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (PPO, 近端策略优化): several clipped steps per batch."""

    learning_rate: float = 2e-4
    """Learning rate of the policy and of the value function."""
    epochs: int = 2
    """Passes over each batch of samples."""
    minibatch_size: int = 32
    """Texts per step."""
    clip_range: float = 0.2
    """How far the probability ratio new/old of a token may move from 1 until it is clipped."""
    kl_stop: float = 1.0
    """KL(old || new), in nats per text, at which an update stops early; inf: never."""
    value: Literal["separate", "shared"] = "separate"
    """separate: the value function has its own body, which starts as the reward model's.
    shared: it is a linear layer on the policy's body."""
    value_weight: float = 0.5
    """Weight of the value loss; matters most when policy and value share a body."""
    value_clip: float = float("inf")
    """How far a value may move in one update, in reward units; inf disables value clipping."""
    discount: float = 1.0
    gae_lambda: float = 0.95
    """1: reward-to-go minus value (no bias); 0: one-step TD error (least variance, most bias)."""
    whiten: bool = True
    """Normalize the advantages of a batch to mean 0 and standard deviation 1."""
    entropy_weight: float = 0.0
    """Bonus per nat of entropy of the next-token distributions of a text."""
    pretraining_weight: float = 0.0
    """PPO-ptx: weight of the pretraining loss (nats per token), on equally many unscored texts."""


@dataclass(frozen=True)
class TRPOConfig:
    """Trust region policy optimisation (TRPO, 信赖域策略优化).

    A step along the natural gradient, as long as a KL bound allows.
    """

    delta: float = 0.3
    """Bound on the mean KL(old || new) of an update, nats per text; replaces the learning rate."""
    cg_steps: int = 5
    """Conjugate gradient steps: how accurately the Fisher matrix is inverted."""
    damping: float = 10.0
    """Added to the diagonal of the Fisher matrix.
    Regularizes directions whose curvature the sample estimates poorly."""
    fisher_texts: int = 32
    """Texts used to estimate the Fisher matrix (the bound is checked on the whole batch)."""
    credit: Literal["sequence", "per-token", "reward-to-go", "prefix-difference"] = "sequence"
    """As `credit` of REINFORCE (`baseline` and `gae_lambda` apply as well)."""
    backtracks: int = 10
    """Step lengths tried, each half of the previous one, before an update is given up."""


@dataclass(frozen=True)
class WarnConfig:
    """Thresholds for training warnings; each is issued once and names the setting to change."""

    entropy_floor: float = 0.2
    """Nats per token; an entropy below it means that all samples are becoming alike."""
    kl_ceiling: float = 30.0
    """Nats per text; a KL above it means that the policy has drifted far from its reference."""
    window: int = 10
    """Updates per window. The means of windows are compared to detect reward hacking:
    a reward that rises while the judge's score falls."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Policy gradient on the reward model's scores, repeated in rounds.

    Sections 4.1 to 4.3 of the article; the rounds are step 4 of its section 3.2.
    """

    algorithm: Literal["reinforce", "rloo", "grpo", "ppo", "trpo"] = "reinforce"
    """PPO and TRPO are those of section 3.2 of the article.
    RLOO and GRPO compare the samples of one prompt with each other."""
    credit: Literal["sequence", "per-token", "reward-to-go", "prefix-difference"] = "sequence"
    """Weight of token t, for REINFORCE (TRPO has its own setting).
    sequence: r(x,y) for all tokens. per-token: r_t (E5 as written).
    reward-to-go: the sum of r_k from t on. prefix-difference: r_t - r_(t-1)."""
    baseline: Literal["none", "batch-mean", "prefix-score"] = "prefix-score"
    """For REINFORCE and TRPO: subtract nothing, the batch mean, or r_(t-1) and then that mean."""
    gae_lambda: float = 0.9
    """For credit sequence with baseline prefix-score:
    how much the differences r_k - r_(k-1) after token t count in its weight.
    1: fully, so that their sum is r(x,y) - r_(t-1) (no bias).
    0: only r_t - r_(t-1) (lowest variance, but only as accurate as the prefix scores)."""
    group_size: int = 4
    """For RLOO and GRPO: samples per prompt in an update."""
    updates: int = 20
    batch_size: int = 128
    """Samples per update."""
    learning_rate: float = 2e-3
    """For REINFORCE, RLOO and GRPO."""
    kl_weight: float = 0.02
    """Penalty, in reward units, per nat of KL to the reference."""
    kl_target: float | None = None
    """If given, the KL weight is adapted to keep the KL near this many nats per text."""
    conservatism: float = 0.0
    """With an ensemble: the reward is the mean score minus this many standard deviations."""
    max_new_tokens: int = 64
    gradient_clip: float = 1.0
    rounds: int = 3
    """Between rounds, samples from the current policy are rated and the reward model is refitted.
    Without raters there is only one round."""
    ratings_per_round: int = 750
    """Samples rated between two rounds."""
    refit_steps: int = 36
    """Steps per refit, on all samples rated so far and as many texts of the task's feedback."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    trpo: TRPOConfig = field(default_factory=TRPOConfig)
    warn: WarnConfig = field(default_factory=WarnConfig)

    def check(self) -> None:
        """Raise ValueError naming the setting and what was expected."""
        if self.algorithm in ("rloo", "grpo") and (
            self.group_size < 2 or self.batch_size % self.group_size
        ):
            raise ValueError(
                f"group_size: expected at least 2 and a divisor of batch_size={self.batch_size}, "
                f"found {self.group_size}"
            )
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda: expected a number in [0, 1], found {self.gae_lambda}")
        if self.kl_target is not None and not self.kl_weight > 0:
            raise ValueError(
                "kl_weight: expected a number above 0 where kl_target is to turn it up, "
                f"found {self.kl_weight}"
            )
        for name in ("epochs", "minibatch_size"):
            if getattr(self.ppo, name) < 1:
                raise ValueError(
                    f"ppo.{name}: expected at least 1, found {getattr(self.ppo, name)}"
                )
        for name in ("clip_range", "value_clip", "kl_stop"):
            if not getattr(self.ppo, name) > 0:
                raise ValueError(
                    f"ppo.{name}: expected a number above 0, found {getattr(self.ppo, name)}"
                )
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self.ppo, name) <= 1:
                raise ValueError(
                    f"ppo.{name}: expected a number in [0, 1], found {getattr(self.ppo, name)}"
                )
        if not self.trpo.delta > 0:
            raise ValueError(f"trpo.delta: expected a number above 0, found {self.trpo.delta}")
        for name in ("cg_steps", "fisher_texts", "backtracks"):
            if getattr(self.trpo, name) < 1:
                raise ValueError(
                    f"trpo.{name}: expected at least 1, found {getattr(self.trpo, name)}"
                )


@dataclass(frozen=True)
class EvaluateConfig:
    """Independent judgement before and after fine-tuning."""

    samples: int = 512
    """Samples for each combination of before and after, training and held-out topics."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    task: Literal["openings", "reviews"] = "openings"
    size: Literal["tiny", "small", "gpu"] = "small"
    """Preset of all settings: `small` for any CPU, `tiny` for a quick look, `gpu` for a GPU."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights are always float32.
    auto: bfloat16 on CUDA and on CPUs with instructions for it (AVX-512 BF16, AMX)."""
    feedback: Path | None = None
    """Your own scored texts (JSONL: topic, text, score) instead of the task's."""
    score_range: tuple[float, float] = (1.0, 5.0)
    """Lowest and highest score in that file."""
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


SIZES = {
    "tiny": Config(
        size="tiny",
        model=ModelConfig(vocab_size=2048, width=128),
        pretrain=PretrainConfig(steps=400),
        reward=RewardConfig(own_texts=500, steps=150, evaluate_every=50),
        finetune=FinetuneConfig(updates=16, batch_size=96, rounds=2, ratings_per_round=300),
        evaluate=EvaluateConfig(samples=128),
    ),
    "small": Config(pretrain=PretrainConfig(start="base", steps=0)),
    "gpu": Config(
        size="gpu",
        model=ModelConfig(width=512, layers=6, heads=8),
        pretrain=PretrainConfig(
            corpus_texts=200_000, steps=3000, batch_size=64, learning_rate=5e-3, evaluate_every=500
        ),
        reward=RewardConfig(
            own_texts=2000, steps=500, batch_size=64, learning_rate=1e-3, evaluate_every=100
        ),
        finetune=FinetuneConfig(updates=80, learning_rate=3e-4, rounds=4),
    ),
}
"""The presets of `--size`; each setting can still be given on its own."""


def check_config(config: Config) -> None:
    """Raise ValueError, one line, for settings that do not go together."""
    if config.reward.ensemble < 1:
        raise ValueError(
            f"--reward.ensemble: expected at least 1 reward model, found {config.reward.ensemble}"
        )
    if (
        config.reward.body == "encoder"
        and config.reward.loss == "ranking"
        and config.reward.target != "final"
    ):
        raise ValueError(
            "--reward.target: expected final with an encoder that ranks, found every-prefix"
        )
    if (
        config.reward.body == "encoder"
        and config.finetune.algorithm == "ppo"
        and config.finetune.ppo.value == "separate"
    ):
        raise ValueError(
            "--finetune.ppo.value: expected shared with an encoder, which sees the tokens to come; "
            "found separate"
        )
    if config.reward.ensemble == 1 and config.finetune.conservatism:
        raise ValueError(
            "--finetune.conservatism: expected an ensemble (--reward.ensemble 2 or more), "
            "found 1 model"
        )


def to_json(config: Config) -> dict:
    """A JSON object with every setting."""
    content = dataclasses.asdict(config)
    content["feedback"] = None if config.feedback is None else str(config.feedback)
    base = config.pretrain.base
    content["pretrain"]["base"] = None if base is None else str(base)
    return content


def from_json(content: object, where: str) -> Config:
    """The inverse of `to_json`.

    Raises ValueError naming `where` and the field that is unknown or of the wrong type.
    """
    config = _fill(Config, content, where)
    feedback = None if config.feedback is None else Path(config.feedback)
    base = None if config.pretrain.base is None else Path(config.pretrain.base)
    return dataclasses.replace(
        config,
        feedback=feedback,
        score_range=tuple(config.score_range),
        pretrain=dataclasses.replace(config.pretrain, base=base),
    )


def _check_type(hint: object, value: object, where: str) -> None:
    """Raise ValueError unless a JSON value has the type that the setting is annotated with."""
    if get_origin(hint) is Literal:
        good = value in get_args(hint)
        words = "one of " + ", ".join(map(str, get_args(hint)))
    elif get_origin(hint) is tuple:
        good = (
            isinstance(value, list)
            and len(value) == len(get_args(hint))
            and all(type(x) in (int, float) for x in value)
        )
        words = f"a list of {len(get_args(hint))} numbers"
    else:  # T or T | None; JSON writes whole floats as int, and paths as str
        kinds = {str if kind is Path else kind for kind in get_args(hint) or (hint,)}
        words = " or ".join(sorted(kind.__name__ for kind in kinds))
        good = type(value) in (kinds | {int} if float in kinds else kinds)
    if not good:
        raise ValueError(f"{where}: expected {words}, found {value!r}")


def _fill(kind: type, content: object, where: str):
    """A dataclass of type `kind` filled from a JSON object; missing fields get their defaults."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(content).__name__}")
    default, hints = kind(), get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if not hasattr(default, name):
            raise ValueError(f"{where}: unknown field {name!r}")
        old = getattr(default, name)
        if dataclasses.is_dataclass(old):
            value = _fill(type(old), value, f"{where}: {name}")
        else:
            _check_type(hints[name], value, f"{where}: {name}")
        values[name] = value
    return kind(**values)
