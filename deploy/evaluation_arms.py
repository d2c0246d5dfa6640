"""The arms of an evaluation: a preset, and what it is compared with, which ran from the same seeds or will."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.commandline import overridden, resolve

if TYPE_CHECKING:
    from deploy.config import RunConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PROG = "surefoot evaluate"


@dataclass(frozen=True)
class Arm:
    """What runs."""

    name: str
    about: str  # how it was asked for
    cfg: RunConfig


@dataclass(frozen=True)
class EarlierArm:
    """What ran before: the result FILE of another evaluation."""

    name: str
    about: str
    result: Mapping[str, Any]


def alone(cfg: RunConfig) -> RunConfig:
    """Return the config of an arm: nothing is adapted, as each episode stands alone."""
    return replace(cfg, adapt=False, control_arm=False)


def parse_arms(
    texts: Sequence[str], base: RunConfig, episodes: int, presets: Mapping[str, tuple[str, RunConfig]]
) -> list[Arm | EarlierArm]:
    """Return what each --against names. Raises ValueError, in one line, for what cannot be compared with `base`."""
    arms: list[Arm | EarlierArm] = []
    for text in texts:
        name, said = _name(text)
        if name in (base.preset, *(arm.name for arm in arms)):
            raise ValueError(f"--against {text!r}: there is an arm named {name!r} already; give another name")
        if said.endswith(".json") and not said.startswith("-"):
            arms.append(_earlier(name, said, base, episodes))
        else:
            arms.append(_arm(name, said, base, presets))
    return arms


def _name(text: str) -> tuple[str, str]:
    name, equals, said = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise ValueError(
            f'--against {text!r}: give NAME="OVERRIDES", NAME="PRESET OVERRIDES" or NAME=FILE.json, '
            "with a NAME of letters, digits, dots, dashes and underscores"
        )
    return name, said.strip()


def _arm(name: str, said: str, base: RunConfig, presets: Mapping[str, tuple[str, RunConfig]]) -> Arm:
    try:
        words = shlex.split(said)
        if words and words[0] in presets:
            cfg = resolve([words[0], "--seed", str(base.seed), *words[1:]], presets, PROG)
        else:
            cfg = overridden(base, words, PROG)
    except (ValueError, KeyError) as error:
        raise ValueError(f"--against {name}={said!r}: {error.args[0]}") from None
    for what in ("robot", "seed"):
        mine, other = getattr(base, what), getattr(cfg, what)
        if mine != other:
            raise ValueError(f"--against {name}={said!r}: arms share their {what}, {mine!r}, got {other!r}")
    return Arm(name, said, alone(cfg))


def _earlier(name: str, said: str, base: RunConfig, episodes: int) -> EarlierArm:
    from deploy.session import env_seed

    where = f"--against {name}={said}"
    result = _read(Path(said), where)
    robot = result.get("robot", base.robot)
    if robot != base.robot:
        raise ValueError(f"{where}: arms share their robot, {base.robot!r}, it has {robot!r}")
    if len(result["per_episode"]) != episodes:
        raise ValueError(
            f"{where} holds {len(result['per_episode'])} episodes, so that --episodes {episodes} are no pairs"
        )
    seeds = [env_seed(base.seed, episode) for episode in range(episodes)]
    if [e["env_seed"] for e in result["per_episode"]] != seeds:
        raise ValueError(f"{where} began from other seeds: it ran --seed {result['seed']}, this is --seed {base.seed}")
    return EarlierArm(name, said, result)


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from None
    episodes = result.get("per_episode") if isinstance(result, dict) and "seed" in result else None
    if not isinstance(episodes, list) or not all(_is_episode(e) for e in episodes):
        raise ValueError(
            f"{where} is no result of surefoot evaluate: it needs seed, and per_episode with env_seed and return"
        )
    return result


def _is_episode(value: Any) -> bool:
    return isinstance(value, dict) and "env_seed" in value and isinstance(value.get("return"), int | float)
