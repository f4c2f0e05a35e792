"""Every setting of a run, as plain dataclasses; the command line (tyro) and config.json are both read off them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class ModelConfig:
    """Size of the policy and of the reward model, which share one shape."""

    vocab_size: int = 4096
    """Tokens that byte-pair encoding may learn, the 256 bytes included."""
    context: int = 96
    """Longest row, topic and text together, in tokens."""
    width: int = 192
    layers: int = 2
    heads: int = 4
    tie_embeddings: bool = True


@dataclass(frozen=True)
class PretrainConfig:
    """Autoregressive pretraining of the policy."""

    start: Literal["base", "scratch"] = "scratch"
    """base: begin with a pretrained model (the shipped one, or `base`); scratch: with random weights."""
    base: Path | None = None
    """Folder of a pretrained model (made by `pretrain --export`) in place of the shipped one."""
    corpus_texts: int = 20_000
    """Texts that the task `openings` composes to pretrain on."""
    steps: int = 1500
    """From a base: further steps on the task's corpus (0: as many as the task needs)."""
    batch_size: int = 32
    """Texts a step."""
    learning_rate: float = 1.4e-2
    """Of AdamW, which has the embeddings, norms and biases."""
    muon_learning_rate: float = 0.02
    """Of Muon, which has the matrices of the blocks."""
    weight_decay: float = 0.01
    warmup: int = 50
    """Steps in which the learning rate rises from 0; it then falls to 0 along a straight line."""
    match_weight: float = 4.0
    """Beside the loss of the next token: how much "is this topic the text's own?" counts at first (in nats); 0 leaves it out."""
    match_share: float = 0.6
    """Share of the steps in which that weight falls to 0."""
    evaluate_every: int = 300


@dataclass(frozen=True)
class RewardConfig:
    """Reward model: regression of human scores (E7), or ranking of texts by them (E8)."""

    loss: Literal["mse", "ranking"] = "mse"
    """Learn scores, or which of two texts on a topic is better."""
    min_gap: float = 0.125
    """For ranking by scores: how far apart (0 to 1) two scores must lie to make a comparison; with 0, equal scores are ties."""
    target: Literal["every-prefix", "final"] = "every-prefix"
    """Learn the score at every prefix of a text, or for whole texts only."""
    ensemble: int = 1
    """Reward models to fit, each on batches of its own; the score is their mean (see finetune.conservatism)."""
    start: Literal["pretrained", "fresh"] = "pretrained"
    """Body copied from the pretrained policy (an encoder: pretrained by filling in hidden tokens), or with random weights."""
    body: Literal["causal", "encoder"] = "causal"
    """Causal as the policy's, or bidirectional as BERT's, which needs a pass for each prefix that it scores."""
    masking: Literal["dynamic", "static"] = "dynamic"
    """Encoder: hide other tokens each time (RoBERTa), or always one of ten choices made beforehand (BERT)."""
    mlm_steps: int = 1500
    mlm_learning_rate: float = 3e-3
    """Of AdamW, as `learning_rate` below."""
    mlm_muon_learning_rate: float = 0.02
    own_texts: int = 1000
    """Texts of the pretrained policy that are rated first, beside the task's feedback (if raters can be asked)."""
    steps: int = 250
    batch_size: int = 48
    learning_rate: float = 5e-3
    """Of AdamW, which has the embeddings, norms, biases and the head."""
    muon_learning_rate: float = 0.015
    """Of Muon, which has the matrices of the blocks."""
    weight_decay: float = 0.05
    warmup: int = 30
    dropout: float = 0.0
    """Share of the text's tokens hidden at random in training (against learning by heart)."""
    heldout_share: float = 0.05
    """Share of the feedback kept out of training; it decides when to stop and is what r and MSE are reported on."""
    evaluate_every: int = 50
    patience: int = 2
    """Stop after this many evaluations without a better held-out loss."""


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (PPO, 近端策略优化): several clipped steps for each batch of texts."""

    learning_rate: float = 2e-4
    """Of the policy and the value function."""
    epochs: int = 2
    """Times that each sampled text is learned from."""
    minibatch_size: int = 32
    """Texts a step."""
    clip_range: float = 0.2
    """How far a token's probability ratio new/old may leave 1 before its gradient is cut."""
    kl_stop: float = 1.0
    """Nats of KL(old || new) per text at which the remaining steps of an update are dropped; inf: never."""
    value: Literal["separate", "shared"] = "separate"
    """Value function: a body of its own that starts as the reward model's, or a linear layer on the policy's body."""
    value_weight: float = 0.5
    """Of the value loss beside the policy loss; matters most where the body is shared."""
    value_clip: float = float("inf")
    """How far a value may move in one update, in reward units; inf: as far as it likes."""
    discount: float = 1.0
    gae_lambda: float = 0.95
    """1: reward-to-go minus value (no bias); 0: the value function's word alone (least variance)."""
    whiten: bool = True
    """Give the advantages of a batch mean 0 and standard deviation 1."""
    entropy_weight: float = 0.0
    """Bonus for each nat of entropy of the next-token distributions of a text."""
    pretraining_weight: float = 0.0
    """PPO-ptx: weight of the pretraining loss (nats a token), on as many unscored texts, in each step."""


@dataclass(frozen=True)
class TRPOConfig:
    """Trust region policy optimisation (TRPO, 信赖域策略优化): the natural gradient, as far as a KL bound allows."""

    delta: float = 0.3
    """Bound of the mean KL(old || new) of one update, nats per text: it takes the place of a learning rate."""
    cg_steps: int = 5
    """Steps of conjugate gradient: how well the Fisher matrix is inverted."""
    damping: float = 10.0
    """Added to the diagonal of the Fisher matrix: distrust of directions in which few texts show any curvature."""
    fisher_texts: int = 32
    """Texts of the batch from which the Fisher matrix is taken (the bound itself is checked on all)."""
    credit: Literal["sequence", "per-token", "reward-to-go", "prefix-difference"] = "sequence"
    """As `credit` of REINFORCE (and like it with `baseline` and `gae_lambda`)."""
    backtracks: int = 10
    """Steps tried, each half of the one before, until an update is given up."""


@dataclass(frozen=True)
class WarnConfig:
    """When fine-tuning says, once for each kind, that something goes wrong and which knob to turn."""

    entropy_floor: float = 0.2
    """Nats per token: below, all texts are becoming one."""
    kl_ceiling: float = 30.0
    """Nats per text: above, the policy has left the language of its reference."""
    window: int = 10
    """Updates whose mean is compared when looking for a reward that rises while the judge falls."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Policy gradient on the reward model's scores (sections 4.1 to 4.3), repeated in rounds (step 4 of section 3.2)."""

    algorithm: Literal["reinforce", "rloo", "grpo", "ppo", "trpo"] = "reinforce"
    """PPO and TRPO are those of section 3.2; RLOO and GRPO compare the texts of one prompt with each other."""
    credit: Literal["sequence", "per-token", "reward-to-go", "prefix-difference"] = "sequence"
    """Weight of token t: r(x,y) for all tokens; r_t (E5 as written); the sum of r_k from t on; r_t - r_(t-1).
    For REINFORCE; TRPO has its own."""
    baseline: Literal["none", "batch-mean", "prefix-score"] = "prefix-score"
    """For REINFORCE and TRPO: subtract nothing, the batch's mean, or r_(t-1) and then the mean."""
    gae_lambda: float = 0.9
    """For credit sequence with baseline prefix-score: how much the steps r_k - r_(k-1) after token t count in its weight. 1: in
    full, their sum is r(x,y) - r_(t-1) (no bias); 0: r_t - r_(t-1) alone (least variance, as true as the scores of prefixes)."""
    group_size: int = 4
    """Texts sampled for each prompt of an update, by RLOO and GRPO."""
    updates: int = 20
    batch_size: int = 128
    """Texts sampled for an update."""
    learning_rate: float = 2e-3
    """Of REINFORCE, RLOO and GRPO."""
    kl_weight: float = 0.02
    """Reward units that one nat of KL to the reference costs."""
    kl_target: float | None = None
    """If given, the KL weight is adapted so that the KL of whole texts stays near this many nats."""
    conservatism: float = 0.0
    """With an ensemble: the reward is its mean minus this many standard deviations between its members."""
    max_new_tokens: int = 64
    gradient_clip: float = 1.0
    rounds: int = 3
    """Between rounds new texts of the present policy are rated and the reward model is refitted (if raters can be asked)."""
    ratings_per_round: int = 750
    """Texts rated between two rounds."""
    refit_steps: int = 36
    """On all texts rated on the way and as many of the task's own feedback, drawn anew for each refit."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    trpo: TRPOConfig = field(default_factory=TRPOConfig)
    warn: WarnConfig = field(default_factory=WarnConfig)

    def check(self) -> None:
        """Raises ValueError naming the setting and what was expected."""
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
                f"kl_weight: expected a number above 0 where kl_target is to turn it up, found {self.kl_weight}"
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
    """Independent judgement before and after."""

    samples: int = 512
    """Texts for each of: before and after, training and held-out topics."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    task: Literal["openings", "reviews"] = "openings"
    size: Literal["tiny", "small", "gpu"] = "small"
    """Where the settings start from: `small` for any CPU, `tiny` for a quick look, `gpu` for one large GPU."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights are float32 always. auto: bfloat16 on CUDA and on CPUs that multiply it (AVX-512 BF16, AMX)."""
    feedback: Path | None = None
    """Your own scored texts (JSONL: topic, text, score) in place of the task's."""
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
"""What `--size` stands for; each single setting can still be given."""


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
            "--finetune.ppo.value: expected shared with an encoder, which sees the tokens to come; found separate"
        )
    if config.reward.ensemble == 1 and config.finetune.conservatism:
        raise ValueError(
            "--finetune.conservatism: expected an ensemble to disagree (--reward.ensemble 2 or more), found 1 model"
        )


def to_json(config: Config) -> dict:
    """A JSON object with every setting."""
    content = dataclasses.asdict(config)
    content["feedback"] = None if config.feedback is None else str(config.feedback)
    base = config.pretrain.base
    content["pretrain"]["base"] = None if base is None else str(base)
    return content


def from_json(content: object, where: str) -> Config:
    """The inverse of `to_json`. Raises ValueError naming `where` and the field that is unknown or of the wrong type."""
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
    """Raises ValueError unless a JSON value is of the type that a setting is annotated with."""
    if get_origin(hint) is Literal:
        good, words = value in get_args(hint), "one of " + ", ".join(map(str, get_args(hint)))
    elif get_origin(hint) is tuple:
        good = (
            isinstance(value, list)
            and len(value) == len(get_args(hint))
            and all(type(x) in (int, float) for x in value)
        )
        words = f"a list of {len(get_args(hint))} numbers"
    else:  # T or T | None; JSON writes whole floats as int, and paths as str
        kinds = {str if kind is Path else kind for kind in get_args(hint) or (hint,)}
        good, words = (
            type(value) in kinds | ({int} if float in kinds else set()),
            " or ".join(sorted(k.__name__ for k in kinds)),
        )
    if not good:
        raise ValueError(f"{where}: expected {words}, found {value!r}")


def _fill(kind: type, content: object, where: str):
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
