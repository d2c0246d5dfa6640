"""`surefoot teleop PRESET|--robot NAME|--robot.type=TYPE --with DEVICE`: a person, a leader or a script moves a robot; nothing plans.

`surefoot run PRESET --operator DEVICE` is the same with the preset's planner, which goes on where the person does not steer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.config import RunConfig

ALONE = "teleop-"
LONG = 1_000_000
"""Episodes: until somebody ends it."""


def steered(cfg: RunConfig) -> RunConfig:
    """Return a config without what only a planner needs, and without an end."""
    return replace(
        cfg, adapt=False, control_arm=False, max_episodes=LONG, max_s=float("inf"), goals=(), pictures="none"
    )


def alone(name: str) -> RunConfig:
    """Return the config of a robot by itself. Raises KeyError or ValueError, in one line, for an unknown one."""
    from configs.limits import LIMITS
    from deploy.config import RunConfig
    from deploy.robots.sim import limits_of
    from envs.robots import robot_spec

    spec = robot_spec(name)
    limits = LIMITS[spec.name] if spec.name in LIMITS else limits_of(spec)
    return RunConfig(preset=f"{ALONE}{spec.name}", robot=spec.name, limits=limits)


def alone_real(options: Sequence[str]) -> RunConfig:
    """Return the config of a real robot by itself, which moves no further than it was calibrated for.

    Raises ValueError, in one line, for options that lerobot refuses, or a robot of which no limits are known.
    """
    from deploy.config import RunConfig
    from deploy.robots.hardware import BODIES, kind_of, measured

    kind = kind_of(options)
    if kind in BODIES:
        return alone(BODIES[kind])
    spec, limits = measured(options)
    return RunConfig(preset=f"{ALONE}{spec.name}", robot=spec.name, limits=limits)


def bases_for(text: str) -> dict[str, RunConfig]:
    """Return the configs that YAML may be laid over: all presets, and the robot by itself that it may name."""
    import yaml

    from configs.presets import PRESETS

    tree = yaml.safe_load(text)
    name = str(tree.get("preset")) if isinstance(tree, dict) else ""
    own = {name: alone(name.removeprefix(ALONE))} if name.startswith(ALONE) else {}
    return {**{preset: cfg for preset, (_, cfg) in PRESETS.items()}, **own}


def main(argv: Sequence[str]) -> int:
    """Let somebody steer a robot; return the exit code: 0, 1 (it was stopped), 2 (bad input) or 130 (interrupted)."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, guarded, resolve
    from deploy.interrupt import Interrupts
    from deploy.live import HELP as BESIDE
    from deploy.live import live, take_company
    from deploy.operators.crew import OperatorConfig
    from deploy.operators.keys import MOVES, ORDERS

    def body() -> int:
        company, rest = take_company(argv, "--with")
        table, named, wants_help = dict(PRESETS), rest and not rest[0].startswith("-"), any(a in HELP for a in rest)
        if wants_help or not (rest or company.hardware):
            print(f"{__doc__}\n{BESIDE}\nkeys:\n  {MOVES}\n  {ORDERS}\n")
        own = None
        if rest[:1] == ["--robot"]:
            own, rest = alone(rest[1] if len(rest) > 1 else ""), rest[2:]
        elif company.hardware and not (named or wants_help or rest[:1] == ["--config"]):
            own = alone_real(company.hardware)
        if own is not None:
            table[own.preset], rest = ("a robot by itself", own), [own.preset, *rest]
        bases = {name: (about, steered(cfg)) for name, (about, cfg) in table.items()}
        cfg = resolve(rest, bases, "surefoot teleop")
        company = replace(company, operator=company.operator or OperatorConfig("keyboard"))
        return live(cfg, stop, company, planner=False, args=argv)

    with Interrupts() as stop:
        return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
