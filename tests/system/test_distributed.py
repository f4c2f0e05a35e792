"""torchrun with two processes: the same training as one process with the same batch, one run
folder, no hang when one dies."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY
from warm_process import Command, done

from minirlhf.cli.main import main
from minirlhf.runs import pipeline
from minirlhf.runs.folder import Run
from minirlhf.system.files import load_tensors

FINETUNE = [
    "--updates",
    "4",
    "--batch-size",
    "12",
    "--max-new-tokens",
    "40",
    "--rounds",
    "2",
    "--ratings-per-round",
    "7",
    "--refit-steps",
    "4",
]  # 7 ratings: a number that two processes cannot share evenly


@pytest.fixture(scope="module")
def ready(tmp_path_factory, small_task) -> Path:
    """A folder of runs that holds one, "ready", with a reward model."""
    run = Run.create(
        tmp_path_factory.mktemp("runs") / "ready",
        dataclasses.replace(
            TINY,
            seed=3,
            precision="float32",
            pretrain=dataclasses.replace(TINY.pretrain, corpus_texts=1500),
        ),
    )
    for stage in ("pretrain", "reward"):
        pipeline.STAGE_FUNCTIONS[stage](run, small_task)
    return run.path.parent


def command(runs: Path, name: str, *extra: str) -> list[str]:
    return ["finetune", "--run", name, "--runs", str(runs), *FINETUNE, *extra]


def copy_of(ready: Path, runs: Path, name: str) -> Path:
    shutil.copytree(ready / "ready", runs / name)
    return runs / name


# The last minibatch of an epoch is smaller than the others; some updates stop early.
PPO = ["--algorithm", "ppo", "--ppo.minibatch-size", "8", "--ppo.kl-stop", "0.0007"]
# Each minibatch mixes in two unscored texts, one for each process.
PPO_PTX = [*PPO[:4], "--pretraining-weight", "0.5"]
# Conjugate gradient magnifies rounding, a large step even more so.
TRPO = ["--algorithm", "trpo", "--trpo.fisher-texts", "6", "--trpo.delta", "0.03"]


# The first case goes through torchrun itself, the others through processes that are told the same.
@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["--algorithm", "grpo", "--group-size", "3"],
        ["--credit", "reward-to-go"],
        PPO,
        PPO_PTX,
        TRPO,
    ],
    ids=["reinforce", "grpo", "reward-to-go", "ppo", "ppo-ptx", "trpo"],
)
def test_two_processes_train_as_one_does(ready, tmp_path, extra):
    folders = {name: copy_of(ready, tmp_path, name) for name in ("one", "two")}
    arguments = {name: command(tmp_path, name, *extra) for name in folders}
    if extra:
        done(arguments["one"], tmp_path / "output")
        processes = start_two(tmp_path, "two", *extra)
        assert [process.wait() for process in processes] == [0, 0], processes[0].errors()
        printed = "".join(process.printed() for process in processes)
    else:
        main(arguments["one"])  # on the task as torchrun's processes load it
        printed = torchrun(arguments["two"])
    assert printed.count("done: finetune") == 1  # one of them speaks

    rows = {name: Run.open(folder).read("metrics.jsonl") for name, folder in folders.items()}
    tuned = {
        name: [row for row in found if row["stage"] == "finetune"] for name, found in rows.items()
    }
    assert [row["step"] for row in tuned["two"]] == [1, 2, 3, 4]
    for one, two in zip(tuned["one"], tuned["two"]):
        assert one.keys() == two.keys()
        for name in one.keys() - {"seconds", "stage", "warnings"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (one["step"], name)
    collected = {name: (folder / "collected.jsonl").read_text() for name, folder in folders.items()}
    assert collected["one"].count("\n") == 7 and collected["two"] == collected["one"]
    for file in ("policy", "reward_final"):
        ours, theirs = (
            load_tensors(folder / f"{file}.safetensors")[0] for folder in folders.values()
        )
        off = torch.cat([(theirs[name] - ours[name]).abs().flatten() for name in ours])
        # Where a gradient is nothing but rounding, Adam still makes a step of its learning rate:
        # single weights may part by 4.
        assert off.quantile(0.999) < 1e-5 and off.mean() < 1e-6 and off.max() < 4 * 7e-4, (
            file,
            off.mean(),
            off.max(),
        )
    left = {path.name for path in folders["two"].iterdir()}
    assert left == {path.name for path in folders["one"].iterdir()} and not any(
        name.endswith(".tmp") for name in left
    )
    if extra == PPO:
        assert {row["minibatches"] for row in tuned["two"]} == {3, 4}  # of 4
    shutil.rmtree(folders["two"])


def torchrun(arguments: list[str]) -> str:
    """What two processes of torchrun print."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *start, "-m", "--", "minirlhf", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout


def start_two(runs: Path, name: str, *extra: str) -> list[Command]:
    """Two processes with what torchrun would tell them, so that nobody but themselves notices a
    death."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        Command(
            command(runs, name, *extra),
            runs / f"output {rank}",
            environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("victim, extra", [(0, []), (1, PPO)], ids=["reinforce", "ppo"])
def test_when_one_dies_the_other_ends_with_one_line(ready, tmp_path, victim, extra):
    folder = copy_of(ready, tmp_path, "run")
    processes = start_two(tmp_path, "run", "--updates", "100000", *extra)
    for _ in range(3000):  # until they work together; a hang guard, not a measurement
        if '"finetune"' in (folder / "metrics.jsonl").read_text():
            break
        assert all(process.running() for process in processes)
        time.sleep(0.1)
    processes[victim].send(signal.SIGKILL)
    survivor = processes[1 - victim]
    assert survivor.wait(timeout=120) == 1
    errors = survivor.errors()
    told = [line for line in errors.splitlines() if line.startswith("error:")]
    assert (
        len(told) == 1
        and "lost another process" in told[0]
        and "--resume" in told[0]
        and "Traceback" not in errors
    )
    assert processes[victim].wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "change, message",
    [
        (
            ["--algorithm", "ppo", "--ppo.minibatch-size", "5"],
            "--finetune.ppo.minibatch-size: expected a multiple of the 2 processes, found 5",
        ),
        (
            ["--batch-size", "7"],
            "--finetune.batch-size: expected a multiple of the 2 processes, found 7",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(ready, tmp_path, change, message):
    folder = copy_of(ready, tmp_path, "run")
    for process in start_two(tmp_path, "run", *change):
        code, errors = process.wait(), process.errors()
        assert code == 2 and message in errors and "Traceback" not in errors
    assert not (folder / "policy.safetensors").exists()


def test_only_finetune_runs_on_more_than_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--runs", str(tmp_path / "runs")])
    assert stopped.value.code == 2 and "expected the command finetune" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_share_is_filled_up_and_cut_again(monkeypatch):
    from minirlhf.system import distributed

    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(distributed.local_rows(7))
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert sum(parts, [])[:7] == list(range(7))
