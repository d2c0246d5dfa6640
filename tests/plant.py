"""A plant that keeps every command it gets, and the judgement whether these were legal: the oracle of fault injection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np

from configs.limits import LIMITS
from configs.presets import PRESETS
from deploy.arms import build, mind_of, open_session
from deploy.config import RunConfig
from deploy.interrupt import Interrupts
from deploy.loop import Outcome
from deploy.orders import QUIT, Orders
from deploy.robots.sim import SimRobot
from deploy.safety import RobotLimits
from deploy.session import Session, self_armed
from deploy.telemetry import Log
from planners.types import ActionPlan

FAULT_S, HEAL_S, END_S = 0.5, 3.0, 4.5
"""A fault lasts from FAULT_S to HEAL_S; then a person arms the robot again; at END_S the person leaves [s]."""
TOLERANCE = 1e-3
"""Environments get float32."""


class Witness(gymnasium.Wrapper):
    """Keeps what `env.step` gets, by episode, behind everything that may still change it."""

    def __init__(self, env: gymnasium.Env, each_step: Callable[[int], object] = lambda _: None) -> None:
        super().__init__(env)
        self.episodes: list[tuple[np.ndarray | None, list[np.ndarray]]] = []
        """What is in force before the first command, if the environment says, and the commands."""
        self.each_step = each_step

    def reset(self, **kwargs: Any) -> Any:
        state, info = self.env.reset(**kwargs)
        self.episodes.append((info.get("hold"), []))
        return state, info

    def step(self, action: Any) -> Any:
        self.episodes[-1][1].append(np.array(action))
        self.each_step(self.count)
        return self.env.step(action)

    @property
    def count(self) -> int:
        return sum(len(rows) for _, rows in self.episodes)

    @property
    def commands(self) -> np.ndarray:
        """All of them, (N, A)."""
        return np.array([row for _, rows in self.episodes for row in rows], dtype=np.float64)

    def violations(self, limits: RobotLimits, dt_s: float) -> list[str]:
        found = []
        for start_A, rows in self.episodes:
            found += illegal(rows, limits.hold_A if start_A is None else start_A, limits, dt_s)
        return found


def illegal(rows: Sequence[np.ndarray], start_A: np.ndarray, limits: RobotLimits, dt_s: float) -> list[str]:
    """Return what is wrong with commands that follow `start_A` at rest, each (A,): one line per command."""
    found, last_A, rate_A = [], np.asarray(start_A, np.float64), np.zeros(len(start_A))
    accel_A = np.full(len(start_A), np.inf) if limits.max_accel is None else np.array(limits.max_accel)
    for n, row in enumerate(rows):
        if row.shape != last_A.shape or not np.isfinite(row).all():
            found.append(f"command {n} is {row}")
            continue
        new_A = row.astype(np.float64)
        now_A = (new_A - last_A) / dt_s
        broken = {
            "position": (new_A < np.array(limits.low) - TOLERANCE) | (new_A > np.array(limits.high) + TOLERANCE),
            "rate": np.abs(now_A) * dt_s > np.array(limits.max_rate) * dt_s + TOLERANCE,
            "acceleration": np.abs(now_A - rate_A) * dt_s > accel_A * dt_s**2 + TOLERANCE,
        }
        found += [f"command {n} breaks {name}: {new_A} after {last_A}" for name, of in broken.items() if of.any()]
        last_A, rate_A = new_A, now_A
    return found


CART = replace(
    PRESETS["smoke"][1],
    faults=(),
    adapt=False,
    control_arm=False,
    limits=RobotLimits(low=(-10.0,), high=(10.0,), max_rate=(40.0,), hold=(0.0,), max_accel=(300.0,)),
)
"""A point mass that is pushed: it holds without force. The planner is the real one."""
ARM = replace(
    CART, preset="arm", robot="so101", limits=replace(LIMITS["so101"], max_accel=(30.0,) * 6), plan_latency_s=1 / 30
)
"""An arm that is told angles: it holds by keeping the last ones. The planner waves."""
BODIES = {"cart": CART, "arm": ARM}


class Waving:
    """An agent that waves joints around `home_A` by `swing_A`, from wherever the clock is."""

    def __init__(self, home_A: np.ndarray, dt_s: float, swing_A: np.ndarray | float = 0.3, rows: int = 10) -> None:
        self._home_A, self._dt_s, self._swing_A, self._rows = home_A, dt_s, swing_A, rows

    def plan(self, observation, committed_KA, /):
        t0_s = observation.t_s + len(committed_KA) * self._dt_s
        phase_H1 = 3.0 * (t0_s + self._dt_s * np.arange(self._rows))[:, None]
        return ActionPlan(self._home_A + self._swing_A * np.sin(phase_H1), self._dt_s, t0_s, observed_s=observation.t_s)

    def begin_episode(self, episode, seed, /): ...

    def observe(self, before, action_A, after, reward, /):
        return ()

    def end_episode(self, terminated, whole, /):
        return ()

    def take_job(self):
        return None


class Altered:
    """Another object, some of whose methods are replaced."""

    def __init__(self, base: Any, **methods: Any) -> None:
        self._base, self._methods = base, methods

    def __getattr__(self, name: str) -> Any:
        return self._methods[name] if name in self._methods else getattr(self._base, name)


@dataclass
class Stage:
    """A robot with its witness, its agent and whoever may arm it; what is altered on the way between them is the fault."""

    cfg: RunConfig
    witness: Witness = field(init=False)
    orders: Orders = field(default_factory=Orders)
    plan: Callable[[ActionPlan, float], ActionPlan] = lambda plan, t_s: plan
    """What becomes of a plan made at t_s."""
    read: Callable[[Outcome, float], Outcome] = lambda outcome, t_s: outcome
    """What becomes of a reading at t_s."""
    wants: Callable[[float, np.ndarray], np.ndarray | None] = lambda t_s, last_A: None
    """What a person asks for."""
    end_s: float = END_S

    def __post_init__(self) -> None:
        parts = build(self.cfg, planner=self.cfg.robot == CART.robot)
        self.dt_s = parts.robot.dt_s
        self.witness = Witness(parts.robot.env)
        limits = self.cfg.limits
        self.plain = SimRobot(self.witness, self.dt_s, limits, round(END_S / self.dt_s) + 1)
        agent = parts.agent or Waving(limits.hold_A, self.dt_s)
        self.parts = replace(
            parts,
            robot=Altered(self.plain, read=self._read),  # pyright: ignore[reportArgumentType]
            agent=Altered(agent, plan=lambda seen, due_KA: self.plan(agent.plan(seen, due_KA), seen.t_s)),  # pyright: ignore
        )

    def _read(self, t_s: float) -> Outcome:
        for when_s, words in ((HEAL_S, ("arm", "start")), (self.end_s, (QUIT,))):
            if abs(t_s - when_s) < 0.6 * self.dt_s and t_s >= when_s - 1e-9:
                for word in words:
                    self.orders.give(word)
        return self.read(self.plain.read(t_s), t_s)

    def open(self, folder: Any, stop: Interrupts | None = None, **more: Any) -> Session:
        log = Log(folder, (stop or Interrupts()).shield)
        more = {"orders": self.orders, "operator": self, "guard": self_armed(self.cfg.guard), **more}
        return Session(self.cfg, self.parts.robot, mind_of(self.cfg, self.parts, folder), log, None, **more)

    def play(self, folder: Any, episodes: int = 1, **more: Any) -> Session:
        session = self.open(folder, **more)
        session.run(lambda episode: episode < episodes)
        session.log.close()
        return session

    def violations(self) -> list[str]:
        return self.witness.violations(self.cfg.limits, self.dt_s)


class Blows:
    """Things done once, each with the first reading from its time [s] on; readings stay as they are."""

    def __init__(self, *blows: tuple[float, Callable[[], object]]) -> None:
        self._due = list(blows)

    def __call__(self, outcome: Outcome, t_s: float) -> Outcome:
        while self._due and t_s >= self._due[0][0] - 1e-9:
            self._due.pop(0)[1]()
        return outcome


def stage_of(cfg: RunConfig, folder: Any, stop: Interrupts | None = None, **more: Any) -> tuple[Session, Witness]:
    """Return a session as a run has it, and the witness of its plant."""
    parts = build(cfg)
    witness = Witness(parts.robot.env)
    robot = SimRobot(witness, parts.robot.dt_s, cfg.limits, cfg.episode_steps)
    return open_session(cfg, replace(parts, robot=robot), folder, stop or Interrupts(), **more), witness


def think_badly(how: str, cfg: RunConfig, *rest: Any) -> None:
    """Be a planner's process that plans well until FAULT_S, and then raises or returns what is not finite."""
    from agents.mpc import MpcAgent
    from deploy.realtime.thinker import think

    plan = MpcAgent.plan

    def broken(self, observation, committed_KA, /):
        made = plan(self, observation, committed_KA)
        if observation.t_s < FAULT_S - 1e-9:
            return made
        if how == "raises":
            raise ZeroDivisionError("the planner is broken")
        return with_actions(made, np.full_like(made.actions_HA, np.nan))

    MpcAgent.plan = broken
    think(cfg, *rest)


def with_actions(plan: ActionPlan, actions: np.ndarray) -> ActionPlan:
    """Return the plan with actions that its constructor would have refused: as if memory had been overwritten."""
    broken = replace(plan)
    object.__setattr__(broken, "actions_HA", actions)
    return broken
