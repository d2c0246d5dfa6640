"""Importing this registers our robots with Gymnasium: `gymnasium.make("surefoot/walker2d-v4")`.

dm_control's suite is one entry: `gymnasium.make("surefoot/dm_control-v0", task="walker-walk")`. Without the import,
`gymnasium.make("envs.gym:surefoot/walker2d-v4")` does both.
"""

from __future__ import annotations

import gymnasium

from envs.robots import DM_CONTROL, ROBOTS, make_env


def make_task(task: str, render_mode: str | None = None) -> gymnasium.Env:
    """Return the environment of one task of dm_control's suite, DOMAIN-TASK; raises KeyError for one it has not."""
    return make_env(f"{DM_CONTROL}{task}", render_mode=render_mode)


for _name, _spec in ROBOTS.items():
    gymnasium.register(f"surefoot/{_name}-{_spec.version}", entry_point=make_env, kwargs={"name": _name})  # pyright: ignore[reportArgumentType]
gymnasium.register("surefoot/dm_control-v0", entry_point=make_task)  # pyright: ignore[reportArgumentType]
