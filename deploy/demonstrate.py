"""Episodes of a scripted demonstrator on a simulated arm, through the same limits as any agent's."""

from __future__ import annotations

import numpy as np

from deploy.robots.sim import SimRobot
from deploy.safety import RobotLimits
from envs.demonstrators import DEMONSTRATORS
from envs.episodes import Episode
from envs.robots import make_env, pick, robot_spec

_CORRELATION = 0.9  # of the noise, from one control step to the next


def demonstrate(robot: str, limits: RobotLimits, noise: float, seed: int, index: int) -> Episode:
    """Return episode `index`, a function of the arguments alone; its meta says whether the goal was met at its end.

    `noise` is the standard deviation of smooth noise on the actions [rad]. Raises KeyError for a robot that nobody
    demonstrates.
    """
    teacher, spec = pick(DEMONSTRATORS, robot, "demonstrated robot")(), robot_spec(robot)
    rng = np.random.default_rng([seed, index])
    env_seed = int(rng.integers(2**31))
    body = SimRobot(make_env(robot), spec.dt_s, limits)
    state_O, shake_A = body.reset(env_seed, 0.0).state_O, np.zeros(spec.action.size)
    states, rows, outcome = [state_O], [], None
    while outcome is None or not (outcome.terminated or outcome.truncated):
        fresh_A = rng.normal(0.0, noise, spec.action.size)
        shake_A = _CORRELATION * shake_A + np.sqrt(1 - _CORRELATION**2) * fresh_A
        asked_A = teacher.act(states[-1]) + shake_A
        command = body.send(asked_A)
        outcome = body.read(len(states) * spec.dt_s)
        states.append(outcome.observation.state_O)
        rows.append((asked_A, command.action_A, outcome.applied_A, outcome.reward))
    asked, sent, applied, rewards = (np.array(column) for column in zip(*rows, strict=True))
    return Episode(
        state_TO=np.array(states),
        action_requested_TA=asked,
        action_TA=sent,
        action_applied_TA=applied,
        reward_T=rewards,
        terminated=outcome.terminated,
        truncated=outcome.truncated or not outcome.terminated,
        seed=env_seed,
        meta={"index": index, "robot": robot, "success": bool(body.info["is_success"])},
    )
