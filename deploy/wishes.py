"""What a running robot is asked for, in words: sentences become goals, here or by the goal service, and goals objectives.

An OBJECTIVE (`speed:1.5+0.1*effort`, `run`) is pursued as it is. A sentence is read by the grammar of commands; what that does not
understand is asked of the goal service, if there is one, while the last goal goes on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agents.commands import read
from agents.goals import Goal, Term, objective, robot_of
from agents.pursuit import Pursuit, advance
from deploy.goal_client import GoalClient, GoalFollower
from planners.objectives import parse_objective

if TYPE_CHECKING:
    from deploy.config import RunConfig

TOKEN = "SUREFOOT_GOAL_TOKEN"
"""Environment variable with the goal service's bearer token: a config is written down, and a token is not."""
MORE = "`surefoot goals serve` and --goal-service URL read more"


def is_sentence(text: str) -> bool:
    """Return whether a text is to be read as words: it is no objective, and has no sign that only an objective has."""
    try:
        parse_objective(text)
    except ValueError:
        return bool(text) and not set(text) & set(":*")
    return False


def as_goal(text: str, robot: str) -> Goal | None:
    """Return the goal that an objective is, for "faster" to refer to; None where it is none."""
    try:
        parts = [part.strip().rpartition("*") for part in text.split("+")]
        named = [(weight, *tail.partition(":")[::2]) for weight, _, tail in parts]
        name = robot_of(robot)
        terms = [Term.of(name, k, float(v) if v else None, float(w) if w else None) for w, k, v in named]
        return Goal(name, tuple(terms))
    except ValueError:
        return None


class Wishes:
    """The goal under way: told in words or as objectives, it says what to pursue when."""

    def __init__(self, robot: str, task: str = "", follower: GoalFollower | None = None) -> None:
        """`task`: what is pursued where nothing is asked."""
        self._robot, self._task, self._follower = robot, task, follower
        goal = as_goal(task, robot)
        self._pursuit = None if goal is None else Pursuit(goal, 0.0)
        self._pursued = task
        self._notes: deque[str] = deque()
        """Filled by any thread."""

    @classmethod
    def of(cls, cfg: RunConfig) -> Wishes:
        """Return the wishes of a run, the first of which is told to it at its beginning; with a service, a thread asks it."""
        made = cls(cfg.robot, cfg.objective)
        if cfg.goal_service:
            client = GoalClient(cfg.goal_service, os.environ.get(TOKEN, ""))
            made._follower = GoalFollower(client, cfg.robot, made._notes.append)
        return made

    def hear(self, text: str, t_s: float) -> str:
        """Take in a sentence or an objective; return the objective to pursue at once, "" for the task.

        Raises ValueError, in one line, where there is none yet: then the last goal goes on.
        """
        if not is_sentence(text):
            goal = as_goal(text, self._robot)
            self._pursuit, self._pursued = None if goal is None else Pursuit(goal, t_s), text
            return text
        current = None if self._pursuit is None else self._pursuit.goal
        found = read(text, self._robot, current)
        if found.goal is None:
            if self._follower is None:
                raise ValueError(f"{found.why}; {MORE}")
            self._follower.ask(text, current)
            raise ValueError(f"{found.why}; asking the goal service")
        wanted = objective(found.goal)
        self._pursuit, self._pursued = Pursuit(found.goal, t_s), wanted
        return wanted

    def due(self, t_s: float, readings: Mapping[str, float]) -> str | None:
        """Return the objective to pursue from now on, None where nothing changes. What no planner pursues becomes a note."""
        new = None if self._follower is None else self._follower.take()
        if new is not None:
            self._notes.append(f"goal {new.version} for {new.sentence!r}: {new.goal.to_json()}")
            self._pursuit = Pursuit(new.goal, t_s)
        if self._pursuit is None:
            return None
        before, self._pursuit = self._pursuit, advance(self._pursuit, t_s, readings)
        return self._changed(self._pursuit.goal) if new is not None or self._pursuit.goal is not before.goal else None

    def _changed(self, goal: Goal) -> str | None:
        try:
            wanted = objective(goal)
        except ValueError as error:
            self._pursuit = None
            self._notes.append(str(error))
            return None
        if wanted == self._pursued:
            return None
        self._pursued = wanted
        return wanted

    def notes(self) -> list[str]:
        """Return what there is to tell since the last call, one line each."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def close(self) -> None:
        """Ask no more."""
        if self._follower is not None:
            self._follower.close()
