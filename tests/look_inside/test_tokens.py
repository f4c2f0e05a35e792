"""Every number of a token against a slow computation, token by token; writing; runs and notebooks.

The models are untrained and tiny, and moved far from uniform.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from conftest import TINY

from minirlhf.config import IN_GROUPS, FinetuneConfig, ModelConfig
from minirlhf.feedback.conversation import Turn
from minirlhf.look_inside.looks import from_json, to_json
from minirlhf.look_inside.tokens import LookModels, look, piece, reasons
from minirlhf.look_inside.write import Chosen, WritingOptions, Written, rewards, write
from minirlhf.models import build
from minirlhf.models.next_token import SamplingOptions
from minirlhf.models.reward_model import RewardModel
from minirlhf.models.sampling import sample
from minirlhf.runs import look_inside, products
from minirlhf.runs.folder import Run
from minirlhf.system.seeds import step_generator
from minirlhf.tasks.openings.judge import explain
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.algorithms.advantages import advantages, group_advantages
from minirlhf.training.algorithms.make import ALGORITHMS
from minirlhf.training.rollout import Models, collect

BYTES = Tokenizer([bytes([value]) for value in range(256)])
SIZE = ModelConfig(vocab_size=256, context=48, width=16, layers=1, heads=2)
PROMPT = "Why sleep?"


def shaken(model, seed: int):
    """The model with every weight moved, so that its predictions are far from uniform."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def policy(seed: int):
    return shaken(build.new_policy(SIZE, BYTES.vocab_size), seed)


BASE, TUNED = policy(1), policy(2)
REWARD = shaken(RewardModel(BASE.config), 3)
MODELS = LookModels(
    {"base": BASE, "tuned": TUNED},
    BASE,
    BYTES,
    REWARD,
    settings=FinetuneConfig(max_new_tokens=12),
    kl_weight=0.3,
)
TEXT = [*BYTES.encode(" It mends."), BYTES.end_id]
SEEN = look(MODELS, PROMPT, TEXT, "tuned")


# The numbers --------------------------------------------------------------------------------------


def test_each_number_by_itself():
    """One token at a time: no pass here sees what comes later."""
    prompt = MODELS.prompt(PROMPT)
    for t, (token, seen) in enumerate(zip(TEXT, SEEN.tokens, strict=True)):
        prefix = torch.tensor([prompt + TEXT[:t]])
        with torch.no_grad():
            probs = TUNED(prefix)[0, -1].double().softmax(-1)
            reference = BASE(prefix)[0, -1].double().softmax(-1)
            longer = torch.tensor([prompt + TEXT[: t + 1]])
            score = REWARD.text_scores(longer, torch.tensor([longer.shape[1]]))
        assert seen.token == token
        assert seen.log_probability == pytest.approx(float(probs[token].log()), abs=1e-4)
        ratio = float((probs[token] / reference[token]).log())
        assert seen.log_ratio == pytest.approx(ratio, abs=1e-4)
        entropy = -sum(float(p) * float(p.log()) for p in probs)
        assert seen.entropy == pytest.approx(entropy, abs=1e-4)
        assert seen.prefix_score == pytest.approx(float(score), abs=1e-5)
        order = sorted(
            (other for other in range(len(probs)) if other != token), key=lambda i: -probs[i]
        )
        assert [other.token for other in seen.likeliest] == order[:5]
        for other in seen.likeliest:
            assert other.probability == pytest.approx(float(probs[other.token]), abs=1e-5)
            assert other.text == piece(BYTES, other.token)
    assert SEEN.kl == pytest.approx(sum(token.log_ratio for token in SEEN.tokens), abs=1e-4)
    assert abs(SEEN.kl) > 1  # the two policies differ
    assert SEEN.score == SEEN.tokens[-1].prefix_score and SEEN.ended
    bare = torch.tensor([prompt])
    assert SEEN.initial_score == pytest.approx(
        float(REWARD.text_scores(bare, torch.tensor([len(prompt)])).detach()), abs=1e-5
    )
    assert (SEEN.text, SEEN.prompt, SEEN.stage) == ("It mends.", PROMPT, "tuned")
    assert look(MODELS, PROMPT, "It mends.", "tuned") == SEEN


def rollout_of():
    """What training would sample: four texts to one prompt."""
    models = Models(TUNED, BASE, REWARD, BYTES)
    generator = torch.Generator().manual_seed(0)
    return collect(models, [MODELS.prompt(PROMPT)] * 4, 12, generator)


@pytest.mark.parametrize("baseline", ["none", "batch-mean", "prefix-score"])
@pytest.mark.parametrize("credit", ["sequence", "per-token", "reward-to-go", "prefix-difference"])
def test_advantages_are_those_of_training_but_for_the_mean_of_the_batch(credit, baseline):
    rollout = rollout_of()
    credits = dataclasses.replace(MODELS.settings.reinforce, credit=credit, baseline=baseline)
    settings = dataclasses.replace(MODELS.settings, reinforce=credits)
    models = dataclasses.replace(MODELS, settings=settings)
    trained = advantages(rollout, credits, 0.3)  # (batch, time)
    ours = torch.zeros_like(trained)
    for row, mask in enumerate(rollout.mask):
        ids = rollout.tokens[row][mask].tolist()
        seen = look(models, PROMPT, ids, "tuned")
        ours[row, mask] = torch.tensor([token.advantage for token in seen.tokens])
        assert seen.ended == bool(rollout.ended[row])
    if baseline != "none":
        count = rollout.mask.sum(0)
        ours = ours - ours.sum(0) / count
    torch.testing.assert_close(ours[rollout.mask], trained[rollout.mask], atol=2e-4, rtol=1e-3)


def test_advantages_of_the_other_algorithms():
    def advantages_of(**changed) -> list[float]:
        settings = dataclasses.replace(MODELS.settings, **changed)
        seen = look(dataclasses.replace(MODELS, settings=settings), PROMPT, TEXT, "tuned")
        return [token.advantage for token in seen.tokens]

    ratios = [token.log_ratio for token in SEEN.tokens]
    whole = SEEN.score - 0.3 * SEEN.kl
    for algorithm in IN_GROUPS:
        assert advantages_of(algorithm=algorithm) == pytest.approx([whole] * len(TEXT), abs=1e-4)
    beta = MODELS.settings.dpo.beta
    assert advantages_of(algorithm="dpo") == pytest.approx([beta * one for one in ratios], abs=1e-5)
    # With lambda 1 the advantage is what is still to come, minus the score before the token.
    ppo = dataclasses.replace(MODELS.settings.ppo, gae_lambda=1.0)
    before = [SEEN.initial_score, *(token.prefix_score for token in SEEN.tokens)]
    wanted = [SEEN.score - 0.3 * sum(ratios[t:]) - before[t] for t in range(len(TEXT))]
    assert advantages_of(algorithm="ppo", ppo=ppo) == pytest.approx(wanted, abs=1e-3)
    trpo = dataclasses.replace(MODELS.settings.trpo, baseline="none")
    wanted = [SEEN.score - 0.3 * sum(ratios[t:]) for t in range(len(TEXT))]
    assert advantages_of(algorithm="trpo", trpo=trpo) == pytest.approx(wanted, abs=1e-3)
    assert group_advantages(rollout_of(), lambda rewards: rewards, 4, 0.3).shape[0] == 4


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "dpo"])
def test_the_report_of_every_algorithm_weighs_its_tokens(algorithm):
    """What advantage.py does not know would end a run at its last stage."""
    settings = dataclasses.replace(MODELS.settings, algorithm=algorithm)
    seen = look(dataclasses.replace(MODELS, settings=settings), PROMPT, TEXT, "tuned")
    weights = torch.tensor([token.advantage for token in seen.tokens])
    assert weights.isfinite().all() and weights.abs().sum() > 0


def test_without_a_reward_model_or_judge_their_numbers_are_missing():
    seen = look(dataclasses.replace(MODELS, reward_model=None), PROMPT, TEXT, "base")
    assert (seen.score, seen.initial_score, seen.judge, seen.reasons) == (None, None, None, ())
    assert {(token.prefix_score, token.advantage) for token in seen.tokens} == {(None, None)}
    assert all(token.log_ratio == 0 for token in seen.tokens)  # base is the reference


def test_the_judge_says_why_or_why_not():
    def judge(prompt, text):
        if prompt != PROMPT:
            raise ValueError("unknown")
        return 0.25, {"form": 0.4, "padding": -0.0, "fluency": -0.8, "cap": 5.0, "score": 0.25}

    models = dataclasses.replace(MODELS, judge=judge)
    seen = look(models, PROMPT, TEXT, "tuned")
    assert (seen.judge, seen.reasons) == (0.25, ("form +0.40", "fluency -0.80"))
    other = look(models, "Another", TEXT, "tuned")
    assert other.judge is None and "only the prompts of its task" in other.reasons[0]
    assert reasons({"form": 3.0, "cap": 1.5, "rubric": 1.5, "score": 0.125}) == [
        "form +3.00",
        "no more than 1.50 points in all",
    ]


def test_any_text_becomes_printable_tokens():
    hostile = "<b>\u202e\x00\x1b\ud800 \U0001f600"
    seen = look(MODELS, PROMPT, hostile, "tuned")
    pieces = "".join(token.text for token in seen.tokens)
    assert pieces.isprintable() and pieces.isascii()
    assert "\\xe2\\x80\\xae\\x00\\x1b\\xef\\xbf\\xbd \\xf0\\x9f\\x98\\x80<|end|>" in pieces
    words = Tokenizer([*BYTES.tokens, "é\u202e".encode(), b"\n"[:0] + b"ab"])
    assert [piece(words, 256), piece(words, 257), piece(words, 10)] == ["é\\u202e", "ab", "\\n"]
    long = look(MODELS, PROMPT, "word " * 200, "tuned")
    assert not long.ended and len(long.tokens) == 48 - len(MODELS.prompt(PROMPT))
    for one in (seen, look(MODELS, (Turn("user", "a"),), TEXT, "base")):
        assert from_json(json.loads(json.dumps(to_json(one)))) == one


@pytest.mark.parametrize(
    "text, stage, words",
    [
        (TEXT, "sft", "stage: expected base or tuned, found 'sft'"),
        ([], "base", "expected at least one token"),
        ([5] * 48, "base", "expected at most 37 tokens"),
        ([258], "base", "expected 0 to 257, found 258"),
        ([-1], "base", "expected 0 to 257, found -1"),
    ],
)
def test_what_cannot_be_looked_at(text, stage, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        look(MODELS, PROMPT, text, stage)


# Writing ------------------------------------------------------------------------------------------


def test_writing_is_sampling():
    for seed in range(3):
        *events, last = write(MODELS, PROMPT, "tuned", WritingOptions(SamplingOptions(0.8), seed))
        assert isinstance(last, Chosen) and last.scores == []
        generator = step_generator(seed, "look", 0)
        prompt = MODELS.prompt(PROMPT)
        whole = sample(TUNED, [prompt], 12, BYTES.end_id, SamplingOptions(0.8), generator)
        assert last.tokens == [event.token for event in events] == whole.ids()[0]
        assert events[0] == Written(0, last.tokens[0], piece(BYTES, last.tokens[0]))


def test_the_best_of_n_is_what_training_scores_highest():
    *events, last = write(MODELS, PROMPT, "tuned", WritingOptions(seed=4, best_of_n=5))
    texts = [[event.token for event in events if event.number == n] for n in range(5)]
    scores = []
    for text in texts:
        seen = look(MODELS, PROMPT, text, "tuned")
        scores.append(seen.score if seen.ended else 0.0)
    assert last.scores == pytest.approx(scores, abs=1e-5)
    ended = [[*BYTES.encode(words), BYTES.end_id] for words in (" a", " bcd")]
    scores = rewards(MODELS, MODELS.prompt(PROMPT), [*ended, ended[0][:-1]])
    wanted = [look(MODELS, PROMPT, text, "tuned").score for text in ended]
    assert scores == pytest.approx([*wanted, 0.0], abs=1e-5)
    assert last.tokens == texts[last.number] and last.scores[last.number] == max(last.scores)


def test_what_if_another_token_stood_here():
    kept, new = BYTES.encode(" It"), 65
    *events, last = write(MODELS, PROMPT, "tuned", WritingOptions(seed=1), [*kept, new])
    written = [event.token for event in events]
    assert last.tokens == [*kept, new, *written] and len(last.tokens) <= 12
    prompt = MODELS.prompt(PROMPT) + [*kept, new]
    whole = sample(TUNED, [prompt], 8, BYTES.end_id, randomness=step_generator(1, "look", 0))
    assert written == whole.ids()[0]
    assert list(write(MODELS, PROMPT, "base", kept=[*kept, BYTES.end_id])) == [
        Chosen(0, [*kept, BYTES.end_id], [])
    ]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"options": WritingOptions(best_of_n=0)}, "best_of_n: expected 1 or more, found 0"),
        ({"kept": [1] * 12}, "kept: expected fewer than 12 tokens, found 12"),
        ({"kept": [999]}, "expected 0 to 257, found 999"),
    ],
)
def test_nothing_is_drawn_that_cannot_be_written(changed, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        write(MODELS, PROMPT, "base", **changed)  # at once, not at the first token
    with pytest.raises(ValueError, match="expected a run with a reward model"):
        models = dataclasses.replace(MODELS, reward_model=None)
        write(models, PROMPT, "base", WritingOptions(best_of_n=2))


# Of a run -----------------------------------------------------------------------------------------


@pytest.fixture(params=["openings", "assistant"])
def run(request, tmp_path) -> Run:
    """A run with untrained models; that of the task `assistant` has one after SFT, too."""
    config = dataclasses.replace(
        TINY,
        task=request.param,
        model=SIZE,
        finetune=dataclasses.replace(TINY.finetune, max_new_tokens=8),
    )
    made = Run.create(tmp_path / "r", config)
    BYTES.save(made.path / "tokenizer.json")
    stages = ["pretrain", "finetune"] + ["sft"] * (request.param == "assistant")
    for seed, stage in enumerate(stages):
        made.save_model(products.RESULT[stage], policy(seed))
    made.save_model(products.REWARD_FINAL, REWARD)
    return made


def test_a_run_is_shown_in_a_notebook(run):
    shown = look_inside.show(run.path, PROMPT)
    models = look_inside.open_models(run)
    stages = {"openings": ["base", "tuned"], "assistant": ["base", "sft", "tuned"]}
    assert [one.stage for one in shown.looks] == stages[run.config.task] == list(models.writers)
    assert models.reference is models.writers[stages[run.config.task][-2]]
    assert [one.kl == 0 for one in shown.looks][-2:] == [True, False]
    html = shown._repr_html_()
    assert html.count('class="look"') == len(shown.looks) and "<script" not in html
    # Twice on one page: no id occurs twice.
    ids = re.findall(r'\bid="([^"]+)"', html + shown._repr_html_())
    assert len(ids) == len(set(ids)) == 2 * 5 * len(shown.looks)
    typed = look_inside.show(run, PROMPT, "It mends.", stages=["tuned"])
    assert [one.text for one in typed.looks] == ["It mends."]


def test_the_judge_of_a_run_and_the_price_of_its_kl(run):
    models = look_inside.open_models(run)
    assert models.kl_weight == run.config.finetune.kl_weight
    run.append("metrics.jsonl", [{"stage": "finetune", "step": n, "kl_weight": n} for n in (1, 2)])
    assert look_inside.open_models(run).kl_weight == 2
    if run.config.task == "openings":
        topic, text = "The benefits of exercise", "Exercise makes people happy."
        seen = look(models, topic, text, "base")
        assert seen.judge == explain(topic, text)["score"]
        assert any(reason.startswith("form +") for reason in seen.reasons)
    (run.path / products.RESULT["pretrain"]).unlink()
    with pytest.raises(ValueError, match="no model here yet; run: python -m minirlhf pretrain"):
        look_inside.open_models(run)
