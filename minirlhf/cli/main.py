"""The command line: parse, run one command, and report an error in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from minirlhf.cli import chat, data, feedback, play, rate, sample, train
from minirlhf.cli.ending import orderly
from minirlhf.cli.options import (
    SFT,
    Chat,
    Data,
    Demo,
    Evaluate,
    Feedback,
    Finetune,
    Iterate,
    Play,
    Pretrain,
    Rate,
    Reward,
    Sample,
)
from minirlhf.cli.unread import refuse_unread
from minirlhf.config import SIZES, CommonConfig, Config, preset
from minirlhf.config_file import RENAMED, from_json
from minirlhf.settings import option

DESCRIPTION = (
    "Fine-tune a small language model from language feedback, from scratch, and let a judge decide."
)


def join_processes(command: object) -> None:
    """Join the other processes that torchrun started. Only fine-tuning can share its work."""
    if not isinstance(command, Finetune):
        print(
            "error: torchrun: expected the command finetune, which alone can use more than one "
            "process",
            file=sys.stderr,
        )
        sys.exit(2)
    if os.environ["RANK"] != "0":
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
    from minirlhf.system import distributed

    distributed.start()


# In `demo` the names of settings begin with their stage. The ones that matter most to the article
# have a short name as well.
SHORT = {
    "--algorithm": "--finetune.algorithm",
    "--tune": "--finetune.tune",
    "--credit": "--finetune.credit",
    "--baseline": "--finetune.baseline",
    "--gae-lambda": "--finetune.gae-lambda",
    "--target": "--reward.target",
    "--loss": "--reward.loss",
    "--ensemble": "--reward.ensemble",
    "--base": "--pretrain.base",
    "--demonstrations": "--sft.demonstrations",
}
NEED_WORDS = ("data", "sample", "feedback")  # commands that require an argument
COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {  # (its options, what it does)
    "demo": (Demo, train.demo),
    "data": (Data, data.data),
    "pretrain": (Pretrain, train.pretrain),
    "sft": (SFT, train.sft),
    "reward": (Reward, train.reward),
    "finetune": (Finetune, train.finetune),
    "evaluate": (Evaluate, train.evaluate),
    "sample": (Sample, sample.sample),
    "chat": (Chat, chat.chat),
    "play": (Play, play.play),
    "rate": (Rate, rate.rate),
    "feedback": (Feedback, feedback.feedback),
    "iterate": (Iterate, train.iterate),
}


# Names of earlier versions.
RENAMED_OPTIONS = {option(old): tuple(map(option, new)) for old, new in RENAMED.items()}


def spelled_out(arguments: list[str]) -> list[str]:
    """Option names as tyro knows them.

    In `demo`, short names are replaced by the long ones; in other commands the stage's own prefix
    is removed. So `--finetune.kl-weight`, as warnings call it, works in demo, finetune and iterate.
    Names of earlier versions are replaced by today's, of which there may be several.
    """
    command, found = "".join(arguments[:1]), []
    stage = "finetune" if command == "iterate" else command
    prefix = "--" if command == "demo" else f"--{stage}."
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if command == "demo":
            name = SHORT.get(name, name)
        full = name if name.startswith(prefix) else name.replace("--", prefix, 1)
        names = RENAMED_OPTIONS.get(full.replace("_", "-"), (name,))
        if len(names) > 1 and not equals:  # the value is repeated, too
            equals, value = "=", next(words, "")
        for each in names:
            if each.startswith(prefix):
                each = "--" + each.removeprefix(prefix)
            found.append(each + equals + value)
    return found


def given(arguments: list[str], name: str, default: str) -> str:
    """The value of an option, read before the whole command line is parsed; or the default."""
    for index, word in enumerate(arguments):
        if word.startswith(name + "="):
            return word.partition("=")[2]
        if word == name and index + 1 < len(arguments):
            return arguments[index + 1]
    return default


def defaults(arguments: list[str]) -> dict[str, object]:
    """Each command's options with the defaults of --size and --task.

    Commands that continue a run take the size and the task of that run unless others are given.
    """
    command = "".join(arguments[:1])
    size, task = "small", "openings"
    if command in ("sft", "reward", "finetune", "iterate", "evaluate"):
        runs, run = given(arguments, "--runs", "runs"), given(arguments, "--run", "demo")
        try:
            content = json.loads((Path(runs) / run / "config.json").read_text(encoding="utf-8"))
            size, task = content["size"], content["task"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the command itself reports what is wrong with the run
    size, task = given(arguments, "--size", size), given(arguments, "--task", task)
    size = size if size in SIZES else "small"  # tyro rejects an unknown size
    # Both ways to say it.
    from_scratch = given(arguments, "--pretrain.start", "") == "scratch" or any(
        word.replace("_", "-") == "--from-scratch" for word in arguments
    )
    config = preset(size, task, from_scratch, own_texts=bool(given(arguments, "--feedback", "")))
    if "--resume" in arguments:
        config = interrupted_config(arguments) or config
    found: dict[str, object] = {
        name: kind() for name, (kind, _) in COMMANDS.items() if name not in NEED_WORDS
    }
    found["demo"] = Demo(config=config)
    from_base = config.pretrain.start == "base"  # in `demo`; `pretrain` trains one
    scratch = Pretrain().pretrain if from_base else config.pretrain
    fields = dataclasses.fields(CommonConfig)
    common = CommonConfig(**{field.name: getattr(config, field.name) for field in fields})
    found["pretrain"] = Pretrain(common=common, pretrain=scratch)
    found["sft"] = SFT(sft=config.sft)
    found["reward"] = Reward(reward=config.reward)
    found["finetune"] = Finetune(finetune=config.finetune)
    found["iterate"] = Iterate(finetune=config.finetune)
    found["evaluate"] = Evaluate(evaluate=config.evaluate)
    return found


def interrupted_config(arguments: list[str]) -> Config | None:
    """The settings of the run that --resume goes on with, None if there is none to read.

    As they are the defaults then, a setting that differs was typed, and is not ignored in silence.
    """
    from minirlhf.runs.redo import resumed

    path = Path(given(arguments, "--runs", "runs")) / given(arguments, "--run", "demo")
    file = resumed(path) / "config.json"
    try:
        config = from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, RecursionError):
        return None  # the command itself reports what is wrong with the run
    return dataclasses.replace(config, device="auto")  # a property of the call, not of the run


def parse(arguments: list[str]) -> object:
    """The command's options, filled from the command line.

    Exits for --help and for invalid options.
    """
    arguments = spelled_out(arguments)
    filled = defaults(arguments)
    kinds: list[Any] = []
    for name, (kind, _) in COMMANDS.items():
        default: dict[str, Any] = {"default": filled[name]} if name in filled else {}
        subcommand = tyro.conf.subcommand(name=name, prefix_name=False, **default)
        kinds.append(Annotated[kind, subcommand])
    any_command: Any = Union[tuple(kinds)]  # noqa: UP007 (made at run time)
    command = tyro.cli(
        any_command,
        args=arguments,
        prog="minirlhf",
        description=DESCRIPTION,
        config=(tyro.conf.AvoidSubcommands,),
    )
    refuse_unread(command, filled.get("".join(arguments[:1])))
    return command


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; `ending.orderly` says how each kind of failure ends."""
    with orderly():
        command = parse(sys.argv[1:] if arguments is None else arguments)
        functions = dict(COMMANDS.values())
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # started by torchrun
            join_processes(command)
        functions[type(command)](command)
