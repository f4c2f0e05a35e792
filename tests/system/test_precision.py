"""Matrix products in bfloat16: how close to float32 they stay, what stays float32, and that the
setting does what it says."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from contextlib import nullcontext

import pytest
import torch
from conftest import TINY
from test_robustness import refused
from torch.nn import functional as F

from minirlhf.config import Config
from minirlhf.config_file import from_json, to_json
from minirlhf.models.build import new_masked_language_model
from minirlhf.models.sampling import sample
from minirlhf.models.transformer import attention
from minirlhf.runs import pipeline, run_models
from minirlhf.runs.checkpoints import Checkpoints
from minirlhf.runs.folder import Run
from minirlhf.system import devices
from minirlhf.system.devices import autocast, multiplies_bfloat16, precision_of, use_precision
from minirlhf.system.files import load_tensors
from minirlhf.tokenizer import Tokenizer
from minirlhf.training.algorithms import policy_gradient
from minirlhf.training.algorithms.advantages import advantages
from minirlhf.training.algorithms.trpo import trpo
from minirlhf.training.batches import EncodedTexts
from minirlhf.training.pretrain import language_model_loss
from minirlhf.training.pretrain_mlm import Masks, masked_lm_loss
from minirlhf.training.rollout import Models, collect

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROUNDING = (
    2.0**-8
)  # bfloat16 has 8 significant bits: a number moves by at most this share of itself


def relative_bound(products: int) -> float:
    """How far a chain of matrix products in bfloat16 may be off, as a share of the size (root mean
    square) of its result.

    Each rounds its two factors and its result, and the roundings are independent of each other, so
    they add like the root of their number. (The rounding of a number is less than ROUNDING on
    average, so this bound is two to five times what is found.)
    """
    return math.sqrt(3 * products) * ROUNDING


def size(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


@pytest.fixture
def policy_and_batch(finished_run, small_task):
    """The pretrained policy of the tiny run, and texts as it was trained on."""
    tokenizer = Tokenizer.load(finished_run.path / "tokenizer.json")
    texts = EncodedTexts(tokenizer, small_task.corpus[:64], finished_run.config.model.context)
    return (
        run_models.load_policy(finished_run, "pretrained.safetensors", tokenizer),
        texts.batch(torch.arange(64), CPU),
        tokenizer,
    )


def test_forward_pass_and_loss_stay_close(policy_and_batch):
    policy, batch, _ = policy_and_batch
    found = {}
    for name in ("float32", "bfloat16"):
        use_precision(name, CPU)
        policy.zero_grad()
        with autocast(CPU):
            logits = policy(batch.rows)
            loss = language_model_loss(policy, batch)
        loss.backward()
        assert logits.dtype == getattr(torch, name) and loss.dtype == torch.float32
        found[name] = (
            logits.detach().float(),
            loss.item(),
            torch.cat([p.grad.flatten() for p in policy.parameters()]),
        )
    (logits, loss, gradient), (close_logits, close_loss, close_gradient) = found.values()
    layers = (
        4 * policy.config.layers + 1
    )  # products from the tokens to the logits; attention counts as none, for it is a mean
    bound = relative_bound(layers)
    assert 0 < size(close_logits - logits) < bound * size(logits)
    # A token's log-probability moves by about as much as its logit, and the loss is a mean of them,
    # so it moves by far less.
    assert 0 < abs(close_loss - loss) < bound * size(logits)
    # Backwards there are twice as many products: of each, one for the factor and one for the
    # weight.
    assert 0 < size(close_gradient - gradient) < relative_bound(3 * layers) * size(gradient)


def test_masked_lm_loss_stays_close(finished_run, policy_and_batch):
    _, batch, tokenizer = policy_and_batch
    torch.manual_seed(0)
    model = new_masked_language_model(finished_run.config.model, tokenizer.vocab_size)
    masks = Masks(
        None,
        tokenizer.vocab_size,
        lambda name, step: torch.Generator().manual_seed(step),
        static=False,
    )
    losses = {}
    for name in ("float32", "bfloat16"):
        use_precision(name, CPU)
        with autocast(CPU):
            loss = masked_lm_loss(model, batch, masks, 0, tokenizer)
        loss.backward()
        assert all(
            p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all())
            for p in model.parameters()
        )
        losses[name] = loss.item()
    assert (
        0
        < abs(losses["bfloat16"] - losses["float32"])
        < relative_bound(4 * model.config.layers + 2) * losses["float32"]
    )


def test_attention_with_gradients_is_float32_inside():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    with torch.autocast("cpu", torch.bfloat16):
        ours = attention(q, k, v, mask)
    exact = [tensor.detach().float().requires_grad_() for tensor in (q, k, v)]
    theirs = F.scaled_dot_product_attention(*exact, mask)
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
    weights = torch.randn_like(theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for close, tensor in zip((q, k, v), exact):
        assert close.grad.dtype == torch.bfloat16
        torch.testing.assert_close(close.grad.float(), tensor.grad, rtol=ROUNDING, atol=1e-30)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert attention(q.detach(), k, v, mask).dtype == torch.bfloat16


def test_sampling_on_a_cpu_stays_float32(policy_and_batch):
    policy, _, tokenizer = policy_and_batch
    prompts = [
        tokenizer.encode_prompt(topic) for topic in ("tea", "why sleep matters to us all")
    ]  # of unequal length: padded
    found = []
    for name in ("float32", "bfloat16"):
        use_precision(name, CPU)
        with autocast(CPU):
            found.append(
                sample(
                    policy,
                    prompts,
                    20,
                    tokenizer.end_id,
                    randomness=torch.Generator().manual_seed(0),
                )
            )
            assert torch.is_autocast_enabled("cpu") == (name == "bfloat16")  # as it was before
        assert found[-1].log_probs.dtype == torch.float32 and found[-1].log_probs.isfinite().all()
    assert torch.equal(found[0].tokens, found[1].tokens) and torch.equal(
        found[0].log_probs, found[1].log_probs
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_attention_of_one_query_agrees_with_the_kernel(dtype):
    """The short cut of sampling, with no mask, a mask of booleans and one that is added."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 1, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    q, k, v = (tensor.to(dtype) for tensor in (q, k, v))
    seen = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)[
        :, None, None
    ]
    added = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    for mask in (None, seen, added):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            ours = attention(q, k, v, mask)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        same = added.to(wide) if mask is added else mask
        exact = F.scaled_dot_product_attention(*(tensor.to(wide) for tensor in (q, k, v)), same)
        if (
            dtype == torch.bfloat16
        ):  # numbers of size 1, four roundings on the way (sampling, in float32, never comes here)
            assert (ours.float() - exact).abs().max() < 4 * ROUNDING * max(
                1.0, float(exact.abs().max())
            )
        else:
            assert ours.dtype == wide
            torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-5)


def test_trpo_stays_float32(finished_run, policy_and_batch):
    """The KL of one step is smaller than bfloat16's rounding: the same rollout gives the same
    update, bit for bit."""
    start, _, tokenizer = policy_and_batch
    reward_model = run_models.load_reward_model(finished_run, "reward.safetensors", tokenizer)
    prompts = [tokenizer.encode_prompt(topic) for topic in ("tea", "rain", "maps", "chess")]
    use_precision("bfloat16", CPU)
    rollout = collect(
        Models(start, start.frozen_copy(), reward_model, tokenizer),
        prompts,
        20,
        torch.Generator().manual_seed(0),
    )
    config = dataclasses.replace(TINY.finetune, algorithm="trpo")
    moved = {}
    for name in ("float32", "bfloat16"):
        use_precision(name, CPU)
        policy = copy.deepcopy(start)
        trpo(policy, rollout, advantages(rollout, config.trpo, 0.02), config.trpo)
        moved[name] = policy.state_dict()
    assert all(
        torch.equal(moved["bfloat16"][key], moved["float32"][key]) for key in moved["float32"]
    )


def test_float32_is_what_it_was_without_the_setting(policy_and_batch):
    policy, batch, _ = policy_and_batch
    use_precision("float32", CPU)
    assert isinstance(autocast(CPU), nullcontext)
    with autocast(CPU):
        chosen = language_model_loss(policy, batch)
    assert torch.equal(chosen, language_model_loss(policy, batch))  # no context at all


def test_what_holds_before_and_after_a_choice(monkeypatch):
    assert (precision_of(CPU), precision_of(CUDA)) == ("float32", "bfloat16")  # no choice yet
    for native, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device, native=native: native)
        use_precision("auto", CPU)
        assert precision_of(CPU) == expected
        use_precision("float32", CPU)
        assert precision_of(CPU) == "float32"
    assert precision_of(CUDA) == "bfloat16"  # each kind of device has its own


def test_cpus_are_asked_what_they_can(monkeypatch):
    for vectors, tiles in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda vectors=vectors: vectors, raising=False
        )
        monkeypatch.setattr(
            torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles, raising=False
        )
        assert multiplies_bfloat16(CPU) == (vectors or tiles)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not multiplies_bfloat16(CPU)
    assert multiplies_bfloat16(CUDA) and not multiplies_bfloat16(torch.device("mps"))


def test_an_unknown_name_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(
        ValueError, match="expected one of auto, float32, bfloat16, found 'half'"
    ) as told:
        use_precision("half", CPU)
    assert "\n" not in str(told.value) and precision_of(CPU) == "float32"
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text(json.dumps({"precision": "half", "device": "cpu"}))
    told = refused(capsys, tmp_path, "sample", "tea", "--run", "r", "--runs", str(tmp_path))
    assert "config.json: --precision: expected one of auto, float32, bfloat16, found 'half'" in told


def test_the_setting_is_kept_and_an_old_config_has_the_default():
    config = dataclasses.replace(TINY, precision="bfloat16")
    assert from_json(json.loads(json.dumps(to_json(config))), "config.json") == config
    old = json.loads(json.dumps(to_json(Config())))
    del old["precision"]
    assert from_json(old, "config.json").precision == "auto"


def test_a_run_in_bfloat16_resumes_bit_for_bit(tmp_path, monkeypatch, small_task, finished_run):
    """Stopped in the second round of fine-tuning, in another precision meanwhile, resumed: as if
    left alone."""
    config = dataclasses.replace(
        TINY, precision="bfloat16", evaluate=dataclasses.replace(TINY.evaluate, samples=8)
    )
    whole = Run.create(tmp_path / "whole", config)
    for stage in ("pretrain", "reward"):
        pipeline.STAGE_FUNCTIONS[stage](whole, small_task)
    shutil.copytree(whole.path, tmp_path / "stopped")
    for stage in ("finetune", "evaluate"):
        pipeline.STAGE_FUNCTIONS[stage](whole, small_task)
    summary = json.loads((whole.path / "summary.json").read_text())
    assert (
        summary["hardware"]["precision"] == "bfloat16 matrix products"
        and summary["config"]["precision"] == "bfloat16"
    )
    assert "bfloat16 matrix products" in (whole.path / "report.html").read_text(encoding="utf-8")

    monkeypatch.setattr(Checkpoints, "every_seconds", 0.0)
    original, calls = policy_gradient.policy_gradient_loss, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*arguments)

    run = Run.open(tmp_path / "stopped")
    monkeypatch.setattr(policy_gradient, "policy_gradient_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        pipeline.STAGE_FUNCTIONS["finetune"](run, small_task)
    monkeypatch.setattr(policy_gradient, "policy_gradient_loss", original)
    use_precision("float32", CPU)
    again = Run.create(run.path, Config(), resume=True)
    assert precision_of(CPU) == "bfloat16"
    for stage in ("finetune", "evaluate"):
        pipeline.STAGE_FUNCTIONS[stage](again, small_task)

    for file in ("pretrained", "reward", "reward_final", "policy"):
        ours, theirs, other = (
            load_tensors(run.path / f"{file}.safetensors")[0]
            for run in (again, whole, finished_run)
        )
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[key], theirs[key]) for key in ours
        ), file
        assert all(tensor.dtype == torch.float32 for tensor in ours.values())
        assert any(not torch.equal(ours[key], other[key]) for key in ours)  # and bfloat16 it was
    for file in ("metrics.jsonl", "samples.jsonl"):
        ours, theirs = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in run.read(file)]
            for run in (again, whole)
        )
        assert ours == theirs, file
