"""`surefoot teleop PRESET|--robot NAME --with DEVICE`: a person, a leader arm or a script moves a robot; nothing plans."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.config import RunConfig

LONG = 1_000_000
"""Episodes: until somebody ends it."""


def steered(cfg: RunConfig) -> RunConfig:
    """Return a preset without what only a planner needs, and without an end."""
    return replace(
        cfg, adapt=False, control_arm=False, max_episodes=LONG, max_s=float("inf"), goals=(), pictures="none"
    )


def base_of(argv: Sequence[str], presets: Mapping[str, tuple[str, RunConfig]]) -> RunConfig:
    """Return what `PRESET ...` or `--robot NAME ...` begins with. Raises ValueError or KeyError for an unknown name."""
    from configs.limits import LIMITS
    from deploy.config import RunConfig
    from deploy.robots.sim import limits_of
    from envs.robots import robot_spec

    if argv[0] != "--robot":
        if argv[0] not in presets:
            raise ValueError(f"no preset {argv[0]!r}; choose from {', '.join(presets)}, or give --robot NAME")
        return steered(replace(presets[argv[0]][1], preset=argv[0]))
    spec = robot_spec(argv[1] if len(argv) > 1 else "")
    limits = LIMITS[spec.name] if spec.name in LIMITS else limits_of(spec)
    return steered(RunConfig(preset=f"teleop-{spec.name}", robot=spec.name, limits=limits))


def main(argv: Sequence[str]) -> int:
    """Let somebody steer a robot; return the exit code: 0, 1 (it was stopped), 2 (bad input) or 130 (interrupted)."""
    from configs.presets import PRESETS
    from deploy.commandline import HELP, guarded, overridden, usage
    from deploy.interrupt import Interrupts
    from deploy.operators.crew import HELP as DEVICES
    from deploy.operators.crew import OperatorConfig, take_options
    from deploy.operators.keys import MOVES, ORDERS
    from deploy.run_agent import live

    def body() -> int:
        asked, rest = take_options(argv, "--with")
        if not rest or rest[0] in HELP:
            print(f"{usage(PRESETS, 'surefoot teleop')}\n\n--robot NAME instead of a preset: any robot by itself\n")
            print(f"{DEVICES}\nkeys:\n  {MOVES}\n  {ORDERS}")
            raise SystemExit(0 if rest else 2)
        base = base_of(rest, PRESETS)
        args = rest[2:] if rest[0] == "--robot" else rest[1:]
        cfg = overridden(base, args, f"surefoot teleop {rest[0]}")
        return live(cfg, stop, asked or OperatorConfig("keyboard"), planner=False, args=argv)

    with Interrupts() as stop:
        return guarded(body)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
