"""What is a state worth with the body as it is now? The answer is found inside the one-step model, where falls cost nothing.

Policy evaluation by TD(lambda) on imagined stretches (Sutton and Barto, chapter 12; as in Dreamer, Hafner et al. 2020): from
states that the robot was in, a policy is followed in the adapted one-step model, with its predicted noise. A few episodes of
play are enough for the model, but not for a value that is fitted to their returns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from world_models.policy import Policy
from world_models.step import StepModel
from world_models.value import ValueEnsemble

Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(states (N, O), actions that led there (N, A)) -> reward (N,) and whether the robot still stands (N,), 1.0 or 0.0."""


@dataclass(frozen=True)
class ImagineConfig:
    """How a value is learned in imagination."""

    iterations: int = 150
    starts: int = 256
    """Imagined stretches per iteration, each of `horizon` steps."""
    horizon: int = 16
    updates: int = 4
    """Gradient steps per iteration."""
    lam: float = 0.95
    learning_rate: float = 1e-3
    target_rate: float = 0.02
    """Share of the new weights that the bootstrapping copy takes at each update."""
    action_noise: float = 0.06
    """Standard deviation of smooth noise on the policy's actions, in its units."""
    correlation: float = 0.8
    """Of that noise, over neighbouring control steps."""


@dataclass(frozen=True)
class Imagined:
    """Stretches side by side: states (H + 1, N, O), rewards (H, N), and whether the robot stands after each step (H, N)."""

    states: Tensor
    reward: Tensor
    alive: Tensor


@torch.no_grad()
def imagine(
    step: StepModel,
    policy: Policy,
    starts: tuple[Tensor, Tensor],
    judge: Judge,
    cfg: ImagineConfig,
    generator: Generator,
) -> Imagined:
    """Return what follows from `starts`, states (N, 2, O) and the actions between them (N, 1, A)."""
    before, now = starts[0].unbind(1)
    past, known = starts[1][:, 0], torch.ones_like(now[:, :1])
    noise = torch.zeros_like(past)
    states, rewards, alive = [now], [], []
    for _ in range(cfg.horizon):
        fresh = cfg.action_noise * torch.randn(noise.shape, generator=generator)
        noise = cfg.correlation * noise + (1 - cfg.correlation**2) ** 0.5 * fresh
        action = (policy(now) + noise).clamp(-1.0, 1.0)
        mean, log = step.predict(now, action, before, past, known)
        drawn = mean + log.exp() * torch.randn(mean.shape, generator=generator)
        before, past = now, action
        now = (now + step.change.inverse(drawn)).clamp(step.low, step.high)
        earned, stands = judge(now, action)
        states.append(now)
        rewards.append(earned)
        alive.append(stands)
    return Imagined(torch.stack(states), torch.stack(rewards), torch.stack(alive))


def lambda_returns(seen: Imagined, bootstrap_HN: Tensor, discount: float, fall_penalty: float, lam: float) -> Tensor:
    """Return the TD(lambda) return of each state but the last, (H, N); `bootstrap_HN` is the value after each step."""
    found, after = [], bootstrap_HN[-1]
    for h in range(len(seen.reward) - 1, -1, -1):
        after = bootstrap_HN[h] if h == len(seen.reward) - 1 else (1 - lam) * bootstrap_HN[h] + lam * after
        after = seen.reward[h] - (1 - seen.alive[h]) * fall_penalty + discount * seen.alive[h] * after
        found.append(after)
    return torch.stack(found[::-1])


def evaluate_policy(
    value: ValueEnsemble,
    step: StepModel,
    policy: Policy,
    starts: tuple[Tensor, Tensor],
    judge: Judge,
    cfg: ImagineConfig,
    seed: int,
) -> ValueEnsemble:
    """Return a copy of `value` that has learned what the policy earns in the one-step model from near the `starts`."""
    made, target = copy.deepcopy(value).float().train().requires_grad_(True), copy.deepcopy(value).float()
    optimiser = torch.optim.Adam(made.parameters(), lr=cfg.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, cfg.iterations)
    generator = Generator().manual_seed(seed)
    for _ in range(cfg.iterations):
        pick = torch.randint(0, len(starts[0]), (cfg.starts,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            seen = imagine(step, policy, (starts[0][pick], starts[1][pick]), judge, cfg, generator)
        stood = torch.cat([torch.ones_like(seen.alive[:1]), seen.alive[:-1].cumprod(0)]) > 0.5
        with torch.no_grad():
            bootstrap = target.returns.inverse(target.members(seen.states[1:].flatten(0, 1)).mean(0)[:, None])
            returns = lambda_returns(
                seen, bootstrap.view_as(seen.reward), value.cfg.discount, value.cfg.fall_penalty, cfg.lam
            )
        states_NO, returns_N = seen.states[:-1][stood], returns[stood]
        for _ in range(cfg.updates):
            rows = torch.randint(0, len(states_NO), (len(states_NO) // 2,), generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                loss = made.loss(states_NO[rows], returns_N[rows], generator).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(made.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                for kept, new in zip(target.parameters(), made.parameters(), strict=True):
                    kept.lerp_(new, cfg.target_rate)
        schedule.step()
    return made.eval().requires_grad_(False)
