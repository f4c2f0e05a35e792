"""Settings: every one has limits, a bad one is refused in one line before a folder is made."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf.cli.main import COMMANDS, main
from minirlhf.config import SIZES, Config, FinetuneConfig, ModelConfig, PretrainConfig
from minirlhf.config_file import RENAMED, from_json
from minirlhf.runs import plan, run_task, workplace
from minirlhf.settings import SettingError, Settings, alternatives, fits, limits_of, range_of
from minirlhf.training.algorithms.make import ALGORITHMS

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


class Reached(Exception):
    """The command has passed all checks and would begin its work."""


def dataclasses_in(kind: type) -> set[type]:
    """A dataclass of settings and those in its fields."""
    parts = [part for hint in limits_of(kind).values() for part in alternatives(hint)]
    inner = {part for part in parts if dataclasses.is_dataclass(part)}
    return {kind}.union(*(dataclasses_in(part) for part in inner))


KINDS = sorted(
    set().union(
        *(dataclasses_in(kind) for kind in (Config, *(kind for kind, _ in COMMANDS.values())))
    ),
    key=lambda kind: kind.__name__,
)
PLAIN = (bool, str, Path, type(None))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_has_limits_and_every_dataclass_checks_them(kind):
    def limited(hint) -> bool:
        if get_origin(hint) is tuple:
            return all(map(limited, get_args(hint)))
        known = hint in PLAIN or dataclasses.is_dataclass(hint) or get_origin(hint) is Literal
        return known or range_of(hint) is not None

    assert issubclass(kind, Settings)
    for name, hint in limits_of(kind).items():
        assert all(map(limited, alternatives(hint))), f"{kind.__name__}.{name} has no limits"


def test_every_algorithm_can_be_chosen_and_has_settings():
    names = get_args(limits_of(FinetuneConfig)["algorithm"])
    assert set(names) == {*ALGORITHMS, "dpo"}
    for name in names:
        settings = FinetuneConfig(algorithm=name).of_algorithm
        assert isinstance(settings, Settings) and settings.place.startswith("finetune."), name


def test_the_presets_are_within_their_limits():
    assert {config.size for config in SIZES.values()} == SIZES.keys()


# At the limits and beyond them ----------------------------------------------------------------


def near_limits(hint) -> list:
    """Values at the limits of a number, just beyond them and far from them; of all else a few."""
    if get_origin(hint) is Literal:
        return [*get_args(hint), "other", 1]
    if (limits := range_of(hint)) is None:
        return [True, "true", 3, None]
    given = (limits.at_least, limits.at_most, limits.above, limits.below)
    ends = [end for end in given if end is not None]
    whole = [value for end in ends for value in (end - 1, end, end + 1)]
    odd = [0, 1, -1, 10**20, 10**400, math.inf, -math.inf, math.nan, True, "x", None, 0.5, [1]]
    return whole + odd + [math.nextafter(end, side) for end in ends for side in (-10, 10)]


FIELDS = [
    (kind, name, hint)
    for kind in KINDS
    if kind.__module__ == "minirlhf.config"
    for name, hint in limits_of(kind).items()
    if not dataclasses.is_dataclass(hint) and get_origin(hint) is not tuple
]


@pytest.mark.parametrize(
    "kind", list(dict.fromkeys(kind for kind, _, _ in FIELDS)), ids=lambda kind: kind.__name__
)
def test_a_value_beyond_its_limits_cannot_exist(kind):
    for _, name, hint in (field for field in FIELDS if field[0] is kind):
        values = [value for part in alternatives(hint) for value in near_limits(part)]
        for value in values:
            try:
                made = kind(**{name: value})
            except SettingError as error:
                assert "\n" not in str(error)
                if not fits(hint, value):  # otherwise it does not fit to the defaults of others
                    option = f"--{kind.place}{name}".replace("_", "-")
                    assert str(error).startswith(f"{option}: expected ")
            else:
                assert fits(hint, value) and getattr(made, name) is value


OPTIONS = {  # of `demo`: its name and the type of the setting
    f"--{kind.place}{name}".replace("_", "-"): hint
    for kind, name, hint in FIELDS
    if range_of(alternatives(hint)[0]) or get_origin(hint) is Literal
    if kind.__name__ not in ("CreditConfig", "OptimizerConfig", "CommonConfig")
}
OPTIONS.pop("--device")  # a device that this machine lacks is refused, too


@st.composite
def command_lines(draw) -> list[str]:
    """One to three settings, at most one of them beyond its limits."""
    options = draw(st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=3, unique=True))
    words, may_be_bad = [], draw(st.booleans())
    for name in options:
        hint = OPTIONS[name]
        values = [value for part in alternatives(hint) for value in near_limits(part)]
        good = [value for value in values if fits(hint, value)]
        words.append(f"{name}={draw(st.sampled_from(values if may_be_bad else good))}")
        may_be_bad = False
    return words


@settings(max_examples=12, derandomize=True, deadline=None, database=None)
@given(command_lines())
def test_no_command_line_ends_in_a_traceback_or_leaves_a_folder(
    small_task, tmp_path_factory, words
):
    runs = tmp_path_factory.getbasetemp() / "never made"
    told = io.StringIO()

    def reached(todo):
        raise Reached

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.setattr(run_task, "task_from", lambda config: small_task)
        patch.setattr(workplace, "make_folder", reached)
        with pytest.raises((SystemExit, Reached)) as ended:
            main(["demo", "--from-scratch", "--runs", str(runs), *words])
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 2 and told.getvalue()
    assert not runs.exists()


@pytest.mark.parametrize(
    "words, told",
    [
        ("pretrain --batch-size 0", "--pretrain.batch-size: expected an integer of at least 1"),
        ("pretrain --evaluate-every 0", "--pretrain.evaluate-every: expected an integer of at"),
        ("pretrain --match-share 0", "--pretrain.match-share: expected a number above 0 and at"),
        ("pretrain --steps 0", "--pretrain.steps: expected at least 1 with --pretrain.start scr"),
        (
            "pretrain --base data/base",
            "--pretrain.base: expected no base with --from-scratch or --start scratch, "
            "found data/base",
        ),
        ("pretrain --model.context 1", "--model.context: expected an integer of at least 2"),
        ("pretrain --model.width 191", "--model.width: expected a multiple of --model.heads (4)"),
        ("pretrain --seed 99999999999999999999", "--seed: expected an integer from 0 to 9223"),
        ("pretrain --seed -1", "--seed: expected an integer from 0 to 9223372036854775807"),
        ("pretrain --score-range 5 1", "--score-range: expected the lowest and then the highest"),
        ("pretrain --score-range 0 inf", "--score-range: expected 2 numbers, found (0.0, inf)"),
        ("reward --steps 0", "--reward.steps: expected an integer of at least 1, found 0"),
        ("reward --heldout-share 0", "--reward.heldout-share: expected a number above 0 and bel"),
        ("reward --dropout 2", "--reward.dropout: expected a number of at least 0 and below 1"),
        ("reward --own-texts -5", "--reward.own-texts: expected an integer of at least 0, found"),
        ("reward --mlm-steps 0", "--reward.encoder.steps: expected an integer of at least 1"),
        ("reward --ensemble 2000000000", "--reward.ensemble: expected an integer from 1 to 1000"),
        ("finetune --gradient-clip -1", "--finetune.gradient-clip: expected a number above 0"),
        ("finetune --kl-weight nan", "--finetune.kl-weight: expected a number of at least 0"),
        ("finetune --kl-target 0", "--finetune.kl-target: expected a number above 0 or None"),
        ("finetune --kl-target -1", "--finetune.kl-target: expected a number above 0 or None"),
        ("iterate --warn.window 0", "--finetune.warn.window: expected an integer of at least 2"),
        ("evaluate --samples 0", "--evaluate.samples: expected an integer of at least 2"),
        ("sample x --count 0", "--count: expected an integer from 1 to 1000, found 0"),
        ("sample x --count 9 --best-of 500", "--best-of: expected at most 4096 texts in all"),
        ("sample x --temperature -1", "--temperature: expected a number of at least 0"),
        ("sample x --top-k 0", "--top-k: expected an integer of at least 1 or None, found 0"),
        ("rate --repeats .6", "--repeats: expected a number from 0 to 0.5, found 0.6"),
        ("rate --count 0", "--count: expected an integer from 1 to 10000, found 0"),
        ("feedback summary x --score-range 2 2", "--score-range: expected the lowest and then"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert printed.startswith(f"error: {told}") and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make, told",
    [
        (
            lambda: Config(model=ModelConfig(context=64)),
            "--finetune.max-new-tokens: expected less than --model.context (64)",
        ),
        (
            lambda: Config(finetune=FinetuneConfig(conservatism=1.0)),
            "--finetune.conservatism: expected 0 without an ensemble",
        ),
    ],
)
def test_settings_of_two_stages_must_go_together(make, told):
    with pytest.raises(SettingError, match="^--") as refused:
        make()
    assert str(refused.value).startswith(told)


def test_what_is_unusual_but_can_work_is_accepted(monkeypatch):
    PretrainConfig(match_weight=0.0, warmup=0)
    PretrainConfig(start="base", steps=0)  # the base as it is
    FinetuneConfig(algorithm="rloo", batch_size=8, gradient_clip=math.inf, kl_weight=0.0)

    def planned(path, config, *rest):
        assert config.finetune.max_new_tokens == 33 < config.model.context == 50
        raise Reached

    monkeypatch.setattr(plan, "plan_new", planned)
    with pytest.raises(Reached):  # `pretrain` has no option for the length of texts
        main(["pretrain", "--model.context", "50"])


# config.json ----------------------------------------------------------------------------------


def test_a_value_in_config_json_is_refused_in_the_same_words():
    with pytest.raises(ValueError, match="^r/config.json: --finetune.ppo.epochs: expected an int"):
        from_json({"finetune": {"ppo": {"epochs": 0}}}, "r/config.json")
    with pytest.raises(ValueError, match="^r/config.json: --finetune.max-new-tokens: expected les"):
        from_json({"model": {"context": 48}}, "r/config.json")
    with pytest.raises(ValueError, match="^r/config.json: finetune: ppo: unknown field 'epoch'"):
        from_json({"finetune": {"ppo": {"epoch": 1}}}, "r/config.json")


def test_a_config_of_an_earlier_version_opens():
    old = json.loads((RESULTS / "reviews.json").read_text("utf-8"))["config"]
    assert all(name.split(".")[1] in old[name.split(".")[0]] for name in RENAMED)
    old["finetune"] |= {"baseline": "none", "group_size": 8}
    old["reward"]["masking"] = "static"
    config = from_json(old, "config.json")
    assert config.finetune.reinforce.baseline == config.finetune.trpo.baseline == "none"
    assert config.finetune.group.size == 8 and config.reward.encoder.masking == "static"
    assert config.reward.encoder.steps == old["reward"]["mlm_steps"]
    assert old["finetune"]["group_size"] == 8  # the given object is left as it is
    mixed = from_json({"finetune": {"ppo": {"pretraining_weight": 0.5}}}, "config.json")
    assert mixed.finetune.pretraining_weight == 0.5
    with pytest.raises(ValueError, match="^config.json: --finetune.group.size: expected an intege"):
        from_json({"finetune": {"group_size": 1}}, "config.json")


def test_old_names_stand_for_settings_that_exist():
    for new in (name for names in RENAMED.values() for name in names):
        place, setting = new.rsplit(".", 1)
        part = attrgetter(place)(Config())
        assert setting in limits_of(type(part))
        assert get_origin(limits_of(type(part))[setting]) in (Literal, Annotated)
