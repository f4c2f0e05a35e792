"""BERT and RoBERTa: parity with transformers, masking, masked-LM pretraining, the encoder as a
reward model."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers
from conftest import TINY
from test_reward import PROMPTS, TEXTS, rows_of
from torch import nn

from minirlhf.cli.main import main
from minirlhf.config import EncoderPretrainConfig
from minirlhf.models.encoder import Encoder, EncoderConfig, EncoderReward
from minirlhf.models.pretrained_encoder import from_encoder_state_dict, load_encoder
from minirlhf.models.value_model import ValueModel
from minirlhf.runs import pipeline, products, run_models
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.system.files import load_tensors
from minirlhf.system.seeds import step_generator
from minirlhf.tokenizer import Tokenizer, train_bpe
from minirlhf.training import pretrain_mlm as mlm
from minirlhf.training import reward_objectives as fit_module
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.ranking import ranking_reward_loss
from minirlhf.training.train_reward_model import cut_at_random

CPU = torch.device("cpu")
TYPES = {"bert": 2, "roberta": 1}  # of segments; names of classes begin with Bert, Roberta


def theirs_of(kind: str, with_head: bool) -> nn.Module:
    """transformers' model with weights far from their start, so that no parameter is idle."""
    name = kind.capitalize()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=70,
        max_position_embeddings=40,
        type_vocab_size=TYPES[kind],
    )
    model_class = getattr(transformers, f"{name}ForMaskedLM" if with_head else f"{name}Model")
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def rows_for(kind: str, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 99, (5, 30), generator=generator)
    valid = torch.arange(30) < torch.tensor([[30], [7], [1], [13], [29]])
    types = torch.randint(TYPES[kind], (5, 30), generator=generator)
    return tokens.masked_fill(~valid, model.config.pad_token_id), valid, types


@pytest.mark.parametrize("kind", TYPES)
def test_body_agrees_with_transformers(kind):
    model = theirs_of(kind, with_head=False)
    tokens, valid, types = rows_for(kind, model)
    ours = from_encoder_state_dict(
        model.state_dict(), kind, heads=4, norm_epsilon=model.config.layer_norm_eps
    ).body
    with torch.no_grad():
        theirs = model(tokens, attention_mask=valid.long(), token_type_ids=types).last_hidden_state
        found = ours(tokens, valid, types)
    assert theirs[valid].std() > 0.2
    torch.testing.assert_close(found[valid], theirs[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_masked_language_model_agrees_with_transformers(kind):
    model = theirs_of(kind, with_head=True)
    tokens, valid, types = rows_for(kind, model)
    ours = from_encoder_state_dict(
        model.state_dict(), kind, heads=4
    )  # the usual epsilon of each kind
    with torch.no_grad():
        theirs = model(tokens, attention_mask=valid.long(), token_type_ids=types).logits
        found = ours(tokens, valid, types)
    torch.testing.assert_close(found[valid], theirs[valid], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_a_folder_that_transformers_saved_is_loaded(kind, tmp_path):
    model = theirs_of(kind, with_head=True)
    model.save_pretrained(tmp_path, safe_serialization=True)
    tokens, valid, types = rows_for(kind, model)
    with torch.no_grad():
        theirs = model(tokens, attention_mask=valid.long(), token_type_ids=types).logits
        torch.testing.assert_close(
            load_encoder(tmp_path)(tokens, valid, types)[valid], theirs[valid], atol=1e-4, rtol=0
        )
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="model.safetensors: expected a safetensors file"):
        load_encoder(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for change, words in (
        ({"model_type": "gpt2"}, 'expected "bert" or "roberta", found "gpt2"'),
        ({"hidden_act": "relu"}, 'hidden_act: expected "gelu", found "relu"'),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=words):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match='model_type: expected "bert" or "roberta", found none'):
        load_encoder(tmp_path)
    with pytest.raises(ValueError, match="config.json: cannot be read"):
        load_encoder(tmp_path / "none")


def test_berts_first_files_name_norms_otherwise():
    state = theirs_of("bert", with_head=True).state_dict()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in state.items()
    }
    ours, theirs = (
        from_encoder_state_dict(old, "bert", 4).state_dict(),
        from_encoder_state_dict(state, "bert", 4).state_dict(),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_missing_or_misshapen_weight_is_named():
    state = theirs_of("bert", with_head=False).state_dict()
    short = {
        name: tensor
        for name, tensor in state.items()
        if name != "encoder.layer.1.attention.self.key.bias"
    }
    with pytest.raises(
        ValueError, match="bert weights: encoder.layer.1.attention.self.key.bias is missing"
    ):
        from_encoder_state_dict(short, "bert", 4)
    with pytest.raises(ValueError, match="output.dense.weight: expected shape"):
        from_encoder_state_dict(
            state | {"encoder.layer.0.output.dense.weight": torch.zeros(3, 3)}, "bert", 4
        )
    with pytest.raises(ValueError, match="embeddings.word_embeddings.weight is missing"):
        from_encoder_state_dict({}, "roberta", 4)


# ---- masking


@pytest.fixture(scope="module")
def tokenizer(small_task) -> Tokenizer:
    return Tokenizer(train_bpe([text for _, text in small_task.corpus[:300]], 400))


@pytest.fixture(scope="module")
def texts(tokenizer, small_task) -> EncodedTexts:
    return EncodedTexts(tokenizer, small_task.corpus[:200], 96)


def masks_of(texts: EncodedTexts, vocab_size: int, static: bool) -> mlm.Masks:
    return mlm.Masks(texts, vocab_size, lambda name, step: step_generator(0, name, step), static)


@pytest.mark.parametrize("static", [False, True])
def test_15_percent_are_chosen_and_80_10_10_of_them_changed(tokenizer, texts, static):
    """Shares over about 100,000 tokens, within four standard errors."""
    batch, masks = (
        texts.batch(torch.arange(200), CPU),
        masks_of(texts, tokenizer.vocab_size, static),
    )
    drawn = [masks.apply(batch, step, 999) for step in range(15)]
    rows, chosen, valid = (torch.stack(parts) for parts in zip(*drawn))
    original = batch.rows.expand_as(rows)
    assert torch.equal(valid[0].sum(1), texts.lengths) and not (chosen & ~valid).any()
    assert torch.equal(rows[~chosen], original[~chosen])

    def near(part: torch.Tensor, whole: torch.Tensor, share: float) -> bool:
        # Under static masking the ten copies are all there is: fewer draws, wider errors.
        count = whole.sum().item() * (10 / 15 if static else 1)
        return (
            abs(part.sum().item() / whole.sum().item() - share)
            < 4 * (share * (1 - share) / count) ** 0.5
        )

    kept = rows == original
    assert near(chosen, valid, 0.15) and near((rows == 999) & chosen, chosen, 0.8)
    assert near(kept & chosen, chosen, 0.1 + 0.1 / tokenizer.vocab_size)
    other = rows[chosen & ~kept & (rows != 999)]
    assert other.max() < tokenizer.vocab_size and len(other.unique()) > 0.5 * tokenizer.vocab_size


def test_static_masks_are_ten_a_text_and_dynamic_ones_never_the_same(tokenizer, texts):
    batch = texts.batch(torch.arange(50), CPU)
    different = {}
    for static in (True, False):
        masks = masks_of(texts, tokenizer.vocab_size, static)
        seen = [masks.apply(batch, step, 999)[0] for step in range(60)]
        different[static] = [len({tuple(rows[row].tolist()) for rows in seen}) for row in range(50)]
        assert torch.equal(seen[7], masks.apply(batch, 7, 999)[0])  # a function of the step
    assert (
        max(different[True]) <= 10 and sum(different[True]) / 50 > 8.5
    )  # 60 draws of 10 leave 10 * .9^60 = .02 unseen
    assert min(different[False]) > 40
    # A row keeps its masks in whatever batch it comes.
    masks = masks_of(texts, tokenizer.vocab_size, True)
    alone = {
        tuple(masks.apply(texts.batch(torch.tensor([3]), CPU), step, 999)[0][0].tolist())
        for step in range(200)
    }
    width = int(texts.lengths[3])
    among = {tuple(masks.apply(batch, step, 999)[0][3, :width].tolist()) for step in range(200)}
    assert alone == among


def test_masked_lm_loss_equals_a_loop(tokenizer, texts):
    torch.manual_seed(0)
    model = mlm.MaskedLanguageModel(EncoderConfig(tokenizer.vocab_size + 2, 97, 16, 1, 2, 32))
    batch, masks = texts.batch(torch.arange(6), CPU), masks_of(texts, tokenizer.vocab_size, False)
    rows, chosen, valid = masks.apply(batch, 3, mlm.mask_id(tokenizer.vocab_size))
    losses = []
    for row in range(6):
        length = int(valid[row].sum())
        alone = torch.cat([torch.tensor([mlm.class_id(tokenizer.vocab_size)]), rows[row, :length]])[
            None
        ]
        log_probs = model(alone).log_softmax(-1)[0, 1:]
        losses += [
            -log_probs[t, batch.rows[row, t]].item() for t in range(length) if chosen[row, t]
        ]
    assert len(losses) > 5
    assert mlm.masked_lm_loss(model, batch, masks, 3, tokenizer).item() == pytest.approx(
        sum(losses) / len(losses), abs=1e-4
    )
    masks.apply = lambda *_: (rows, torch.zeros_like(chosen), valid)
    assert (
        mlm.masked_lm_loss(model, batch, masks, 3, tokenizer).item() == 0.0
    )  # nothing chosen: no NaN


# ---- the reward model


def reward_of(seed: int = 0) -> EncoderReward:
    torch.manual_seed(seed)
    model = EncoderReward(Encoder(EncoderConfig(12, 25, 32, 2, 4, 64)), class_id=11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def test_prefix_scores_are_those_of_each_prefix_alone():
    model = reward_of()
    rows, lengths = rows_of(PROMPTS, TEXTS)
    bare, scores = model.prefix_scores(rows, lengths, 7)
    assert (
        bare.shape == (5,)
        and scores.shape == (5, 7)
        and 0 <= scores.min()
        and scores.max() <= 1
        and scores.std() > 0.01
    )
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS)):
        for t in range(len(text) + 1):
            alone = torch.sigmoid(
                model.score(model.body(torch.tensor([[11, *prompt, *text[:t]]]))[:, 0])
            ).item()
            assert (bare[row] if t == 0 else scores[row, t - 1]).item() == pytest.approx(
                alone, abs=1e-5
            )
    whole = model.text_scores(rows, lengths + torch.tensor([len(text) for text in TEXTS]))
    for row, text in enumerate(TEXTS):
        assert whole[row].item() == pytest.approx(scores[row, len(text) - 1].item(), abs=1e-5)


def test_what_needs_a_causal_model_refuses_an_encoder(tokenizer):
    model = reward_of()
    with pytest.raises(ValueError, match="^value model: expected a causal reward model"):
        ValueModel.from_reward_model(model)
    batch = EncodedTexts(tokenizer, [("a", "b"), ("a", "c")], 25).batch(torch.arange(2), CPU)
    with pytest.raises(ValueError, match="^target: expected final with an encoder that ranks"):
        ranking_reward_loss(model, batch, torch.tensor([False]), "every-prefix")


def test_an_encoder_sees_both_sides_and_no_padding():
    model = reward_of().body
    rows = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = rows.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 11
    assert not torch.allclose(
        model(rows)[:, 0], model(changed)[:, 0], atol=1e-4
    )  # the first column knows of the seventh
    valid = (torch.arange(8) < 6).expand(2, 8)
    assert torch.equal(model(rows, valid)[:, :6], model(changed, valid)[:, :6])
    with pytest.raises(ValueError, match="at most context=25"):
        model(torch.zeros(1, 26, dtype=torch.long))


def test_cut_at_random_takes_every_prefix_length(tokenizer, texts):
    batch = texts.batch(torch.arange(8), CPU)
    lengths = batch.mask.sum(1)
    cuts = torch.stack(
        [
            cut_at_random(batch, torch.Generator().manual_seed(seed)).mask.sum(1)
            for seed in range(2000)
        ]
    )
    assert (cuts.min(0).values == 1).all() and torch.equal(cuts.max(0).values, lengths)
    error = lengths * (1 / 12 / 2000) ** 0.5
    assert ((cuts.double().mean(0) - (lengths + 1) / 2).abs() < 4 * error).all()


TINY_ENCODER = dataclasses.replace(
    TINY,
    reward=dataclasses.replace(
        TINY.reward,
        body="encoder",
        encoder=EncoderPretrainConfig(steps=40),
        steps=10,
        evaluate_every=5,
    ),
)


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory, small_task, finished_run) -> Run:
    """The tiny run's policy with a reward model that is an encoder."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "encoder", TINY_ENCODER)
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (run.path / name).write_bytes((finished_run.path / name).read_bytes())
    pipeline.reward_stage(run, small_task)
    return run


def test_an_encoder_is_pretrained_then_learns_scores(encoder_run, small_task):
    losses = [
        row["loss_nats_per_token"]
        for row in encoder_run.read("metrics.jsonl")
        if row["stage"] == "masked-lm"
    ]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert encoder_run.progress()["reward_model"]["n"] == 40
    model = run_models.load_reward_model(
        encoder_run, "reward.safetensors", run_models.tokenizer_of(encoder_run, small_task)
    )
    assert isinstance(model, EncoderReward) and not model.config.causal
    # Fine-tuning asks for every prefix's score, which it can have, in T passes.
    run = encoder_run
    run.replace_config(
        dataclasses.replace(
            run.config,
            finetune=dataclasses.replace(
                run.config.finetune, updates=1, batch_size=4, max_new_tokens=10, rounds=1
            ),
        )
    )
    pipeline.finetune_stage(run, small_task)
    assert run.is_done("finetune")


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    "module, function, calls", [(mlm, "masked_lm_loss", 23), (fit_module, "reward_loss", 8)]
)
def test_interrupted_encoder_resumes_bit_for_bit(
    tmp_path, monkeypatch, small_task, encoder_run, module, function, calls
):
    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    original, count = getattr(module, function), [0]

    def stopping(*arguments):
        count[0] += 1
        if count[0] == calls:
            raise Stop
        return original(*arguments)

    run = Run.create(tmp_path / "r", TINY_ENCODER)
    for name in ("tokenizer.json", "pretrained.safetensors"):
        (run.path / name).write_bytes((encoder_run.path / name).read_bytes())
    monkeypatch.setattr(module, function, stopping)
    with pytest.raises(Stop):
        pipeline.reward_stage(run, small_task)
    monkeypatch.setattr(module, function, original)
    pipeline.reward_stage(Run.open(run.path), small_task)
    for file in (products.ENCODER, "reward.safetensors"):
        ours, theirs = (load_tensors(path / file)[0] for path in (run.path, encoder_run.path))
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        ), file


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--loss", "ranking"], "expected final with an encoder that ranks"),
        (
            ["--finetune.algorithm", "ppo"],
            "expected shared or prefix-score with an encoder",
        ),  # V(s_t) may not see what comes after t
    ],
)
def test_what_an_encoder_cannot_do_is_refused(tmp_path, capsys, extra, words):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--run", "r", "--runs", str(tmp_path), "--reward.body", "encoder", *extra])
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_an_encoder_learns_from_comparisons(tmp_path, encoder_run, small_task):
    config = dataclasses.replace(
        TINY_ENCODER,
        reward=dataclasses.replace(TINY_ENCODER.reward, loss="ranking", target="final"),
    )
    run = Run.create(tmp_path / "r", config)
    for name in ("tokenizer.json", "pretrained.safetensors", products.ENCODER):
        (run.path / name).write_bytes((encoder_run.path / name).read_bytes())
    pipeline.reward_stage(run, small_task)
    assert [row["step"] for row in run.read("metrics.jsonl") if "heldout_ranking_nats" in row] == [
        5,
        10,
    ]
