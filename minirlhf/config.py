"""Every setting of a run, as plain dataclasses with the limits of each value (settings.py).

The command line (by tyro) and config.json (config_file.py) are both derived from them, and the
strings below the settings are the texts of --help.
(--help keeps the line breaks of these strings, so break them where a sentence ends.)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from minirlhf.settings import (
    MANY,
    Count,
    CountOrZero,
    Finite,
    NotNegative,
    Positive,
    PositiveOrInf,
    Range,
    Seed,
    Settings,
    Share,
)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Size of the policy and of the reward model, which have the same shape."""

    place = "model."
    vocab_size: Annotated[int, Range(at_least=256, at_most=MANY)] = 4096
    """Size of the byte-pair vocabulary, including the 256 single bytes."""
    context: Annotated[int, Range(at_least=2, at_most=MANY)] = 96
    """Maximum length of topic and text together, in tokens."""
    width: Count = 192
    """Numbers per token inside the transformer."""
    layers: Count = 2
    """Transformer blocks, one after the other."""
    heads: Count = 4
    """Attention heads per block, which share the width."""
    tie_embeddings: bool = True
    """The matrix that reads tokens also predicts them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.width % self.heads == 0
        self.require(fits, "width", f"a multiple of --model.heads ({self.heads})")


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """Learning from a fixed data set with Muon and AdamW. Each stage has its own defaults."""

    learning_rate: NotNegative = 5e-3
    """Learning rate of AdamW, which updates the embeddings, norms, biases and any head."""
    muon_learning_rate: NotNegative = 0.02
    """Learning rate of Muon, which updates the matrices of the blocks."""
    weight_decay: NotNegative = 0.01
    warmup: CountOrZero = 50
    """Steps over which the learning rate rises from 0; afterwards it decays linearly to 0."""


@dataclass(frozen=True)
class PretrainConfig(OptimizerConfig):
    """Autoregressive pretraining of the policy."""

    place = "pretrain."
    start: Literal["base", "scratch"] = "scratch"
    """base: a pretrained model (the shipped one, or `base`); scratch: random weights."""
    base: Path | None = None
    """Folder of another pretrained model, made by `pretrain --export`, to start from."""
    corpus_texts: Count = 20_000
    """Texts that the tasks `openings` and `assistant` compose for pretraining."""
    steps: CountOrZero = 1500
    """From a base: further steps on the task's corpus (0: as many as the task needs)."""
    batch_size: Count = 32
    """Texts per step."""
    learning_rate: NotNegative = 1.4e-2
    match_weight: NotNegative = 4.0
    """Initial weight of the auxiliary topic-matching loss; 0 disables it."""
    match_share: Annotated[float, Range(above=0, at_most=1)] = 0.6
    """Fraction of training over which match_weight decays linearly to 0."""
    evaluate_every: Count = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "scratch":
            self.require(
                self.base is None, "base", "no base with --from-scratch or --start scratch"
            )
            self.require(self.steps > 0, "steps", "at least 1 with --pretrain.start scratch")


@dataclass(frozen=True)
class EncoderPretrainConfig(OptimizerConfig):
    """Masked-LM pretraining of an encoder; read only with --reward.body encoder."""

    place = "reward.encoder."
    masking: Literal["dynamic", "static"] = "dynamic"
    """dynamic: different masked tokens each time (RoBERTa).
    static: one of ten masks drawn in advance (BERT)."""
    steps: Count = 1500
    learning_rate: NotNegative = 3e-3
    warmup: CountOrZero = 100


Tune = Literal["all", "soft-prompt", "soft-prompt-and-body"]


@dataclass(frozen=True)
class SoftPromptConfig(Settings):
    """Prompt tuning (提示调优): vectors learned before the prompt, where a stage tunes them."""

    length: Count = 20
    """Vectors before each prompt. Prompt and text have as many tokens less of the context."""
    start: Literal["random", "vocabulary", "demonstration"] = "demonstration"
    """First values: noise, embeddings of random tokens, or those of a demonstration (without
    demonstrations: of the best scored text, else of a text of the corpus)."""
    learning_rate: Positive = 0.3
    """Learning rate of Adam for the vectors."""


@dataclass(frozen=True)
class SFTSoftPromptConfig(SoftPromptConfig):
    place = "sft.soft_prompt."


@dataclass(frozen=True)
class FinetuneSoftPromptConfig(SoftPromptConfig):
    place = "finetune.soft_prompt."
    learning_rate: Positive = 0.25
    """Learning rate of Adam for the vectors."""


@dataclass(frozen=True)
class SFTConfig(OptimizerConfig):
    """Supervised fine-tuning on demonstrations (E10); skipped if there are none."""

    place = "sft."
    tune: Tune = "all"
    """all: every weight. soft-prompt: vectors before the prompt; the model itself is frozen.
    soft-prompt-and-body: both."""
    soft_prompt: SFTSoftPromptConfig = field(default_factory=SFTSoftPromptConfig)
    demonstrations: Path | None = None
    """Your own demonstrations (JSONL: prompt, answer) instead of the task's."""
    steps: Count = 120
    batch_size: Count = 32
    """Demonstrations per step."""
    learning_rate: NotNegative = 1e-3
    muon_learning_rate: NotNegative = 0.006
    weight_decay: NotNegative = 0.05
    warmup: CountOrZero = 20
    heldout_share: Annotated[float, Range(above=0, below=1)] = 0.1
    """Fraction of the prompts kept out of training, to measure the loss on."""
    evaluate_every: Count = 30
    keep: Literal["last", "best"] = "last"
    """last: the weights after all steps. best: those with the least held-out loss.
    That loss soon rises again, while samples still get better; so `best` stops too early."""
    patience: Count = 3
    """With --sft.keep best: stop after this many evaluations without an improvement."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learns = self.tune == "all" or self.learning_rate > 0
        self.require(learns, "learning_rate", "a number above 0 with a soft prompt")


@dataclass(frozen=True)
class RewardConfig(OptimizerConfig):
    """Reward model: regression on human scores (E7), or ranking of texts by them (E8)."""

    place = "reward."
    loss: Literal["mse", "ranking"] = "mse"
    """mse: learn the scores; ranking: learn which of two texts on a topic is better.
    In the task `assistant` four answers to each prompt are ranked, and it learns that."""
    min_gap: Share = 0.125
    """For ranking by scores: how far apart two scores (0 to 1) must lie to form a comparison.
    With 0, equal scores count as ties."""
    target: Literal["every-prefix", "final"] = "every-prefix"
    """Predict the score at every prefix of a text, or for whole texts only."""
    ensemble: Count = 1
    """Number of reward models; the score is their mean (see finetune.conservatism)."""
    start: Literal["pretrained", "fresh"] = "pretrained"
    """pretrained: copied from the policy (an encoder: trained to fill in masked tokens first).
    fresh: random weights."""
    body: Literal["causal", "encoder"] = "causal"
    """Causal like the policy, or bidirectional like BERT (one forward pass per prefix)."""
    encoder: EncoderPretrainConfig = field(default_factory=EncoderPretrainConfig)
    likelihood: bool = False
    """Also read how likely the text is by the language model inside the reward model."""
    own_texts: CountOrZero = 1000
    """Samples from the pretrained policy that are rated first, if the task has raters."""
    ranked_prompts: Annotated[int, Range(at_least=2, at_most=MANY)] = 3000
    """Prompts to each of which four answers are ranked, in a task with rankings."""
    ranked_answers: Literal["mixed", "sft"] = "mixed"
    """mixed: two samples of the SFT model, one of the base, one given to another prompt.
    sft: four samples of the SFT model, mostly ties, which invite reward hacking."""
    ranked_heldout: CountOrZero = 300
    """Prompts on held-out topics whose answers are ranked too, only to measure on."""
    steps: Count = 250
    batch_size: Annotated[int, Range(at_least=2, at_most=MANY)] = 48
    learning_rate: NotNegative = 5e-3
    muon_learning_rate: NotNegative = 0.015
    weight_decay: NotNegative = 0.05
    warmup: CountOrZero = 30
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Fraction of the text's tokens hidden at random during training, to reduce overfitting."""
    heldout_share: Annotated[float, Range(above=0, below=1)] = 0.05
    """Fraction of the feedback kept out of training.
    It decides when to stop; the reported correlation and MSE are measured on it."""
    evaluate_every: Count = 50
    patience: Count = 2
    """Stop after this many evaluations without an improvement of the held-out loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        causal = self.body == "causal" or not self.likelihood
        self.require(causal, "likelihood", "no likelihood with --reward.body encoder (not causal)")
        if self.body == "encoder" and self.loss == "ranking":
            self.require(self.target == "final", "target", "final with an encoder that ranks")


@dataclass(frozen=True)
class CreditConfig(Settings):
    """What each token is credited with: one reading of E5, minus a baseline."""

    credit: Literal["sequence", "per-token", "reward-to-go", "prefix-difference"] = "sequence"
    """Weight of token t.
    sequence: r(x,y) for all tokens. per-token: r_t (E5 as written).
    reward-to-go: the sum of r_k from t on. prefix-difference: r_t - r_(t-1)."""
    baseline: Literal["none", "batch-mean", "prefix-score"] = "prefix-score"
    """Subtract nothing, the batch mean, or r_(t-1) and then that mean."""
    gae_lambda: Share = 0.9
    """For credit sequence with baseline prefix-score:
    how much the differences r_k - r_(k-1) after token t count in its weight.
    1: fully, so that their sum is r(x,y) - r_(t-1) (no bias).
    0: only r_t - r_(t-1) (lowest variance, but only as accurate as the prefix scores)."""


@dataclass(frozen=True)
class ReinforceConfig(CreditConfig):
    """REINFORCE (section 4.1 of the article): one step of Adam per batch of samples."""

    place = "finetune.reinforce."


# Algorithms that compare the samples of one prompt with each other.
IN_GROUPS = ("rloo", "grpo")


@dataclass(frozen=True)
class GroupConfig(Settings):
    """RLOO and GRPO compare the samples of one prompt with each other."""

    place = "finetune.group."
    size: Annotated[int, Range(at_least=2, at_most=MANY)] = 4
    """Samples per prompt in an update."""


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Proximal policy optimisation (PPO, 近端策略优化): several clipped steps per batch."""

    place = "finetune.ppo."
    step_size, texts_at_once = "finetune.ppo.learning_rate", "minibatch_size"
    learning_rate: NotNegative = 2e-4
    """Learning rate of the policy and of the value function."""
    epochs: Count = 2
    """Passes over each batch of samples."""
    minibatch_size: Count = 32
    """Texts per step (the whole batch, if that is smaller)."""
    clip_range: Positive = 0.2
    """How far the probability ratio new/old of a token may move from 1 until it is clipped."""
    kl_stop: PositiveOrInf = 1.0
    """KL(old || new), in nats per text, at which an update stops early; inf: never."""
    value: Literal["separate", "shared", "prefix-score"] = "separate"
    """separate: the value function has its own body, which starts as the reward model's.
    shared: it is a linear layer on the policy's body.
    prefix-score: it is r_(t-1), the reward model's score of the text so far, plus its mean error
    at t; nothing is learned."""
    value_weight: NotNegative = 0.5
    """Weight of the value loss; matters most when policy and value share a body."""
    value_clip: PositiveOrInf = float("inf")
    """How far a value may move in one update, in reward units; inf disables value clipping."""
    discount: Share = 1.0
    gae_lambda: Share = 0.95
    """1: reward-to-go minus value (no bias); 0: one-step TD error (least variance, most bias)."""
    whiten: bool = True
    """Normalize the advantages of a batch to mean 0 and standard deviation 1."""
    entropy_weight: NotNegative = 0.0
    """Bonus per nat of entropy of the next-token distributions of a text."""


@dataclass(frozen=True)
class TRPOConfig(CreditConfig):
    """Trust region policy optimisation (TRPO, 信赖域策略优化).

    A step along the natural gradient, as long as a KL bound allows.
    """

    place = "finetune.trpo."
    step_size, texts_at_once = "finetune.trpo.delta", "fisher_texts"
    delta: Positive = 0.3
    """Bound on the mean KL(old || new) of an update, nats per text; replaces the learning rate."""
    cg_steps: Count = 5
    """Conjugate gradient steps: how accurately the Fisher matrix is inverted."""
    damping: NotNegative = 10.0
    """Added to the diagonal of the Fisher matrix.
    Regularizes directions whose curvature the sample estimates poorly."""
    fisher_texts: Count = 32
    """Texts used to estimate the Fisher matrix (the bound is checked on the whole batch)."""
    backtracks: Count = 10
    """Step lengths tried, each half of the previous one, before an update is given up."""


@dataclass(frozen=True)
class DPOConfig(Settings):
    """Direct preference optimisation (DPO, 直接偏好优化).

    Learns from comparisons alone, without a reward model, samples or rounds (E12).
    """

    place = "finetune.dpo."
    step_size, kl_price = "finetune.dpo.learning_rate", "finetune.dpo.beta"
    beta: Positive = 0.1
    """Penalty, in units of the implicit reward, per nat of KL to the reference.
    Replaces --finetune.kl-weight."""
    steps: Count = 60
    """Replaces --finetune.updates."""
    batch_size: Count = 32
    """Comparisons per step."""
    learning_rate: NotNegative = 1e-3
    """Learning rate of AdamW. Replaces --finetune.learning-rate."""


@dataclass(frozen=True)
class WarnConfig(Settings):
    """Thresholds for training warnings; each is issued once and names the setting to change."""

    place = "finetune.warn."
    entropy_floor: NotNegative = 0.2
    """Nats per token; an entropy below it means that all samples are becoming alike."""
    kl_ceiling: PositiveOrInf = 30.0
    """Nats per text; a KL above it means that the policy has drifted far from its reference."""
    window: Annotated[int, Range(at_least=2, at_most=MANY)] = 10
    """Updates per window. The means of windows are compared to detect reward hacking:
    a reward that rises while the judge's score falls."""


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Policy gradient on the reward model's scores, repeated in rounds; or DPO, on comparisons.

    Sections 4.1 to 4.3 of the article; the rounds are step 4 of its section 3.2.
    """

    place = "finetune."
    algorithm: Literal["reinforce", "rloo", "grpo", "ppo", "trpo", "dpo"] = "reinforce"
    """PPO and TRPO are those of section 3.2 of the article.
    RLOO and GRPO compare the samples of one prompt with each other.
    DPO learns directly from the comparisons, without a reward model's scores: no rounds, its own
    rate and steps."""
    tune: Tune = "all"
    """all: every weight. soft-prompt: vectors before the prompt, with REINFORCE, RLOO, GRPO or PPO;
    the model itself is frozen, and without the vectors it is the reference.
    soft-prompt-and-body: both."""
    soft_prompt: FinetuneSoftPromptConfig = field(default_factory=FinetuneSoftPromptConfig)
    updates: Count = 20
    batch_size: Annotated[int, Range(at_least=2, at_most=MANY)] = 128
    """Samples per update."""
    learning_rate: NotNegative = 2e-3
    """Learning rate of Adam in REINFORCE, RLOO and GRPO."""
    kl_weight: NotNegative = 0.02
    """Penalty, in reward units, per nat of KL to the reference."""
    kl_target: Positive | None = None
    """If given, the KL weight is adapted to keep the KL near this many nats per text."""
    pretraining_weight: NotNegative = 0.0
    """PPO-ptx, and the same for REINFORCE, RLOO, GRPO and DPO (E11):
    weight of the pretraining loss (nats per token), on a quarter as many unscored texts."""
    conservatism: NotNegative = 0.0
    """With an ensemble: the reward is the mean score minus this many standard deviations."""
    max_new_tokens: Count = 64
    gradient_clip: PositiveOrInf = 1.0
    """Norm to which a gradient is clipped; inf: never."""
    rounds: Count = 3
    """Between rounds, samples from the current policy are rated and the reward model is refitted.
    Without raters there is only one round."""
    ratings_per_round: Count = 750
    """Samples rated between two rounds."""
    refit_steps: Count = 36
    """Steps per refit, on all samples rated so far and as many texts of the task's feedback."""
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    group: GroupConfig = field(default_factory=GroupConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    trpo: TRPOConfig = field(default_factory=TRPOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    warn: WarnConfig = field(default_factory=WarnConfig)

    @property
    def of_algorithm(self) -> ReinforceConfig | GroupConfig | PPOConfig | TRPOConfig | DPOConfig:
        """The settings of the chosen algorithm alone."""
        return getattr(self, "group" if self.algorithm in IN_GROUPS else self.algorithm)

    @property
    def step_size(self) -> str:
        """The name of the setting that makes the chosen algorithm's steps larger or smaller."""
        if self.tune == "soft-prompt":
            return "finetune.soft_prompt.learning_rate"
        return getattr(self.of_algorithm, "step_size", "finetune.learning_rate")

    @property
    def kl_price(self) -> str:
        """The name of the setting that keeps the policy near its reference."""
        return getattr(self.of_algorithm, "kl_price", "finetune.kl_weight")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm in ("trpo", "dpo"):
            whole = f"all with {self.algorithm} (a soft prompt: reinforce, rloo, grpo or ppo)"
            self.require(self.tune == "all", "tune", whole)
        if self.algorithm in IN_GROUPS:
            divides = self.batch_size % self.group.size == 0
            whole = f"a divisor of --finetune.batch-size ({self.batch_size})"
            self.require(divides, "group.size", whole)
        if self.algorithm == "dpo":
            fixed = self.kl_target is None
            self.require(fixed, "kl_target", "None with dpo, whose --finetune.dpo.beta is fixed")
        learns = self.tune == "all" or min(self.learning_rate, self.ppo.learning_rate) > 0
        self.require(learns, "learning_rate", "a number above 0 with a soft prompt")
        if self.kl_target is not None:
            adaptable = self.kl_weight > 0
            self.require(
                adaptable, "kl_weight", "a number above 0 for --finetune.kl-target to adapt"
            )


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Independent judgement before and after fine-tuning."""

    place = "evaluate."
    samples: Annotated[int, Range(at_least=2, at_most=MANY)] = 512
    """Samples for each combination of before and after, training and held-out topics."""


@dataclass(frozen=True)
class CommonConfig(Settings):
    """Settings that all stages share."""

    task: Literal["openings", "reviews", "assistant"] = "openings"
    """openings: first sentences on a topic. reviews: sentences on a film, scored by people.
    assistant: instructions and dialogue."""
    size: Literal["tiny", "small", "gpu"] = "small"
    """Preset of all settings: `small` for any CPU, `gpu` for a GPU. `tiny`, a smaller model, to try
    commands: it writes worse. Both `gpu` and `tiny` pretrain a model of their own."""
    seed: Seed = 0
    """Of all random numbers. On a CPU the same seed gives the same run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA if there is such a GPU, else Apple's (mps), else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights are always float32.
    auto: bfloat16 on CUDA and on CPUs with instructions for it (AVX-512 BF16, AMX)."""
    feedback: Path | None = None
    """Your own scored texts (JSONL: topic, text, score) or comparisons (topic, better, worse)
    instead of the task's."""
    score_range: tuple[Finite, Finite] = (1.0, 5.0)
    """Lowest and highest score in that file."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.score_range
        self.require(low < high, "score_range", "the lowest and then the highest score")


@dataclass(frozen=True)
class Config(CommonConfig):
    """All settings of a run."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Check what the settings of different stages demand of each other."""
        super().__post_init__()
        reward, finetune = self.reward, self.finetune
        self.require(
            finetune.max_new_tokens < self.model.context,
            "finetune.max_new_tokens",
            f"less than --model.context ({self.model.context}), which the topic shares",
        )
        self.require(
            reward.ensemble > 1 or finetune.conservatism == 0,
            "finetune.conservatism",
            "0 without an ensemble (--reward.ensemble 2 or more)",
        )
        self.require(
            self.model.tie_embeddings or not reward.likelihood,
            "reward.likelihood",
            "no likelihood without --model.tie-embeddings",
        )
        if reward.body == "encoder" and finetune.algorithm == "ppo":
            self.require(
                finetune.ppo.value != "separate",
                "finetune.ppo.value",
                "shared or prefix-score with an encoder, which sees the tokens to come",
            )


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
        finetune=FinetuneConfig(
            updates=80,
            learning_rate=3e-4,
            rounds=4,
            dpo=DPOConfig(steps=200, learning_rate=2e-4),
        ),
    ),
}
"""The presets of `--size`; each setting can still be given on its own."""


def preset(size: str, task: str, scratch: bool = False, own_texts: bool = False) -> Config:
    """The settings of a run of `task` unless others are given. Raises KeyError for no such size.

    `scratch`: the run pretrains its model instead of starting from the shipped one.
    `own_texts`: the user's scored texts take the place of the task's.
    """
    config = SIZES[size]
    if scratch and config.pretrain.steps == 0:
        pretrain = dataclasses.replace(config.pretrain, steps=PretrainConfig.steps)
        config = dataclasses.replace(config, pretrain=pretrain)
    if task == "openings" and size == "small" and scratch and not own_texts:
        # A base that was pretrained for minutes still has much to gain from feedback.
        return dataclasses.replace(
            config,
            pretrain=dataclasses.replace(config.pretrain, steps=1100, corpus_texts=36_000),
            finetune=dataclasses.replace(config.finetune, updates=45),
        )
    if task != "assistant":
        return config
    # Answers are short, and a policy that answers well already must not be moved far.
    return dataclasses.replace(
        config,
        task="assistant",
        sft=dataclasses.replace(config.sft, steps=100, evaluate_every=25),
        # Its likelihoods order the answers well from the start, and large steps would spoil them.
        reward=dataclasses.replace(
            config.reward,
            likelihood=True,
            ranked_prompts=1200,
            heldout_share=0.1,
            steps=40,
            warmup=10,
            learning_rate=2e-4,
            muon_learning_rate=3e-4,
            weight_decay=0.0,
            evaluate_every=20,
            patience=3,
        ),
        finetune=dataclasses.replace(
            config.finetune,
            algorithm="ppo",
            updates=14 if size == "tiny" else 32,
            ppo=dataclasses.replace(
                config.finetune.ppo,
                value="prefix-score",
                epochs=1,
                minibatch_size=64,
                learning_rate=3e-4,
                gae_lambda=1.0,
            ),
            dpo=dataclasses.replace(config.finetune.dpo, learning_rate=2e-4),
            learning_rate=4e-4,
            kl_weight=0.01,
            batch_size=256,
            max_new_tokens=48,
            rounds=1,
            pretraining_weight=0.6,
            # A question leaves little choice: answers start at .25 nats per token.
            warn=dataclasses.replace(config.finetune.warn, entropy_floor=0.1),
        ),
        # Three splits and up to three models are judged.
        evaluate=EvaluateConfig(samples=min(config.evaluate.samples, 256)),
    )
