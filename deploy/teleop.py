"""`surefoot teleop PRESET|--robot NAME --with DEVICE`: a person, a leader arm or a script moves a robot; nothing plans.

`surefoot run PRESET --operator DEVICE` is the same with the preset's planner, which goes on where the person does not steer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.config import RunConfig

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
    return RunConfig(preset=f"teleop-{spec.name}", robot=spec.name, limits=limits)


def main(argv: Sequence[str]) -> int:
    """Let somebody steer a robot; return the exit code: 0, 1 (it was stopped), 2 (bad input) or 130 (interrupted)."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, guarded, resolve
    from deploy.interrupt import Interrupts
    from deploy.operators.crew import HELP as DEVICES
    from deploy.operators.crew import OperatorConfig, take_options
    from deploy.operators.keys import MOVES, ORDERS
    from deploy.run_agent import live

    def body() -> int:
        asked, rest = take_options(argv, "--with")
        if not rest or any(arg in HELP for arg in rest):
            print(f"{__doc__}\n{DEVICES}\nkeys:\n  {MOVES}\n  {ORDERS}\n")
        table = dict(PRESETS)
        if rest[:1] == ["--robot"]:
            cfg = alone(rest[1] if len(rest) > 1 else "")
            table[cfg.preset], rest = ("a robot by itself", cfg), [cfg.preset, *rest[2:]]
        bases = {name: (about, steered(cfg)) for name, (about, cfg) in table.items()}
        cfg = resolve(rest, bases, "surefoot teleop")
        return live(cfg, stop, asked or OperatorConfig("keyboard"), planner=False, args=argv)

    with Interrupts() as stop:
        return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
