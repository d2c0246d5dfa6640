"""After a surprise: what was seen since then refits the dynamics of a latent model, on a copy, behind a gate.

Encoder and projector stay as they are, and with them what a goal, a distance or an old latent means. First one gain per axis of the
actions is fitted (a thing that is moved less than it is told to needs no more), then predictor and its projector by a few gradient
steps. The later part of what was seen is held out: what does not foresee it better is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from agents.types import AdaptationReport, AgentEvent, ModelSwap

if TYPE_CHECKING:
    from world_models.jepa import Jepa


@dataclass(frozen=True)
class LatentAdaptConfig:
    """When to adapt, and how far."""

    enabled: bool = True
    every: int = 25
    """Control steps seen between two attempts."""
    rounds: int = 6
    """Attempts after one alarm."""
    kept: int = 400
    """Control steps that are remembered, at most."""
    heldout_share: float = 0.3
    """The last part of what was seen, which decides."""
    gain_steps: int = 80
    gain_rate: float = 0.03
    steps: int = 60
    rate: float = 2e-4
    batch: int = 64
    margin: float = 0.02
    """Least share by which the held-out error must fall."""

    def __post_init__(self) -> None:
        if not 0.0 < self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must be in (0, 1), got {self.heldout_share}")
        if min(self.every, self.rounds, self.kept, self.batch) < 1 or min(self.gain_steps, self.steps) < 0:
            raise ValueError("every, rounds, kept and batch must be >= 1, gain_steps and steps >= 0")


Track = tuple[Tensor, np.ndarray]
"""Latents (T + 1, D) of consecutive control steps, and the actions between them (T, A)."""


@dataclass(frozen=True)
class Windows:
    """What was known, what was done, and what came: context (N, history, D), blocks (N, history, block * A), next latent (N, D)."""

    z_NTD: Tensor
    blocks_NTX: Tensor
    next_ND: Tensor

    def __len__(self) -> int:
        return len(self.next_ND)

    def take(self, rows: Tensor | slice) -> Windows:
        """Return some rows."""
        return Windows(self.z_NTD[rows], self.blocks_NTX[rows], self.next_ND[rows])

    @staticmethod
    def of(tracks: Sequence[Track], block: int, history: int) -> Windows | None:
        """Return all windows with a whole history, in order of time; None where there is none."""
        z, blocks, after = [], [], []
        for z_TD, action_TA in tracks:
            for end in range(block * history, len(z_TD)):
                z.append(z_TD[end - block * history : end : block])
                blocks.append(action_TA[end - block * history : end].reshape(history, -1))
                after.append(z_TD[end])
        if not z:
            return None
        return Windows(torch.stack(z), torch.from_numpy(np.array(blocks, np.float32)), torch.stack(after))


def error(model: Jepa, windows: Windows) -> Tensor:
    """Return the mean squared error about the next latents."""
    return (model.predict(windows.z_NTD, windows.blocks_NTX)[:, -1] - windows.next_ND).square().mean()


@dataclass(frozen=True)
class LatentCandidate:
    """A model that might be used, and how it and the present one foresee what was held out."""

    model: Jepa
    part: str
    before: float
    after: float
    seen: int
    gain_A: tuple[float, ...]


@dataclass(frozen=True)
class LatentJob:
    """A fit that waits to be done, anywhere, on a copy: call it."""

    model: Jepa
    tracks: tuple[Track, ...]
    cfg: LatentAdaptConfig
    seed: int

    def __call__(self) -> list[LatentCandidate]:
        """Return the model with other gains, and that with another predictor too, if what is held out can tell.

        Windows overlap: where there are too few to leave a gap, what is held out shares frames with what was learned from. Two
        gains cannot learn these by heart, a predictor can.
        """
        windows = Windows.of(self.tracks, self.model.cfg.block, self.model.cfg.history)
        if windows is None:
            return []
        learned = max(1, round(len(windows) * (1 - self.cfg.heldout_share)))
        apart = self.model.cfg.block * self.model.cfg.history
        known, unseen = windows.take(slice(0, learned)), windows.take(slice(learned + apart, None))
        apart_enough = len(unseen) > 0
        if not apart_enough:
            unseen = windows.take(slice(learned, None))
        if not len(unseen):
            return []
        with torch.no_grad():
            before = float(error(self.model, unseen))
        made, found = copy.deepcopy(self.model), []
        gain_A = fit_gain(made, known, self.cfg)
        for part in ("gain", "predictor") if apart_enough else ("gain",):
            if part == "predictor":
                fit_predictor(made, known, self.cfg, self.seed)
            with torch.no_grad():
                after = float(error(made, unseen))
            found.append(LatentCandidate(copy.deepcopy(made), part, before, after, len(windows), gain_A))
        return found


def fit_gain(model: Jepa, known: Windows, cfg: LatentAdaptConfig) -> tuple[float, ...]:
    """Find by what factor each axis of the actions acts, and build it into the model's statistics; return the factors."""
    size = len(model.action.mean)
    log_gain_A = torch.zeros(size, requires_grad=True)
    optimiser = torch.optim.Adam([log_gain_A], cfg.gain_rate)
    model.eval().requires_grad_(False)
    for _ in range(cfg.gain_steps):
        gain_X = log_gain_A.exp().repeat(model.cfg.block)
        optimiser.zero_grad()
        error(model, Windows(known.z_NTD, known.blocks_NTX * gain_X, known.next_ND)).backward()
        optimiser.step()
    gain_A = log_gain_A.detach().exp()
    # (g x - mean) / std = (x - mean / g) / (std / g)
    model.action.mean.div_(gain_A)
    model.action.std.div_(gain_A)
    return tuple(gain_A.tolist())


def fit_predictor(model: Jepa, known: Windows, cfg: LatentAdaptConfig, seed: int) -> None:
    """Take a few gradient steps of predictor and its projector, in place; batch norms keep their statistics."""
    parts = [*model.predictor.parameters(), *model.pred_projector.parameters()]
    optimiser, generator = torch.optim.AdamW(parts, cfg.rate, weight_decay=0.0), Generator().manual_seed(seed)
    model.eval()
    for part in parts:
        part.requires_grad_(True)
    for _ in range(cfg.steps):
        rows = torch.randint(len(known), (min(cfg.batch, len(known)),), generator=generator)
        optimiser.zero_grad()
        error(model, known.take(rows)).backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimiser.step()
    model.requires_grad_(False)


class LatentLearner:
    """Remembers what was seen since an alarm, asks for fits, and says what to use."""

    def __init__(self, cfg: LatentAdaptConfig, seed: int = 0) -> None:
        self.cfg, self._seed = cfg, seed
        self.active, self._busy, self._round, self._fresh = False, False, 0, 0
        self._tracks: list[tuple[list[Tensor], list[np.ndarray]]] = []

    def alarm(self) -> None:
        """Begin anew: what was seen before is of another world."""
        if self.cfg.enabled:
            self.active, self._round, self._fresh, self._tracks = True, 0, 0, []

    def begin_episode(self) -> None:
        """What comes is not the sequel of what was."""
        if self._tracks and self._tracks[-1][0]:
            self._tracks.append(([], []))

    def see(self, before_D: Tensor, action_A: np.ndarray, after_D: Tensor) -> None:
        """Take in a control step."""
        if not self.active:
            return
        if not self._tracks or not self._tracks[-1][0]:
            self._tracks = [*(t for t in self._tracks if t[0]), ([before_D], [])]
        self._tracks[-1][0].append(after_D)
        self._tracks[-1][1].append(action_A)
        self._fresh += 1
        while sum(len(actions) for _, actions in self._tracks) > self.cfg.kept and len(self._tracks) > 1:
            self._tracks.pop(0)

    def take_job(self, model: Jepa) -> LatentJob | None:
        """Return a fit where enough was seen since the last."""
        if not self.active or self._busy or self._fresh < self.cfg.every:
            return None
        whole = tuple((torch.stack(z), np.array(actions, np.float32)) for z, actions in self._tracks if actions)
        if Windows.of(whole, model.cfg.block, model.cfg.history) is None:
            return None
        self._busy, self._fresh, self._round = True, 0, self._round + 1
        return LatentJob(model, whole, self.cfg, self._seed + self._round)

    def receive(self, made: Sequence[LatentCandidate], t_s: float) -> tuple[Jepa | None, list[AgentEvent]]:
        """Return the model to use from now on, None for the present one, and what to report."""
        self._busy = False
        self.active = self._round < self.cfg.rounds
        best = min(made, key=lambda candidate: candidate.after, default=None)
        events: list[AgentEvent] = []
        chosen = None
        for candidate in made:
            good = candidate is best and candidate.after < candidate.before * (1 - self.cfg.margin)
            chosen = candidate.model if good else chosen
            gains = ", ".join(f"{gain:.2f}" for gain in candidate.gain_A)
            change = 100 * (candidate.after / max(candidate.before, 1e-12) - 1)
            reason = f"held-out error {change:+.1f} %, actions act by {gains}: {'accepted' if good else 'refused'}"
            events.append(
                AdaptationReport(
                    t_s, candidate.part, good, candidate.before, candidate.after, candidate.seen, 1, reason
                )
            )
        if chosen is not None:
            events.append(ModelSwap(t_s, f"world-{self._round}", "accepted"))
        return chosen, events
