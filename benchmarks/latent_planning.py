"""How long a plan in latents takes: ours, that of stable-worldmodel's solver with the same weights, and a grid of patches as latents.

The published model and budget: 300 candidates, 30 iterations, 5 blocks. Weights are random, the same on both sides; every problem is
to come from one latent to what a random plan leads to. Plans of both are scored by the same exact model. All take their turns at each
problem, so that whatever else the machine does troubles them alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from agents.latent_search import Distance as LastDistance
from agents.latent_search import LatentDynamics, blocks_of, toward
from benchmarks.common import Options, Result, Table, command, mean_interval
from deploy.machine import ROOT, torch_threads
from envs.robots import robot_spec
from envs.types import Belief
from planners.cem import Cem
from planners.search import SearchPlanner
from world_models.jepa import Jepa, JepaConfig, quick
from world_models.normaliser import Normaliser

PEER = ROOT / ".venv-peers" / "bin" / "python"
SCRIPT = ROOT / "benchmarks" / "peers" / "plan_stable_worldmodel.py"
SAMPLES, ITERATIONS, ELITES, HORIZON = 300, 30, 30, 5
TOKENS, WIDTH = 196, 384
"""Of DINO-WM's latents, one frame."""
EARLY, SETTLED = "ours in bf16, ended when its elites are alike", 0.1
TIMED = 2
"""Candidates that its predictor is timed with; its time grows with their number."""


@dataclass(frozen=True)
class PlanningOptions(Options):
    """What this benchmark can be told."""

    problems: int = 5
    threads: int = 1


def model_of(cfg: JepaConfig, seed: int) -> Jepa:
    """Return a model with random weights, in which actions matter."""
    torch.manual_seed(seed)
    model = Jepa(cfg, Normaliser(torch.zeros(cfg.action), torch.ones(cfg.action))).eval().requires_grad_(False)
    for layer in model.predictor.layers:
        nn.init.normal_(layer.modulate.weight, std=0.1)  # pyright: ignore
    return model


def problems(model: Jepa, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return latents to start from and to come to, (N, D) each."""
    generator = Generator().manual_seed(seed)
    here_ND = torch.randn(count, model.cfg.latent, generator=generator)
    rows = torch.rand(count, HORIZON, model.cfg.block * model.cfg.action, generator=generator) * 2 - 1
    with torch.inference_mode():
        return here_ND, model.rollout(here_ND[:, None], rows[:, :0], rows)[:, -1].clone()


def cost(model: Jepa, here_D: Tensor, goal_D: Tensor, plan_HX: Tensor) -> float:
    """Return the squared distance from the goal that a plan ends at, by the exact model."""
    rows = plan_HX[None]
    with torch.inference_mode():
        return float((model.rollout(here_D[None, None], rows[:, :0], rows)[0, -1] - goal_D).square().sum())


def ours(
    model: Jepa, searched: Jepa, here_D: Tensor, goal_D: Tensor, seed: int, settled: float = 0.0
) -> tuple[float, float]:
    """Return milliseconds and cost of our plan; a search may end early, when it has `settled` to such a share of its first width."""
    spec = robot_spec("pusht")
    planner = SearchPlanner(
        method=Cem(elites=ELITES, iterations=ITERATIONS, kernel=1.0, correlation=0.0, trust=float("inf")),
        dynamics=LatentDynamics(searched, torch.zeros(1, 0)),
        readout=toward(goal_D[None]),
        objective=LastDistance(),
        action=blocks_of(spec.action, model.cfg.block),
        dt_s=0.5,
        horizon=HORIZON,
        samples=SAMPLES,
        init_std=1.0,
        correlation=0.0,
        settled=settled,
    )
    belief = Belief(here_D[None, None], torch.zeros(1, 0, model.cfg.block * model.cfg.action))
    began = time.perf_counter()
    found = planner.search(belief, None, [Generator().manual_seed(seed)])
    return 1e3 * (time.perf_counter() - began), cost(model, here_D, goal_D, found.actions_BHA[0])


def theirs(model: Jepa, here_D: Tensor, goal_D: Tensor, threads: int) -> tuple[float, float]:
    """Return milliseconds and cost of the peer's plan."""
    cfg = model.cfg
    names = ("latent", "history", "layers", "heads", "head", "mlp", "hidden", "block", "action")
    with tempfile.TemporaryDirectory(prefix="surefoot-") as made:
        folder = Path(made)
        weights = {n: t for n, t in model.state_dict().items() if n.startswith(("predictor", "pred_projector"))}
        save_file({n: t.contiguous() for n, t in weights.items()}, folder / "weights.safetensors")
        asked = {"sizes": {n: getattr(cfg, n) for n in names}, "samples": SAMPLES, "iterations": ITERATIONS}
        asked |= {"elites": ELITES, "horizon": HORIZON, "threads": threads}
        asked |= {"here": [here_D.tolist()], "goal": [goal_D.tolist()]}
        (folder / "problem.json").write_text(json.dumps(asked))
        run = subprocess.run([PEER, SCRIPT, folder], capture_output=True, text=True, check=True)
    said = json.loads(run.stdout.splitlines()[-1])
    plan_HX = torch.tensor(said["plans"][0])
    same = cost(model, here_D, goal_D, plan_HX)
    if not np.isclose(same, said["costs"][0], rtol=1e-2):
        raise ValueError(f"the peer's model is not ours: its plan costs {said['costs'][0]}, by ours {same}")
    return said["ms"][0], cost(model, here_D, goal_D, plan_HX.clamp(-1, 1))


def patches_ms(threads: int) -> float:
    """Return milliseconds of a plan whose latents are 196 patches of 384 (DINO-WM's predictor, random weights), timing alone.

    Its window grows to three frames; a plan is so many passes, each timed with few candidates and scaled to all.
    """
    layer = nn.TransformerEncoderLayer(WIDTH + 20, 4, 2048, activation="gelu", batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    total_s = 0.0
    with torch.inference_mode(), torch_threads(threads):
        for frames in (1, 2, 3, 3, 3):
            tokens = torch.randn(TIMED, frames * TOKENS, WIDTH + 20)
            net(tokens)
            began = time.perf_counter()
            net(tokens)
            total_s += time.perf_counter() - began
    return 1e3 * total_s * ITERATIONS * SAMPLES / TIMED


def row(name: str, times: Sequence[float], costs: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Return one line of the table; a cost that is not finite is none."""
    return {
        "plans by": name,
        "median ms": float(np.median(times)),
        "times as long as ours": mean_interval(np.divide(times, base).tolist()),
        "cost it ends at": mean_interval(costs) if np.isfinite(costs).all() else None,
        "n": len(times),
    }


def measure(options: PlanningOptions) -> Result:
    """Return the table."""
    cfg = JepaConfig()
    model = model_of(cfg, options.seed)
    fast = quick(model)
    here_ND, goal_ND = problems(model, 2 if options.quick else options.problems, options.seed)
    arms: dict[str, Callable[[Tensor, Tensor, int], tuple[float, float]]] = {
        "surefoot, bf16": partial(ours, model, fast),
        "surefoot, float32": partial(ours, model, model),
        EARLY: partial(ours, model, fast, settled=SETTLED),
        "196 patches of 384, timing alone": lambda *_: (patches_ms(options.threads), float("nan")),
    }
    notes = () if PEER.exists() else ("stable-worldmodel is not installed here: `make bench-peers`",)
    if PEER.exists():
        arms["stable-worldmodel 0.1.1"] = lambda here, goal, _: theirs(model, here, goal, options.threads)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    with torch_threads(options.threads):
        for index, problem in enumerate(zip(here_ND, goal_ND, strict=True)):
            for name, arm in arms.items():
                found[name].append(arm(*problem, index))
            print(f"{index + 1} of {len(here_ND)} problems", file=sys.stderr)
    times = {name: [ms for ms, _ in some] for name, some in found.items()}
    base = min((some for name, some in times.items() if name.startswith("surefoot")), key=np.median)
    rows = [row(name, times[name], [cost for _, cost in some], base) for name, some in found.items()]
    table = Table(
        "one plan: 300 candidates, 30 iterations, 5 blocks", tuple(rows[0]), tuple(tuple(r.values()) for r in rows)
    )
    figures = {f"{r['plans by']}, times as long": r["times as long as ours"] for r in rows}
    claim = "At an equal budget and with the same weights a plan takes less time than the reference solver's."
    return Result(
        "latent_planning", claim, figures, (table,), (options.seed,), len(here_ND), notes, results={"plans": rows}
    )


main = command(PlanningOptions, __doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
