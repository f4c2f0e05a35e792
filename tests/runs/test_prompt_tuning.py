"""Stages that train a soft prompt: what learns, the reference, what is saved and resumed."""

from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from conftest import TINY

from minirlhf.cli.main import main, parse
from minirlhf.cli.options import SFT as SFTOptions
from minirlhf.cli.options import Chat as ChatOptions
from minirlhf.cli.options import Finetune
from minirlhf.cli.unread import refuse_unread
from minirlhf.config import (
    Config,
    FinetuneConfig,
    FinetuneSoftPromptConfig,
    GroupConfig,
    ModelConfig,
    SFTConfig,
    SFTSoftPromptConfig,
)
from minirlhf.evaluation.judge import sequence_kl
from minirlhf.models import build
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.soft_prompt import SoftPromptPolicy
from minirlhf.runs import chat, divergence, pipeline, plan, products, run_models
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.settings import SettingError
from minirlhf.system.files import load_tensors
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.algorithms.make import make_algorithm
from minirlhf.training.rollout import Models, collect
from minirlhf.training.tuning import policy_to_tune, reference_of

PAIRS = [(f"prompt {number}", f"It is {number}.") for number in range(6)]
TASK = Task(
    name="openings",
    train_prompts=["tea", "coffee"],
    heldout_prompts=["tea"],
    corpus=PAIRS,
    corpus_heldout=PAIRS,
    judge=lambda topic, text: 0.5,
    judge_name="nobody",
    demonstrations=PAIRS,
)
TUNED = FinetuneConfig(
    tune="soft-prompt",
    soft_prompt=FinetuneSoftPromptConfig(length=4),
    updates=3,
    batch_size=8,
    max_new_tokens=6,
    group=GroupConfig(size=2),
    ratings_per_round=4,
)
CONFIG = dataclasses.replace(
    TINY,
    model=ModelConfig(vocab_size=256, context=48, width=16, layers=1, heads=2),
    sft=SFTConfig(
        tune="soft-prompt",
        soft_prompt=SFTSoftPromptConfig(length=4),
        steps=6,
        batch_size=4,
        warmup=1,
        evaluate_every=2,
    ),
    finetune=TUNED,
)
TOKENIZER = Tokenizer([bytes([value]) for value in range(256)])


def new_run(path, config: Config = CONFIG) -> Run:
    """A run with a pretrained policy and a reward model, as its stages would leave them."""
    run = Run.create(path, config)
    TOKENIZER.save(run.path / "tokenizer.json")
    torch.manual_seed(0)
    policy = build.new_policy(config.model, TOKENIZER.vocab_size)
    reward_model = RewardModel(policy.config)
    torch.nn.init.normal_(reward_model.score.weight)
    run.finish_stage("pretrain", 1.0, {products.RESULT["pretrain"]: policy})
    run.finish_stage("reward", 1.0, {products.RESULT["reward"]: reward_model})
    return run


@pytest.fixture(autouse=True)
def no_feedback(monkeypatch):
    monkeypatch.setattr(pipeline, "split_feedback", lambda *_: ([], []))


def tensors(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_tensors(run.path / products.RESULT[stage])[0]


def test_both_stages_leave_a_small_file_that_all_that_follows_reads(tmp_path, capsys, monkeypatch):
    run = new_run(tmp_path / "r")
    pipeline.sft_stage(run, TASK)
    pipeline.finetune_stage(run, TASK)
    shown, tuned = tensors(run, "sft"), tensors(run, "finetune")
    assert shown.keys() == tuned.keys() == {"vectors"}
    assert not torch.equal(shown["vectors"], tuned["vectors"])
    losses = [
        row["loss_nats_per_token"] for row in run.read("metrics.jsonl") if "sft" in row["stage"]
    ]
    assert losses[-1] < losses[0]  # the sign is right

    after = run_models.model_for_sampling(run, TOKENIZER, tuned=True)
    assert torch.equal(after.soft_prompt.vectors, tuned["vectors"])
    base = run_models.load_policy(run, "pretrained.safetensors", TOKENIZER)
    assert torch.equal(after.head.weight, base.head.weight)
    # A reward model starts from the body, without the vectors.
    own = run_models.new_reward_model(run, TOKENIZER, TASK).body.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in base.body.state_dict().items())
    talk = chat.open_chat(run)
    assert talk.context == 44 and talk.writers == ["base", "sft", "tuned"]
    talk.ask("tea")
    assert all("".join(talk.answer(name)) for name in talk.writers)

    # Rows of one batch, each behind the prompt of its run; and on the command line.
    run.save_model(products.REWARD_FINAL, RewardModel(base.config))
    mixed = run_models.behind_soft_prompts(run, [run.path, run.path], 2, TOKENIZER)
    assert torch.equal(mixed.soft_prompt.vectors, tuned["vectors"].expand(4, -1, -1))
    words = ["--run", "r", "--runs", str(tmp_path), "--count", "2", "--device", "cpu"]
    main(["sample", "tea", *words, "--soft-prompt", "r,r"])
    lines = capsys.readouterr().out
    assert lines.count("r: ") >= 4

    # A chat with the body of one run behind the prompt of another.
    talk = chat.open_chat(run, soft_prompt=run.path)
    assert talk.name == "soft prompt r" and talk.writers == ["base", "sft", "tuned", talk.name]
    talk.ask("tea")
    texts = {name: "".join(talk.answer(name)) for name in talk.writers}
    assert texts[talk.name] == texts["tuned"] != texts["base"] and talk.context == 44
    monkeypatch.setattr("sys.stdin", io.StringIO("tea\n"))
    words = ["--run", "r", "--runs", str(tmp_path), "--device", "cpu"]
    main(["chat", *words, "--soft-prompt", "r"])
    assert capsys.readouterr().out == texts["tuned"] + "\n"
    with pytest.raises(SystemExit):
        main(["chat", *words, "--soft-prompt", "nobody"])
    error = capsys.readouterr().err
    assert "nobody: expected a run with a soft prompt, found none" in error
    assert error.count("\n") == 1

    # On another base they are refused.
    other = build.new_policy(CONFIG.model, TOKENIZER.vocab_size)
    run.save_model(products.RESULT["pretrain"], other)
    with pytest.raises(ValueError, match=r"sft\.safetensors: expected a soft prompt of this base"):
        run_models.load_policy(run, "sft.safetensors", TOKENIZER)
    refused = r"policy\.safetensors: expected a soft prompt of this base"
    with pytest.raises(ValueError, match=refused):
        chat.open_chat(run, soft_prompt=run.path)


@pytest.mark.parametrize("stage", ["sft", "finetune"])
def test_an_interrupted_stage_goes_on_bit_for_bit(tmp_path, monkeypatch, stage):
    whole, part = new_run(tmp_path / "whole"), new_run(tmp_path / "part")
    task = TASK if stage == "sft" else dataclasses.replace(TASK, demonstrations=())
    work = pipeline.STAGE_FUNCTIONS[stage]
    work(whole, task)

    def save_and_stop(self, step: int) -> None:
        self.save(step)
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Checkpoints, "maybe_save", save_and_stop)
        work(part, task)
    body = 16 * 256  # numbers of the embedding alone
    saved = load_tensors(part.path / products.CHECKPOINT)[0]
    assert max(tensor.numel() for name, tensor in saved.items() if "policy/" in name) < body
    work(part, task)
    assert torch.equal(tensors(whole, stage)["vectors"], tensors(part, stage)["vectors"])


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo", "ppo"])
def test_a_frozen_body_is_its_own_reference(tmp_path, algorithm):
    """The ratio is 1 before the first update; behind a learned prompt the KL begins at 0."""
    run = new_run(tmp_path / "r")
    settings = dataclasses.replace(TUNED, algorithm=algorithm)
    config = dataclasses.replace(CONFIG, finetune=settings)
    base = run_models.load_policy(run, "pretrained.safetensors", TOKENIZER)
    reward_model = run_models.load_reward_model(run, "reward.safetensors", TOKENIZER)
    for start in (base, SoftPromptPolicy(base, torch.randn(4, 16))):
        reference = reference_of(start, "soft-prompt")
        policy = policy_to_tune(start, settings, TASK, TOKENIZER, 0)
        assert reference.body.blocks is policy.body.blocks is base.body.blocks  # one body
        models = Models(policy, reference, reward_model, TOKENIZER)
        prompts = [models.prompt("tea")] * 8
        rollout = collect(models, prompts, 6, torch.Generator().manual_seed(0))
        kl = sequence_kl(policy, reference, rollout)
        assert (kl == 0).all() if start is not base else (kl > 0).any()
        weights = {name: weight.clone() for name, weight in policy.state_dict().items()}
        metrics = make_algorithm(models, config).update(rollout, 0)
        if algorithm != "ppo":  # which takes several steps
            assert float(metrics["ratio_max"]) == pytest.approx(1, abs=1e-4)
        moved = [
            name
            for name, weight in policy.state_dict().items()
            if not torch.equal(weight, weights[name])
        ]
        assert moved == ["body.soft_prompt.vectors"]
        assert (sequence_kl(policy, reference, rollout) > 0).any()  # which has not moved along


def test_feedback_moves_the_vectors_towards_reward(tmp_path):
    run = new_run(tmp_path / "r")
    base = run_models.load_policy(run, "pretrained.safetensors", TOKENIZER)
    reward_model = run_models.load_reward_model(run, "reward.safetensors", TOKENIZER)
    with torch.no_grad():
        for weight in base.parameters():
            weight.add_(0.4 * torch.randn_like(weight))  # what it reads matters
    wanted = base.body.token_embedding.weight[:, 0] > 0  # half of the tokens
    settings = dataclasses.replace(
        TUNED,
        algorithm="rloo",
        soft_prompt=FinetuneSoftPromptConfig(length=4, learning_rate=0.1),
        updates=30,
        batch_size=64,
        kl_weight=0.0,
    )
    config = dataclasses.replace(CONFIG, finetune=settings)
    policy = policy_to_tune(base, settings, TASK, TOKENIZER, 0)
    models, shares = Models(policy, base, reward_model, TOKENIZER), []
    algorithm = make_algorithm(models, config)
    for update in range(30):
        generator = torch.Generator().manual_seed(update)
        rollout = collect(models, [models.prompt("tea")] * 64, 6, generator)
        hits = (wanted[rollout.tokens] & rollout.mask).float()
        rollout.reward = hits.sum(1) / rollout.mask.sum(1)
        shares.append(float(rollout.reward.mean()))
        algorithm.update(rollout, update)
    assert shares[-1] > shares[0] + 0.1


def test_soft_prompt_and_body_learn_together(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        sft=dataclasses.replace(CONFIG.sft, tune="soft-prompt-and-body"),
        finetune=dataclasses.replace(TUNED, updates=2),
    )
    run = new_run(tmp_path / "r", config)
    pipeline.sft_stage(run, TASK)
    shown, base = tensors(run, "sft"), tensors(run, "pretrain")
    assert shown.keys() - base.keys() == {"body.soft_prompt.vectors"}
    assert all(not torch.equal(shown[name], base[name]) for name in base if "mlp" in name)
    pipeline.finetune_stage(run, TASK)  # the vectors alone, on that body
    assert tensors(run, "finetune").keys() == {"vectors"}
    after = run_models.model_for_sampling(run, TOKENIZER, tuned=True)
    name = "body.blocks.0.mlp_in.weight"
    assert torch.equal(after.state_dict()[name], shown[name])


def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path):
    for algorithm in ("trpo", "dpo"):
        with pytest.raises(SettingError, match=rf"tune: expected all with {algorithm}"):
            FinetuneConfig(algorithm=algorithm, tune="soft-prompt")

    def check(**lengths: int) -> None:
        parts = {}
        for name, length in lengths.items():
            part = getattr(CONFIG, name)
            prompt = dataclasses.replace(part.soft_prompt, length=length)
            parts[name] = dataclasses.replace(part, soft_prompt=prompt)
        config = dataclasses.replace(CONFIG, **parts)
        plan.check_soft_prompts(plan.Plan(tmp_path, config, products.STAGES), TASK)

    check(sft=5, finetune=5)
    with pytest.raises(SettingError, match="length: expected 5, as the soft prompt of sft"):
        check(sft=5)
    with pytest.raises(SettingError, match=r"sft\S+length: expected less than 42.*of 48, found 42"):
        check(sft=42, finetune=42)
    for stage in ("sft", "finetune"):  # an option that nothing would read
        with pytest.raises(SettingError, match=rf"{stage}\S+length: .* --{stage}.tune all, which"):
            options = SFTOptions() if stage == "sft" else Finetune()
            part = getattr(options, stage)
            prompt = dataclasses.replace(part.soft_prompt, length=5)
            given = dataclasses.replace(part, soft_prompt=prompt)
            refuse_unread(dataclasses.replace(options, **{stage: given}), options)
    with pytest.raises(SettingError, match=r"^--model: .* --soft-prompt"):
        ChatOptions(model="base", soft_prompt="r")
    base = build.new_policy(CONFIG.model, TOKENIZER.vocab_size)
    start = SoftPromptPolicy(base, torch.zeros(7, 16))
    with pytest.raises(ValueError, match=r"--finetune\.soft-prompt\.length: expected 7.*found 4"):
        policy_to_tune(start, TUNED, TASK, TOKENIZER, 0)


@pytest.mark.parametrize(
    "words, setting",
    [
        (["sft", "--learning-rate", "0.01"], "sft.learning-rate"),
        (["sft", "--muon-learning-rate", "0.01"], "sft.muon-learning-rate"),
        (["sft", "--weight-decay", "0"], "sft.weight-decay"),
        (["finetune", "--learning-rate", "0.01"], "finetune.learning-rate"),
        (["iterate", "--learning-rate", "0.01"], "finetune.learning-rate"),
        (["demo", "--finetune.learning-rate", "0.01"], "finetune.learning-rate"),
        (["finetune", "--algorithm", "ppo", "--learning-rate", "0.01"], "finetune.learning-rate"),
    ],
)
def test_a_rate_of_frozen_weights_is_refused(words, setting):
    stage = setting.partition(".")[0]
    tune = "--finetune.tune" if words[0] == "demo" else "--tune"
    with pytest.raises(SettingError) as error:
        parse([*words, tune, "soft-prompt"])
    assert str(error.value).startswith(f"--{setting}: expected no such option with")
    assert f"--{stage}.soft-prompt.learning-rate" in str(error.value)
    parse([*words, tune, "soft-prompt-and-body"])  # where it is read


def test_the_rates_that_are_read_are_taken():
    prompt = ["--tune", "soft-prompt", "--soft-prompt.learning-rate", "0.1"]
    assert parse(["sft", *prompt]).sft.soft_prompt.learning_rate == 0.1
    ppo = ["--algorithm", "ppo", "--ppo.learning-rate", "0.01"]  # of the value function
    assert parse(["finetune", *prompt, *ppo]).finetune.ppo.learning_rate == 0.01


def test_advice_names_the_rate_of_the_soft_prompt():
    config = dataclasses.replace(Config(), sft=CONFIG.sft, finetune=TUNED)
    for stage in ("sft", "finetune"):
        assert f"--{stage}.soft-prompt.learning-rate 0." in divergence.advice(stage, config)
        assert f"--{stage}.learning-rate" not in divergence.advice(stage, config)
    assert TUNED.step_size == "finetune.soft_prompt.learning_rate"
    assert "--sft.learning-rate" in divergence.advice("sft", Config())
