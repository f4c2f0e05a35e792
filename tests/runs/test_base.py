"""A pretrained base: written, read, refused, started from."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import TINY

from minirlhf.config import PretrainConfig
from minirlhf.runs import pipeline, plan, run_models, workplace
from minirlhf.runs.base import SHIPPED, export_base, read_base
from minirlhf.runs.folder import Run
from minirlhf.runs.start import nats_per_byte, settle_start
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.pretrain import heldout_loss


@pytest.fixture(scope="module")
def exported(tmp_path_factory, finished_run):
    folder = tmp_path_factory.mktemp("base") / "base"
    return export_base(finished_run, folder, "python -m minirlhf pretrain ...")


@pytest.fixture
def base(tmp_path, exported):
    return read_base(shutil.copytree(exported.folder, tmp_path / "base"))


def config_from(folder, **pretrain):
    settings = PretrainConfig(start="base", base=folder, **{"steps": 0, **pretrain})
    return dataclasses.replace(TINY, pretrain=settings)


def test_the_weights_are_those_of_the_run_in_bfloat16(exported, finished_run):
    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    original = run_models.load_policy(finished_run, "pretrained.safetensors", tokenizer)
    for one, other in zip(original.parameters(), exported.policy().parameters(), strict=True):
        assert torch.equal(one.bfloat16().float(), other)
    assert exported.tokenizer().vocab_size == tokenizer.vocab_size
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    for digest in exported.facts["sha256"].values():
        assert digest in card
    assert "python -m minirlhf pretrain ..." in card


def test_a_run_starts_from_it(base, tmp_path, small_task):
    todo = plan.plan_new(tmp_path / "run", config_from(base.folder), ("pretrain",), False, False)
    run = workplace.prepare(dataclasses.replace(todo, config=settle_start(todo.config, small_task)))
    plan.carry_out(run, small_task, ("pretrain",))
    policy = run_models.load_policy(run, "pretrained.safetensors", base.tokenizer())
    for one, other in zip(policy.parameters(), base.policy().parameters(), strict=True):
        assert torch.equal(one, other)
    rows = run.read("metrics.jsonl")
    assert rows and all(row["stage"] == "base" for row in rows)


def test_a_run_trains_it_further(base, tmp_path, small_task):
    config = settle_start(config_from(base.folder, steps=10, warmup=2), small_task)
    run = Run.create(tmp_path / "run", config)
    pipeline.pretrain_stage(run, small_task)
    steps = [row["step"] for row in run.read("metrics.jsonl") if row["stage"] == "pretrain"]
    assert steps == [10]
    policy = run_models.load_policy(run, "pretrained.safetensors", base.tokenizer())
    assert not torch.equal(policy.head.weight, base.policy().head.weight)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / "config.json").unlink(), "expected a pretrained base"),
        (lambda f: (f / "config.json").write_text("{}"), "format 'minirlhf-base'"),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON"),
        (lambda f: (f / "weights.safetensors").unlink(), "no such file"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "sha256"),
        (lambda f: flip_a_byte(f / "weights.safetensors"), "another or a damaged one"),
        (lambda f: edit(f, lambda c: c["model"].update(width=-1)), "width"),
        (lambda f: edit(f, lambda c: c["model"].update(colour=1)), "unknown field 'colour'"),
        (lambda f: edit(f, lambda c: c["model"].pop("heads")), "model: heads is missing"),
        (lambda f: edit(f, lambda c: c.pop("sha256")), "sha256"),
    ],
)  # fmt: skip
def test_a_damaged_base_is_refused_in_one_line(base, tmp_path, small_task, damage, words):
    damage(base.folder)
    with pytest.raises(ValueError) as refused:
        read_base(base.folder).policy()
    assert words in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(ValueError):
        settle_start(config_from(base.folder), small_task)
        read_base(base.folder).policy()


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


def edit(folder, change):
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_another_size_is_refused(base, small_task):
    model = dataclasses.replace(TINY.model, width=64)
    with pytest.raises(
        ValueError, match=r"--model.width: expected 32, .* found 64; add --from-scratch"
    ):
        settle_start(dataclasses.replace(config_from(base.folder), model=model), small_task)


def test_a_task_in_another_language_starts_from_scratch(small_task):
    foreign = dataclasses.replace(small_task, base_steps=None)
    config = dataclasses.replace(TINY, pretrain=PretrainConfig(start="base", steps=0))
    pretrain = settle_start(config, foreign).pretrain
    assert pretrain.start == "scratch" and pretrain.steps == PretrainConfig.steps


def test_export_replaces_nothing_but_a_base(tmp_path, finished_run, exported):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="found other files"):
        export_base(finished_run, tmp_path / "mine", "")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    again = export_base(finished_run, exported.folder, "python -m minirlhf pretrain ...")
    assert again.facts["sha256"] == exported.facts["sha256"]


def test_the_shipped_base(small_task):
    """It is what its card says: checked files, at most 5 MB, and the loss that was written down."""
    base = read_base()
    assert base.folder == SHIPPED
    size = sum(file.stat().st_size for file in base.folder.iterdir())
    assert size <= 5_000_000
    card = (base.folder / "README.md").read_text(encoding="utf-8")
    assert base.facts["command"] in card
    texts = EncodedTexts(base.tokenizer(), small_task.corpus_heldout, base.model.context)
    loss = heldout_loss(base.policy(), texts)
    # 50 of the task's held-out texts, of which the base may have seen some: its own held-out loss
    # within sampling error.
    assert abs(loss - base.facts["heldout_loss_nats_per_token"]) < 0.1


def test_own_texts_start_from_the_base_only_if_it_knows_their_language(small_task, capsys):
    config = dataclasses.replace(TINY, pretrain=PretrainConfig(start="base", steps=0))
    config = dataclasses.replace(config, model=read_base().model)
    known = dataclasses.replace(small_task, base_steps=500, base_must_know_texts=True)
    started = settle_start(config, known).pretrain
    assert (started.start, started.steps) == ("base", 500) and not capsys.readouterr().out
    assert nats_per_byte(read_base(), known) < 0.3

    german = [
        dataclasses.replace(triple, text="Wer regelmäßig läuft, schläft nachts besser. " * times)
        for triple, times in zip(known.feedback[:20], [1, 200] * 10, strict=True)
    ]
    assert nats_per_byte(read_base(), dataclasses.replace(known, feedback=german[1:2])) > 3  # cut
    started = settle_start(config, dataclasses.replace(known, feedback=german)).pretrain
    assert (started.start, started.steps) == ("scratch", PretrainConfig().steps)
    assert "does not know the language of these texts" in capsys.readouterr().out
