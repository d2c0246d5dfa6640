"""After an alarm: fit a copy of a part of the model to what the robot just lived through, and say how much better it is there.

Nothing here writes into weights that are being read: every fit works on a deep copy and returns a candidate with its held-out score
beside the old one's. Scores are proper: the ranked probability score for the one-step model, the energy score over the horizon for the
diffusion dynamics (squared error alone prefers blur), squared error of the action for the policy and of the return for the value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from agents.imagination import ImagineConfig, Judge, evaluate_policy
from world_models.body import Body
from world_models.dynamics import DiffusionDynamics
from world_models.policy import Policy, distance
from world_models.step import StepModel
from world_models.value import ValueEnsemble, unfinished

Part = Literal["dynamics", "step", "policy", "value"]


@dataclass(frozen=True)
class FitConfig:
    """How one part is fitted online."""

    steps: int = 300
    batch: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    rank: int = 0
    """0 fits all weights; r > 0 adds a rank-r update to every matrix and fits only that (Hu et al. 2022)."""
    replay_share: float = 0.25
    """Share of old data in each batch, against forgetting."""
    members: int = 1
    """So many fits with other random numbers, whose weights are averaged (Wortsman et al. 2022)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.replay_share < 1.0:
            raise ValueError(f"replay_share must be in 0 .. 1 (exclusive), got {self.replay_share}")
        if self.rank < 0 or self.steps < 1 or self.members < 1:
            raise ValueError(
                f"need rank >= 0, steps >= 1 and members >= 1, got {self.rank}, {self.steps} and {self.members}"
            )


@dataclass(frozen=True)
class Play:
    """A stretch of experience with the body as it is now: states (T + 1, O), actions sent (T, A), rewards (T,)."""

    state_TO: np.ndarray
    action_TA: np.ndarray
    reward_T: np.ndarray
    terminated: bool


@dataclass(frozen=True)
class Candidate:
    """A fitted copy of one part, with the held-out score of the old weights and of the new ones; lower is better."""

    part: Part
    model: nn.Module
    before: float
    after: float
    better_share: float  # share of held-out episodes on which the candidate is better
    play_steps: int
    play_episodes: int
    certified: str = ""
    """What holds of it beyond the held-out play, in words; "" where nothing does."""


class LowRank(nn.Module):
    """W + B A with B = 0 at the start."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted matrix."""
        return weight + self.b @ self.a


def trainable_copy(model: nn.Module, rank: int, seed: int) -> nn.Module:
    """Return a float32 copy whose weights, or low-rank updates to them, take gradients."""
    made = copy.deepcopy(model).float().train()
    made.requires_grad_(rank == 0)
    if rank:
        torch.manual_seed(seed)
        for layer in [m for m in made.modules() if isinstance(m, nn.Linear)]:
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
        for name, param in made.named_parameters():
            param.requires_grad_(name.endswith((".a", ".b")))
    return made


def merge(model: nn.Module) -> nn.Module:
    """Return the model with low-rank updates folded into its matrices, in evaluation mode."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model.eval().requires_grad_(False)


Fit = Callable[[nn.Module, Generator], Tensor]
"""(model, generator) -> mean loss of a batch that is drawn with the generator."""


def fit(model: nn.Module, loss: Fit, cfg: FitConfig, seed: int) -> nn.Module:
    """Return a fitted copy: the average of `cfg.members` fits."""
    made = [fit_one(model, loss, cfg, seed * cfg.members + member) for member in range(cfg.members)]
    states = [one.state_dict() for one in made]
    mean = {
        name: torch.stack([s[name] for s in states]).mean(0) if t.is_floating_point() else t
        for name, t in states[0].items()
    }
    made[0].load_state_dict(mean)
    return made[0]


def fit_one(model: nn.Module, loss: Fit, cfg: FitConfig, seed: int) -> nn.Module:
    """Return a fitted copy; the rate falls to zero along a cosine."""
    made = trainable_copy(model, cfg.rank, seed)
    params = [p for p in made.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, cfg.steps)
    for step in range(cfg.steps):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(made, Generator().manual_seed(seed * 1_000_003 + step))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        schedule.step()
    return merge(made)


def split(play: Sequence[Play]) -> tuple[list[Play], list[Play]]:
    """Return (to fit on, held out): every third episode, counted from the most recent, is held out."""
    held = {i for i in range(len(play)) if (len(play) - 1 - i) % 3 == 0}
    return [p for i, p in enumerate(play) if i not in held], [p for i, p in enumerate(play) if i in held]


class Motion(Protocol):
    """States (T + 1, O) and the actions between them (T, A)."""

    @property
    def state_TO(self) -> np.ndarray:
        """States."""
        ...

    @property
    def action_TA(self) -> np.ndarray:
        """Actions."""
        ...


def windows(play: Sequence[Motion], horizon: int) -> tuple[Tensor, Tensor]:
    """Return all stretches of `horizon` steps, states (N, H + 1, O) and actions (N, H, A)."""
    states, actions = [], []
    for p in play:
        starts = np.arange(len(p.action_TA) - horizon + 1)[:, None]
        if len(starts):
            states.append(p.state_TO[starts + np.arange(horizon + 1)])
            actions.append(p.action_TA[starts + np.arange(horizon)])
    if not states:
        raise ValueError(f"no stretch of {horizon} steps in {len(play)} episodes of play")
    return tuple(torch.from_numpy(np.concatenate(x).astype(np.float32)) for x in (states, actions))  # pyright: ignore


def energy_scores(dynamics: DiffusionDynamics, play: Sequence[Play], samples: int = 4, every: int = 4) -> np.ndarray:
    """Return the energy score of each episode, E|X - y| - E|X - X'| / 2 (Gneiting & Raftery 2007), lower is better.

    Norms are over the lag-normalised columns, averaged over lags; windows start at every `every`-th step.
    """
    scores = []
    for p in play:
        states, actions = windows([p], dynamics.horizon)
        states, actions = states[::every], actions[::every]
        b, h, o = len(states), dynamics.horizon, states.shape[-1]
        noise = torch.randn(1, samples, h, o, generator=Generator().manual_seed(7)).expand(b, -1, -1, -1)
        x_BSHO = dynamics.denoise_block(states[:, 0], actions[:, None].expand(-1, samples, -1, -1), noise)
        x_BSHO = (x_BSHO - states[:, None, :1]) / dynamics.change.std
        y_B1HO = (states[:, None, 1:] - states[:, None, :1]) / dynamics.change.std
        near = (x_BSHO - y_B1HO).norm(dim=-1).mean()
        pairs = (x_BSHO[:, :, None] - x_BSHO[:, None]).norm(dim=-1).sum((1, 2)).mean() / (samples * (samples - 1))
        scores.append(float(near - pairs / 2))
    return np.array(scores)


def candidate(
    part: Part, old: nn.Module, new: nn.Module, score: Callable[[nn.Module], np.ndarray], play: Sequence[Play]
) -> Candidate:
    """Return the comparison of two sets of weights by a per-episode score."""
    before, after = score(old), score(new)
    steps = sum(len(p.action_TA) for p in play)
    share = float((after < before).mean())
    return Candidate(part, new, float(before.mean()), float(after.mean()), share, steps, len(play))


Replay = tuple[Tensor, Tensor]
"""Old windows: states (N, H + 1, O) and actions (N, H, A)."""


def draw(fresh: Replay, replay: Replay, cfg: FitConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return a batch of windows, `replay_share` of them old."""
    old = int(cfg.batch * cfg.replay_share)
    new_N = torch.randint(0, len(fresh[0]), (cfg.batch - old,), generator=generator)
    old_N = torch.randint(0, len(replay[0]), (old,), generator=generator)
    return torch.cat([fresh[0][new_N], replay[0][old_N]]), torch.cat([fresh[1][new_N], replay[1][old_N]])


def adapt_dynamics(
    model: DiffusionDynamics, play: Sequence[Play], replay: Replay, cfg: FitConfig, seed: int
) -> Candidate:
    """Return dynamics fitted to the play."""
    fit_on, held = split([p for p in play if len(p.action_TA) >= model.horizon])
    fresh = windows(fit_on, model.horizon)

    def loss(made: nn.Module, generator: Generator) -> Tensor:
        states, actions = draw(fresh, replay, cfg, generator)
        return made.loss(states[:, 0], actions, states[:, 1:], generator).mean()  # pyright: ignore

    made = fit(model, loss, cfg, seed)
    return candidate("dynamics", model, made, lambda m: energy_scores(m, held), play)  # pyright: ignore


def adapt_step(
    model: StepModel,
    play: Sequence[Play],
    replay: Replay,
    cfg: FitConfig,
    body_cfg: FitConfig,
    seed: int,
    recent: int = 0,
) -> Candidate:
    """Return a one-step model fitted to the play: first its body, then the rest of it, which is shown what that body did.

    So old data, of another body, contradict nothing. It is certified on what is held out of the last `recent` episodes, which one model
    made, without their first, whose steps an alarm may have chosen.
    """
    from world_models.certificate import said_of_steps  # here, as scipy takes a second to load

    fit_on, held = split([p for p in play if len(p.action_TA) >= 2])
    late = {id(p) for p in play[len(play) - recent + 1 :]} if recent else set()
    fresh, old = windows(fit_on, 2), cut(replay, 2)
    body = fit_body(model, fresh, body_cfg, seed).body
    fresh = fresh[0], body(fresh[1])
    bare = copy.deepcopy(model)
    bare.body = Body(fresh[1].shape[-1])

    def loss(made: nn.Module, generator: Generator) -> Tensor:
        return made.loss(*draw(fresh, old, cfg, generator), generator).mean()  # pyright: ignore

    def score(made: nn.Module) -> np.ndarray:
        assert isinstance(made, StepModel)
        return np.array([float(made.crps(*windows([p], 2)).mean()) for p in held])

    made = fit(bare, loss, cfg, seed)
    made.body = body
    assert isinstance(made, StepModel)
    said = said_of_steps(made, [(p.state_TO, p.action_TA) for p in held if id(p) in late])
    return replace(candidate("step", model, made, score, play), certified=said)


REACH = 0.8
"""A limit that nothing has shown yet is looked for from this share of the range of the commands on."""


def fit_body(model: StepModel, fresh: Replay, cfg: FitConfig, seed: int) -> StepModel:
    """Return a copy whose body explains the windows `fresh` best; all else is as it was."""
    made, actions_NA = copy.deepcopy(model).float(), fresh[1].flatten(0, 1)
    middle_A = (actions_NA.amax(0) + actions_NA.amin(0)) / 2
    reach_A = REACH * (actions_NA.amax(0) - actions_NA.amin(0)) / 2
    gain_A, offset_A, low_A, high_A = made.body.numbers.unbind(0)
    within = torch.maximum(low_A, middle_A - reach_A), torch.minimum(high_A, middle_A + reach_A)
    made.body.numbers = torch.stack([gain_A, offset_A, *within]).requires_grad_()
    optimiser = torch.optim.Adam([made.body.numbers], lr=cfg.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, cfg.steps)
    for step in range(cfg.steps):
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(0, len(fresh[0]), (cfg.batch,), generator=generator)
        value = made.loss(fresh[0][rows], fresh[1][rows], generator).mean()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        schedule.step()
    made.body.numbers = made.body.numbers.detach()
    return made


def cut(replay: Replay, horizon: int) -> Replay:
    """Return the windows cut into shorter ones that do not overlap in their actions."""
    states, actions = (x.numpy() for x in replay)
    starts = np.arange(0, actions.shape[1] - horizon + 1, horizon)[:, None]
    pieces = states[:, starts + np.arange(horizon + 1)], actions[:, starts + np.arange(horizon)]
    return tuple(torch.from_numpy(p.reshape(-1, *p.shape[2:])) for p in pieces)  # pyright: ignore


def returns_to_go(p: Play, discount: float, fall_penalty: float) -> np.ndarray:
    """Return the discounted reward from each step to the end of the play, (T,)."""
    total, out = (-fall_penalty if p.terminated else 0.0), np.zeros(len(p.reward_T))
    for t in range(len(out) - 1, -1, -1):
        total = p.reward_T[t] + discount * total if t < len(out) - 1 else p.reward_T[t] + total
        out[t] = total
    return out


def value_rows(p: Play, model: ValueEnsemble) -> tuple[Tensor, Tensor]:
    """Return states and returns of one episode; without a fall the last steps, whose future was not seen, are left out."""
    returns = returns_to_go(p, model.cfg.discount, model.cfg.fall_penalty)
    keep = len(returns) if p.terminated else max(0, len(returns) - unfinished(model.cfg.discount))
    return torch.from_numpy(p.state_TO[:keep].astype(np.float32)), torch.from_numpy(returns[:keep]).float()


def adapt_policy(model: Policy, play: Sequence[Play], replay: Replay, cfg: FitConfig, seed: int) -> Candidate:
    """Return a policy that does what the planner did during the play, and what it used to do elsewhere."""
    fit_on, held = split(play)
    elsewhere = replay[0][:, :-1].flatten(0, 1)
    with torch.no_grad():
        fresh, old = played(fit_on), (elsewhere, model(elsewhere))

    def loss(made: nn.Module, generator: Generator) -> Tensor:
        return made.loss(*draw(fresh, old, cfg, generator)).mean()  # pyright: ignore

    def score(made: nn.Module) -> np.ndarray:
        assert isinstance(made, Policy)
        return np.array([distance(made, *played([p])) for p in held])

    return candidate("policy", model, fit(model, loss, cfg, seed), score, play)


def played(play: Sequence[Play]) -> tuple[Tensor, Tensor]:
    """Return the states (N, O) and what was done there (N, A)."""
    return tuple(
        torch.from_numpy(np.concatenate(x).astype(np.float32))
        for x in ([p.state_TO[:-1] for p in play], [p.action_TA for p in play])
    )  # pyright: ignore


def adapt_value(
    model: ValueEnsemble,
    step: StepModel,
    policy: Policy,
    play: Sequence[Play],
    recent: int,
    judge: Judge,
    cfg: ImagineConfig,
    seed: int,
) -> Candidate:
    """Return the value of the policy in the one-step model, imagined from where the play was.

    It is scored on what was really achieved in the last `recent` episodes of play: before them the robot behaved otherwise.

    Fitted to the returns of ten or twenty episodes instead, the value made the planner worse as often as better.
    """
    fit_on, held = split([p for p in play if len(p.action_TA) >= 2])
    states, actions = windows(fit_on, 1)
    made = evaluate_policy(model, step, policy, (states, actions), judge, cfg, seed)
    late = {id(p) for p in play[-recent:]}
    rows = [found for found in (value_rows(p, model) for p in held if id(p) in late) if len(found[0])]

    @torch.inference_mode()
    def score(made: nn.Module) -> np.ndarray:
        assert isinstance(made, ValueEnsemble)
        return np.array(
            [float((made.members(s).mean(0) - made.returns(r[:, None])[:, 0]).square().mean()) for s, r in rows]
        )

    return candidate("value", model, made, score, play)
