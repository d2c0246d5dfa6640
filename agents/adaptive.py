"""Doubt, and what follows from it: watch the prediction error, and on an alarm collect, fit a copy, judge it, swap, judge again.

watch --alarm--> collect --enough play--> (job runs) --gate--> trial --enough new play--> next round
  ^                 | ^                                         | |
  |                 | +------------- worse return: rolled back -+ |
  +-----------------+---- a body that is known is back -----------+
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from agents import surprise
from agents.adaptation import Candidate, Play, Replay
from agents.goal_numbers import step_for, with_goal_step
from agents.imagination import Judge
from agents.jobs import AdaptConfig, Job, accepts, motion_only, suited
from agents.memory import ORIGINAL, Memory
from agents.monitor import WINDOW, step_error
from agents.mpc import MpcAgent
from agents.surprise import Calibration, SurpriseConfig
from agents.types import AdaptationReport, AgentEvent, GoalChange, ModelSwap
from envs.types import Observation
from planners.search import SearchPlanner
from planners.types import ActionPlan
from planners.warm import Planner, WarmStart
from world_models.checkpoint import WorldModel
from world_models.step import StepModel

KEPT = 100
"""Episodes of play that are remembered."""

TASK = ("", "run")
"""Objectives that are the task's own, on which surprise was calibrated."""

Stage = Literal["watch", "collect", "fit", "trial"]


@dataclass
class AdaptiveAgent:
    """An MpcAgent that watches its own predictions. `planner_for(model, objective)` composes the planner."""

    model: WorldModel
    planner_for: Callable[[WorldModel, str], SearchPlanner]
    judge: Judge
    """What the task pays for a step, and whether the robot still stands."""
    calibration: Calibration
    replay: Replay
    surprise_cfg: SurpriseConfig = field(default_factory=SurpriseConfig)
    warm: bool = False
    cfg: AdaptConfig = field(default_factory=AdaptConfig)
    seed: int = 0
    objective: str = ""
    healthy: float | None = None
    """Mean return when it was calibrated."""

    def __post_init__(self) -> None:
        self.original = self.model
        planner = self.planner_for(self.model, self.objective)
        self.action = planner.action
        self._foresees: dict[int, tuple[StepModel, StepModel]] = {}
        self.step, self.told = self.step_of(self.model), False
        self.mpc = MpcAgent(self.face(planner), self.step, planner.dt_s, planner.action.size)
        started = surprise.start(self.calibration, self.surprise_cfg)
        self.state = started if self.objective in TASK else surprise.rescale(started)
        self.stage: Stage = "watch"
        self.round = 0
        self.play: list[Play] = []
        self.fresh = 0  # episodes of play since the last round
        self.trial = self.cfg.trial()
        self.memory = Memory({ORIGINAL: self.original}, self.cfg.recall)
        self.using = ORIGINAL  # the name by which the memory has the model in use
        self.body, self.bodies = "", 0  # the one that is, or was last, adapted to, and how many there were
        self.now_s = 0.0
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._record_from = 0
        self._whole = True

    # --- planning -------------------------------------------------------------------------------------------------

    def begin_episode(self, episode: int, seed: int, /) -> None:
        """Forget what belongs to the last episode."""
        self.mpc.begin_episode(episode, seed)
        self.state = surprise.begin_episode(self.state)
        self._states, self._actions, self._rewards = [], [], []
        self._record_from, self._whole = 0, True

    def face(self, planner: SearchPlanner) -> Planner:
        """Return the planner, behind its warm start if so configured."""
        return WarmStart(planner) if self.warm else planner

    def plan(self, observation: Observation, committed_KA: np.ndarray, /) -> ActionPlan:
        """Return a plan made with the model in use."""
        return self.mpc.plan(observation, committed_KA)

    def leave(self) -> None:
        """Note how the model in use is left: how wrong it is on its body, and whether it still has to be judged."""
        if self.memory.models.get(self.using) is not self.model:
            return
        if self.objective in TASK and not self.state.provisional:
            self.memory.scales[self.using] = self.state.shift, self.state.stretch
        if self.stage == "trial" and self.trial.sound is not None:
            self.memory.trials[self.using] = self.trial

    def use(self, model: WorldModel, name: str, reason: str) -> ModelSwap:
        """Swap to a model of the memory between two plans; what is not known of its residuals is estimated anew."""
        self.leave()
        self.model = model
        self.using = next(known for known, kept in self.memory.models.items() if kept is model)
        self.memory.restart()
        self.refresh()
        return ModelSwap(self.now_s, name, reason)

    def pursue(self, objective: str, t_s: float, /) -> Sequence[AgentEvent]:
        """Pursue another objective from the next plan on; what surprises is estimated anew, for other motion errs otherwise.

        Raises ValueError, in one line, for one that is not legal here.
        """
        if objective == self.objective or {objective, self.objective} <= {*TASK}:
            return (GoalChange(t_s, objective),)
        self.leave()
        before, self.objective = self.objective, objective
        try:
            self.refresh()
        except ValueError:
            self.objective = before
            raise
        if (before in TASK) != (objective in TASK):  # and other parts are to be learned
            self.play, self.fresh, self._record_from = [], 0, len(self._actions)
            self.round = min(self.round, 1) if self.stage == "fit" else 0
        return (GoalChange(t_s, objective),)

    def refresh(self) -> None:
        """Plan with the model and for the objective in use; the scale of surprise is provisional unless it is known for both."""
        planner = self.planner_for(self.model, self.objective)
        self._foresees = {}
        self.step = self.step_of(self.model)
        self.mpc.use(self.face(planner), self.step)
        scale = self.memory.scales.get(self.using) if self.objective in TASK else None
        self.state = surprise.rescale(self.state) if scale is None else surprise.restore(self.state, *scale)
        self._whole = self._whole and not self._actions

    def step_of(self, model: WorldModel) -> StepModel:
        """Return a model's one-step model for the objective in use; the same object every time."""
        own = model.step
        if id(own) not in self._foresees:
            self._foresees[id(own)] = own, step_for(model, self.objective)
        return self._foresees[id(own)][1]

    # --- watching -------------------------------------------------------------------------------------------------

    def observe(
        self, before: Observation, action_A: np.ndarray, after: Observation, reward: float, /
    ) -> Sequence[AgentEvent]:
        """Record the step and update surprise."""
        self.now_s = after.t_s
        if not self._states:
            self._states.append(before.state_O)
        self._states.append(after.state_O)
        self._actions.append(action_A)
        self._rewards.append(reward)
        self.mpc.observe(before, action_A, after, reward)
        if len(self._actions) < WINDOW:
            return ()
        window = np.stack(self._states[-WINDOW - 1 :]), np.stack(self._actions[-WINDOW:])
        error = step_error(self.step, *window)
        self.state, reading = surprise.read(self.state, after.t_s, error, self.calibration, self.surprise_cfg)
        known = self.memory.update(self.memory.gains(self.step, *window, self.step_of))
        if known is not None and self.cfg.enabled and self.stage != "fit":
            return [reading, self.recall(known)]
        if reading.alarm and self.stage in ("collect", "fit"):
            reading = replace(reading, alarm=False)  # it is known, and being seen to
        if reading.alarm:
            self.on_alarm()
        return [reading]

    def on_alarm(self) -> None:
        """Start to collect, from the prediction that raised the alarm on."""
        if self.cfg.enabled:
            self.leave()
            self.trial = self.cfg.trial()  # what was earned before was earned with another body
            self.stage, self.round, self.fresh = "collect", 0, 0
            self.bodies += 1
            self.body = f"body-{self.bodies}"
            self.play = []
            self._record_from, self._whole = max(0, len(self._actions) - WINDOW), False

    def recall(self, name: str) -> ModelSwap:
        """Use a remembered model from now on; what was being learned is over. A model that was not judged yet is on trial again.

        What is back may be only the nearest of the bodies that are known: where its model errs more than it did, surprise says so.
        """
        whose = "the old body" if name == ORIGINAL else "a known body"
        swap = self.use(self.memory.models[name], name, f"{whose} is back")
        self.stage, self.play, self.fresh = "watch", [], 0
        if (trial := self.memory.trials.pop(name, None)) is not None:
            self.stage, self.trial, self.body, self.round = "trial", trial, name, self.cfg.rounds
        return swap

    # --- learning -------------------------------------------------------------------------------------------------

    def end_episode(self, terminated: bool, whole: bool, /) -> Sequence[AgentEvent]:
        """Keep the episode as play, and judge a model on trial by what a `whole` episode earned."""
        first = self._record_from
        if self.stage == "watch" or len(self._actions) <= first:
            return ()
        self.play.append(
            Play(
                np.stack(self._states[first:]),
                np.stack(self._actions[first:]),
                np.array(self._rewards[first:]),
                terminated,
            )
        )
        self.play, self.fresh = self.play[-KEPT:], self.fresh + 1
        if whole and self._whole and self.objective in TASK:
            self.trial.earn(float(sum(self._rewards)))
        return self.judge_returns() if self.stage == "trial" else ()

    def judge_returns(self) -> Sequence[AgentEvent]:
        """Roll back to the model before the swap if what the robot achieves with the new one is worse; then learn on."""
        if self.objective not in TASK or not self.trial.failed:  # these are the task's rewards
            return ()
        earned = f"return {np.mean(self.trial.since):.0f} after {np.mean(self.trial.before):.0f}"
        sound = self.trial.back()
        self.memory.drop(self.body)
        if sound is not self.original:
            self.memory.keep(self.body, sound)
        swap = self.use(sound, "previous", f"rolled back: {earned}")
        self.stage, self.fresh = self.next_stage, 0
        return [swap]

    @property
    def next_stage(self) -> Stage:
        """Whether a round is left."""
        return "collect" if self.round < self.cfg.rounds else "watch"

    def take_job(self) -> Job | None:
        """Return a fit when there is enough new play, a round is left, and the model in use has been judged."""
        fresh_steps = sum(len(p.action_TA) for p in self.play[-self.fresh :]) if self.fresh >= 4 else 0
        enough = self.fresh >= self.cfg.play_episodes or fresh_steps >= self.cfg.play_steps
        ready = self.stage in ("collect", "trial") and enough and not (self.trial.pending and self.objective in TASK)
        least = self.replay[1].shape[1] if "dynamics" in self.cfg.parts else WINDOW
        usable = sum(len(p.action_TA) >= least for p in self.play) >= 3
        if not (self.cfg.enabled and ready and usable and self.round < self.cfg.rounds):
            return None
        recent = min(self.fresh, len(self.play))
        self.stage, self.fresh, self.round = "fit", 0, self.round + 1
        if self.objective not in TASK:
            cfg = motion_only(self.cfg)
        else:
            untouched = self.model.value is self.original.value
            cfg = suited(self.cfg, self.trial.earned, self.healthy) if untouched else self.cfg
        self.told = self.step is not self.model.step  # a goal: what it is foreseen with is fitted
        model = replace(self.model, step=self.step)
        return Job(model, tuple(self.play), recent, self.replay, self.judge, cfg, self.seed + self.round)

    def receive(self, result: list[Candidate], t_s: float, /) -> Sequence[AgentEvent]:
        """Swap in the parts that are better on held-out play; keep the others.

        The first time all are refused unless the one-step model is better: what raised the alarm is then over, and the body is the old
        one (a push, say), on which any other part could only be tuned.
        """
        self.now_s = t_s
        step = next((made for made in result if made.part == "step"), None)
        same_body = self.model is self.original and step is not None and not accepts(step, self.cfg.new_body_margin)
        events: list[AgentEvent] = []
        chosen: dict[str, object] = {}
        for made in result:
            good = accepts(made, self.cfg.margin)
            if good and not same_body:
                told = self.told and made.part == "step"
                chosen |= with_goal_step(self.model, made.model) if told else {made.part: made.model}  # pyright: ignore
            events.append(self.report(made, good, same_body))
        if chosen:
            used, swapped = self.model, replace(self.model, **chosen)  # pyright: ignore
            self.memory.keep(self.body, swapped)
            events.append(self.use(swapped, f"{self.body}.{self.round}", "accepted"))
            self.trial.put(used)
        self.stage = "trial" if self.model is not self.original else self.next_stage
        return events

    def report(self, made: Candidate, good: bool, same_body: bool) -> AdaptationReport:
        """Return what is said about a candidate."""
        change = 100 * (made.after / made.before - 1)
        accepted = good and not same_body
        verdict = "accepted" if accepted else "refused"
        if accepted and made.part == "value":
            verdict += ", on trial: what it is worth shows in what the robot earns"
        if good and same_body:
            verdict += ": the one-step model gains nothing, so the body is the old one"
        reason = f"held-out score {change:+.1f} %, better on {made.better_share:.0%} of held-out episodes: {verdict}"
        if isinstance(made.model, StepModel):
            spec = self.action
            found = made.model.body.explain(spec.names, spec.low_A.tolist(), spec.high_A.tolist())
            reason += "".join(f"; {said}" for said in (found, made.certified) if said)
        return AdaptationReport(
            self.now_s, made.part, accepted, made.before, made.after, made.play_steps, made.play_episodes, reason
        )
