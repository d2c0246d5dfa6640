"""Train the judge of unknown words (deploy/goal_service/judge.py) on the sentences of strangers, a minute or two on one core.

How good it is, is told from sentences of people whose others it has not seen: `python -m deploy.goal_service.train_judge`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tyro

from agents.commands import read as read_sentence
from deploy.goal_service.engine import EngineConfig, build_engine
from deploy.goal_service.examples.cases import STRANGERS, read, same
from deploy.goal_service.judge import PATH, Judge, features, write
from deploy.goal_service.sentences import may_judge


@dataclass(frozen=True)
class JudgeConfig:
    """How it is trained."""

    model: str = ""
    """GGUF file or folder; empty for the packaged one."""
    depth: int = 20
    decay: float = 0.1
    """Times the square of the weights, per sentence."""
    harm: float = 0.1
    """Share of the sentences whose words matter that may be accepted, where they were not trained on."""
    folds: int = 10
    out: Path = PATH


def rows_of(cfg: JudgeConfig) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the model's name, features (N, width) of the sentences to judge, and whether their words mean nothing (N,)."""
    engine = build_engine(EngineConfig(model=cfg.model, rows=1, threads=1))
    found, harmless = [], []
    for case in read(STRANGERS):
        reading = read_sentence(case.sentence, case.robot, case.current)
        if reading.goal is None and reading.guess is not None and may_judge(reading.heard):
            found.append(features(engine, case.sentence, reading.heard.unread, cfg.depth, 60.0).numpy())
            harmless.append(same(reading.guess, case.goal))
            if len(found) % 50 == 0:
                print(f"{len(found)} sentences", file=sys.stderr)
    name = engine.name
    engine.close()
    return name, np.stack(found), np.array(harmless)


def fit(x_NW: np.ndarray, y_N: np.ndarray, decay: float) -> tuple[np.ndarray, float]:
    """Return weights (W,) and bias of a logistic regression; the decay is of weights for features of unit deviation."""
    mean_W, deviation_W = x_NW.mean(0), x_NW.std(0) + 1e-6
    x, y = torch.from_numpy((x_NW - mean_W) / deviation_W).double(), torch.from_numpy(y_N).double()
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        odds = x @ w[:-1] + w[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, y) + decay * (w[:-1] ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore
    weights = w.detach().numpy()
    flat = weights[:-1] / deviation_W
    return flat, float(weights[-1] - flat @ mean_W)


def held_out(x_NW: np.ndarray, y_N: np.ndarray, cfg: JudgeConfig) -> np.ndarray:
    """Return the log-odds (N,) of each sentence by one who has not seen it, nor its neighbours: people write in runs."""
    odds_N = np.empty(len(y_N))
    for first, last in pairwise(np.linspace(0, len(y_N), cfg.folds + 1).astype(int)):
        out = np.zeros(len(y_N), dtype=bool)
        out[first:last] = True
        weights, bias = fit(x_NW[~out], y_N[~out], cfg.decay)
        odds_N[out] = x_NW[out] @ weights + bias
    return odds_N


def told(odds_N: np.ndarray, y_N: np.ndarray, least: float) -> str:
    """Return how good it is, in a line."""
    ranks = odds_N.argsort().argsort() + 1
    yes, no = y_N.sum(), (~y_N).sum()
    auc = (ranks[y_N].sum() - yes * (yes + 1) / 2) / (yes * no)
    taken = odds_N >= least
    return f"AUC {auc:.3f}; accepts {taken[y_N].sum()} of {yes} harmless and {taken[~y_N].sum()} of {no} others"


def main(args: Sequence[str] | None = None) -> int:
    """Train and write it."""
    cfg = tyro.cli(JudgeConfig, args=args, description=__doc__)
    torch.set_num_threads(1)
    name, x_NW, y_N = rows_of(cfg)
    odds_N = held_out(x_NW, y_N, cfg)
    least = float(np.quantile(odds_N[~y_N], 1 - cfg.harm))
    weights, bias = fit(x_NW, y_N, cfg.decay)
    write(Judge(name, cfg.depth, torch.from_numpy(weights), bias, least), cfg.out)
    print(f"{told(odds_N, y_N, least)}; wrote {cfg.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
