"""What the runs decide and compute, each by hand: which feedback is learned from, what a stage
costs, which files belong to which stage, in what settings differ.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from minirlhf.config import (
    Config,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
)
from minirlhf.feedback.records import Triple
from minirlhf.runs import estimate, products, redo, run_feedback
from minirlhf.runs.estimate import Workload
from minirlhf.runs.settings import differing, with_absolute_paths
from minirlhf.system.seeds import step_seed

# Estimates ----------------------------------------------------------------------------------------

SMALL = Config(
    model=ModelConfig(vocab_size=500, context=100, width=10, layers=3, heads=1),
    pretrain=PretrainConfig(steps=7, batch_size=16, match_share=0.5),
    reward=RewardConfig(steps=5, batch_size=8, ensemble=2, own_texts=257),
    finetune=FinetuneConfig(
        updates=4, batch_size=6, rounds=3, ratings_per_round=12, refit_steps=9, max_new_tokens=20
    ),
    evaluate=EvaluateConfig(samples=64),
)
BODY = 24 * 10 * 10 * 3  # operations per token: 12 width^2 weights per layer, 2 for each
HEAD = 2 * 10 * 500
TOKEN = BODY + HEAD  # that is sampled
MUON = 280 * 10**3 * 3  # per step
ROW, TEXT = estimate.ROW_TOKENS, estimate.TEXT_TOKENS


def test_the_operations_of_each_stage():
    """Forward 1, backward 2; the output layer only where words are predicted."""
    with_head, without = ROW * BODY + TEXT * HEAD, ROW * BODY
    found = estimate.work(SMALL, Workload(raters=True))
    # 16 texts, and a quarter as many under other topics (half of them, half of the time).
    assert found["pretrain"].training == pytest.approx(7 * (3 * 20 * with_head + MUON))
    assert found["pretrain"].steps == 7 and found["pretrain"].sampling == 0
    # Two members.
    assert found["reward"].training == pytest.approx(10 * (3 * 8 * without + MUON))
    assert found["reward"].sampling == pytest.approx(257 * TEXT * TOKEN)
    assert found["reward"].columns == 3 * 20 and found["reward"].steps == 10
    # 4 for the policy and its reference, 1 for the reward model; two refits of half the batch.
    updates, refits = 4 * 6 * (4 * with_head + without), 18 * (3 * 4 * without + MUON)
    assert found["finetune"].training == pytest.approx(updates + refits)
    assert found["finetune"].sampling == pytest.approx((4 * 6 + 2 * 12) * TEXT * TOKEN)
    assert found["finetune"].columns == (4 + 4) * 20 and found["finetune"].steps == 4 + 4 + 18
    # Four times 64 texts, 128 at a time.
    assert found["evaluate"].training == pytest.approx(2 * 2 * 128 * with_head)
    assert found["evaluate"].sampling == pytest.approx(256 * TEXT * TOKEN)


def test_without_raters_there_is_one_round_and_ppo_learns_for_several_epochs():
    with_head, without = ROW * BODY + TEXT * HEAD, ROW * BODY
    tune = dataclasses.replace(SMALL.finetune, algorithm="ppo", ppo=PPOConfig(epochs=5))
    found = estimate.work(dataclasses.replace(SMALL, finetune=tune), Workload(raters=False))
    assert found["reward"].sampling == 0
    assert found["finetune"].training == pytest.approx(4 * 6 * (16 * with_head + without))
    assert found["finetune"].sampling == pytest.approx(24 * TEXT * TOKEN)
    alone = dataclasses.replace(SMALL.pretrain, match_weight=0.0)
    found = estimate.work(dataclasses.replace(SMALL, pretrain=alone), Workload(raters=False))
    assert found["pretrain"].training == pytest.approx(7 * (3 * 16 * with_head + MUON))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seconds_are_operations_over_the_speed_that_each_kind_reaches(monkeypatch, device):
    """On a GPU the time for launching comes on top."""
    monkeypatch.setattr(estimate, "product_rate", lambda _: 1e6)
    work = estimate.Work(training=2e6, sampling=8e5, steps=100, columns=1000)
    monkeypatch.setattr(estimate, "work", lambda *_: {"fit": work})
    found = estimate.seconds(SMALL, SimpleNamespace(type=device), Workload(raters=True))["fit"]
    launches = 0 if device == "cpu" else 100 * 0.012 + 1000 * 0.0005
    assert found == pytest.approx(2 / 0.5 + 0.8 / 0.16 + launches)


def test_times_in_words():
    given = [(0.1, "1 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
    assert [estimate.in_words(seconds) for seconds, _ in given] == [words for _, words in given]


def test_the_plan_names_what_is_done_and_the_sum():
    expected = {"pretrain": 60.0, "reward": 30.0, "finetune": 30.0, "evaluate": 60.0}
    lines = estimate.plan_lines(SMALL, Workload(raters=True), expected, list(expected))
    assert "257 samples are rated, then 5 steps" in lines[2] and "in 3 rounds" in lines[3]
    assert "4 x 64 samples" in lines[4] and lines[5].endswith(" 3 min")
    lines = estimate.plan_lines(SMALL, Workload(raters=False), expected, ["reward", "finetune"])
    assert "rated" not in lines[1] and "rounds" not in lines[2] and lines[3].endswith(" 60 s")


# Feedback -----------------------------------------------------------------------------------------


def triples(name: str, count: int) -> list[Triple]:
    return [Triple("tea", f"{name} {number}.", 0.5, (3.0,), "people") for number in range(count)]


def test_what_is_learned_from_and_what_is_held_out(monkeypatch):
    """The task's part, the authors' texts twice, the policy's own; nothing that is held out."""
    task = SimpleNamespace(
        ranker=None,
        feedback=triples("task", 4),
        heldout_feedback=triples("heldout", 3),
        authors_feedback=triples("author", 2),
    )
    own_train, own_heldout = triples("own", 2), triples("own held out", 2)
    written_again = [task.heldout_feedback[1], own_heldout[0]]
    monkeypatch.setattr(
        run_feedback, "split_own_texts", lambda *_: (own_train + written_again, own_heldout)
    )
    train, heldout = run_feedback.split_feedback(SimpleNamespace(config=Config()), task)
    assert train == task.feedback + 2 * task.authors_feedback + own_train
    assert heldout == task.heldout_feedback
    task.heldout_feedback = []
    monkeypatch.setattr(
        run_feedback, "split_task_feedback", lambda *_: (task.feedback[:3], task.feedback[3:])
    )
    train, heldout = run_feedback.split_feedback(SimpleNamespace(config=Config()), task)
    assert train[:3] == task.feedback[:3] and heldout == task.feedback[3:]


@pytest.mark.parametrize("loss, min_gap", [("mse", None), ("ranking", 0.25)])
def test_only_a_ranking_needs_pairs(monkeypatch, loss, min_gap):
    seen = []
    monkeypatch.setattr(run_feedback, "split_to_measure", lambda *rest: seen.append(rest))
    config = Config(seed=3, reward=RewardConfig(loss=loss, min_gap=0.25, heldout_share=0.1))
    task = SimpleNamespace(feedback=triples("task", 4), heldout_feedback=[], ranker=None)
    run_feedback.check_feedback(config, task)
    assert seen == [(task.feedback, 0.1, 3, min_gap)]
    task.heldout_feedback = triples("heldout", 1)
    run_feedback.check_feedback(config, task)
    assert len(seen) == 1  # that task brings its own split


@pytest.mark.parametrize("count, heldout", [(20, 0), (21, 4)])
def test_of_few_own_texts_none_is_held_out(monkeypatch, count, heldout):
    monkeypatch.setattr(run_feedback, "first_ratings", lambda *_: triples("own", count))
    run = SimpleNamespace(config=Config(reward=RewardConfig(heldout_share=0.2)))
    parts = run_feedback.split_own_texts(run, None)
    assert [len(part) for part in parts] == [count - heldout, heldout]


def test_first_samples_are_different_and_not_empty(monkeypatch):
    """An eighth more are drawn than are wanted."""
    asked = []
    monkeypatch.setattr(run_feedback, "tokenizer_of", lambda *_: "tokenizer")
    monkeypatch.setattr(
        run_feedback, "model_for_sampling", lambda run, tokenizer, tuned: f"tuned: {tuned}"
    )
    drawn = [("tea", " ", "before"), *[("tea", text, "before") for text in "aabcbdefghijk"]]
    monkeypatch.setattr(
        run_feedback, "sample_to_rate", lambda *rest: (asked.append(rest), drawn)[1]
    )
    config = Config(seed=3, finetune=FinetuneConfig(max_new_tokens=20))
    task = SimpleNamespace(train_prompts=["tea"])
    found = run_feedback.first_samples(SimpleNamespace(config=config), task, 8)
    assert found == [("tea", text) for text in "abcdefgh"]
    assert asked == [({"before": "tuned: False"}, "tokenizer", ["tea"], 9, 20, 3)]


def test_first_ratings_are_asked_for_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(run_feedback, "first_samples", lambda *_: [("tea", "a"), ("tea", "b")])
    task = SimpleNamespace(
        ranker=None,
        name="mine",
        raters=lambda topic, text, seed: (asked.append((text, seed)), (2.0, 3.0))[1],
        raters_are="simulated",
        rating_range=(1.0, 5.0),
    )
    config = Config(seed=3, reward=RewardConfig(own_texts=2))
    run = SimpleNamespace(config=config, path=tmp_path)
    for _ in range(2):
        found = run_feedback.first_ratings(run, task)
        assert [(one.text, one.score) for one in found] == [("a", 0.375), ("b", 0.375)]
    assert asked == [("a", 3), ("b", 3)]
    none = dataclasses.replace(config, reward=RewardConfig(own_texts=0))
    assert run_feedback.first_ratings(SimpleNamespace(config=none, path=tmp_path), task) == []
    task.raters = None
    assert run_feedback.first_ratings(run, task) == []


def test_that_nothing_could_be_rated_is_kept_too(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run_feedback, "first_samples", lambda *_: (calls.append(1), [])[1])
    task = SimpleNamespace(ranker=None, raters=lambda *_: (3.0,), rating_range=(1.0, 5.0))
    run = SimpleNamespace(config=Config(reward=RewardConfig(own_texts=2)), path=tmp_path)
    assert run_feedback.first_ratings(run, task) == run_feedback.first_ratings(run, task) == []
    assert calls == [1]


# Files and settings -------------------------------------------------------------------------------


def test_the_stages_and_their_files(tmp_path):
    assert products.STAGES == ("pretrain", "sft", "reward", "finetune", "evaluate")
    assert products.stages_from("reward") == ("reward", "finetune", "evaluate")
    assert products.stages_before("reward") == ("pretrain", "sft")
    assert products.stages_before("pretrain") == ()
    assert products.made_by(("pretrain", "finetune")) == [
        "tokenizer.json",
        "pretrained.safetensors",
        "collected.jsonl",
        "reward_final.safetensors",
        "policy.safetensors",
    ]
    assert [
        products.command_of(stages)
        for stages in (products.STAGES, products.STAGES[3:], products.STAGES[2:3])
    ] == ["demo", "iterate", "reward"]
    # What people answered is no product; config.json, by which a run is known, goes last.
    assert not set(products.ANSWERS) & set(products.PRODUCTS)
    assert products.PRODUCTS[-1] == products.CONFIG
    assert len(set(products.PRODUCTS)) == len(products.PRODUCTS)
    # A stage is done when its last file stands.
    for names in products.MADE_BY.values():
        assert set(names) <= set(products.PRODUCTS)
    for stage, needed in (("reward", ["reward.safetensors"]), ("evaluate", ["summary.json"])):
        (tmp_path / needed[0]).touch()
        assert products.is_done(tmp_path, stage) == (stage == "reward")
    (tmp_path / "report.html").touch()
    assert products.is_done(tmp_path, "evaluate") and not products.is_done(tmp_path, "finetune")
    assert not products.is_run(tmp_path)
    (tmp_path / "config.json").touch()
    assert products.is_run(tmp_path)


def test_stages_that_are_done_again_begin_with_what_stays(tmp_path):
    """Of several stages the first decides; nothing is left of an earlier attempt."""
    for name in products.PRODUCTS:
        (tmp_path / name).write_text("{}\n")
    redo.begin(tmp_path, SMALL, ("reward", "finetune"), None)
    (tmp_path / redo.REDO / "reward.safetensors").write_text("half")
    redo.begin(tmp_path, SMALL, ("reward", "finetune"), None)
    work = tmp_path / redo.REDO
    kept = products.made_by(("pretrain", "sft"))
    assert sorted(file.name for file in work.iterdir()) == sorted(
        [*kept, "progress.json", "stages.json", "config.json"]
    )
    assert redo.pending_stages(tmp_path) == ("reward", "finetune")
    # Weights are linked, all else is copied.
    same = {name: (work / name).samefile(tmp_path / name) for name in products.MADE_BY["pretrain"]}
    assert same == {"tokenizer.json": False, "pretrained.safetensors": True}


def test_a_swap_moves_the_new_rows_and_facts_too(tmp_path):
    for name in products.PRODUCTS:
        (tmp_path / name).write_text("{}\n")
    redo.begin(tmp_path, SMALL, ("reward",), None)
    work = tmp_path / redo.REDO
    for name in products.SHARED:
        (work / name).write_text('{"new": 1}\n')
    redo.swap(tmp_path)
    assert all((tmp_path / name).read_text() == '{"new": 1}\n' for name in products.SHARED)


def test_half_a_discarded_redo_never_counts(tmp_path, monkeypatch):
    """config.json goes first: a crash right after it leaves nothing that --resume would take."""
    for name in products.PRODUCTS:
        (tmp_path / name).write_text("{}\n")
    redo.begin(tmp_path, SMALL, ("reward",), None)
    unlink, deleted = Path.unlink, []

    def crash_at_the_second(path, missing_ok=False):
        if deleted:
            raise OSError("crash")
        deleted.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", crash_at_the_second)
    with pytest.raises(OSError, match="crash"):
        redo.discard(tmp_path)
    assert not redo.is_pending(tmp_path)


def test_settings_differ_by_their_dotted_names():
    other = dataclasses.replace(
        SMALL,
        seed=1,
        finetune=dataclasses.replace(SMALL.finetune, updates=5, ppo=PPOConfig(epochs=9)),
    )
    assert differing(SMALL, SMALL) == []
    assert differing(other, SMALL) == ["seed", "finetune.updates", "finetune.ppo.epochs"]


def test_paths_no_longer_depend_on_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = PretrainConfig(start="base", base=Path("b"))
    found = with_absolute_paths(Config(feedback=Path("a.jsonl"), pretrain=base))
    assert found.feedback == tmp_path / "a.jsonl" and found.pretrain.base == tmp_path / "b"
    assert with_absolute_paths(Config()) == Config()


def test_seeds_of_steps():
    """The same on every machine, and another for each seed, stage and step."""
    seeds = {step_seed(*place) for place in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))}
    assert len(seeds) == 4 and all(0 <= seed < 2**56 for seed in seeds)
    assert step_seed(0, "a", 0) == step_seed(0, "a", 0)
