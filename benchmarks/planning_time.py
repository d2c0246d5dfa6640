"""How long one plan takes, and what it costs: by candidates, horizon, sampling steps, width, threads and precision.

Weights are random: time does not depend on them. Every time stands beside a matrix product and a plain MLP rollout of
the same run, so that the ratios survive another machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, nn
from torch.utils.flop_counter import FlopCounterMode

from agents.learned import LearnedConfig, planner_of
from agents.mpc import look_ahead
from benchmarks.common import Interval, Options, Result, Table, parse, publish, quantiles
from benchmarks.planning_mppi import compare
from configs.models import MODELS
from deploy.machine import durations_s, gemm_gflops, mlp_rollout_ms, torch_threads
from envs.robots import robot_spec
from envs.types import Belief
from planners.cem import Cem
from planners.search import SearchPlanner
from planners.ssr import Ssr
from world_models.checkpoint import WorldModel, build_part, describe
from world_models.fit import DiffusionPart, ModelConfig
from world_models.step import StepModel

Precision = Literal["fp32", "bf16", "bf16 compiled"]
LIMIT_MS = 25.0
DUE = 3
"""Actions that are due before the plan takes effect."""
METHODS = {"ssr": Ssr(), "cem": Cem()}


@dataclass(frozen=True)
class Case:
    """One way to plan. None keeps what the model preset says."""

    preset: str = "walker-small"
    method: str = "ssr"
    n: int = 64
    horizon: int = 32
    steps: tuple[int, int] | None = None  # of proposal and dynamics
    width: int | None = None
    threads: int = 1
    precision: Precision = "bf16"

    def config(self) -> ModelConfig:
        """Return the model's config with this case's changes."""
        cfg = replace(MODELS[self.preset], horizon=self.horizon)
        for index, name in enumerate(("proposal", "dynamics")):
            part = getattr(cfg, name)
            if self.steps:
                part = replace(part, diffusion=replace(part.diffusion, sample_steps=self.steps[index]))
            if self.width:
                wide = {"width": self.width, "qkv": self.width, "mlp": 4 * self.width}
                part = replace(part, denoiser=replace(part.denoiser, **wide))
            cfg = replace(cfg, **{name: part})
        return cfg


def two_parts(cfg: ModelConfig) -> tuple[DiffusionPart, DiffusionPart]:
    """Return proposal and diffusion dynamics, of which this benchmark times the passes."""
    assert cfg.dynamics is not None
    return cfg.proposal, cfg.dynamics


def random_model(cfg: ModelConfig) -> WorldModel:
    """Return the model of a config with random weights, in evaluation mode."""
    torch.manual_seed(0)  # what the layers' initialisers draw from; nothing else here is random
    spec = robot_spec(cfg.robot)
    sizes = {"state": spec.state_size, "action": spec.action.size, "horizon": cfg.horizon}
    parts: dict[str, Any] = {}
    for name in ("proposal", "dynamics"):
        part = getattr(cfg, name)
        parts[name] = build_part(
            {"part": name, "sizes": sizes} | describe(denoiser=part.denoiser, diffusion=part.diffusion)
        )
    parts["step"] = build_part({"part": "step", "sizes": sizes} | describe(step=cfg.step.step))
    parts["value"] = build_part({"part": "value", "sizes": sizes} | describe(value=cfg.value.value))
    parts["policy"] = build_part({"part": "policy", "sizes": sizes} | describe(policy=cfg.policy.policy))
    for part in parts.values():
        part.eval().requires_grad_(False)
    return WorldModel(**parts, card={})


def planner(case: Case, model: WorldModel) -> SearchPlanner:
    """Return the planner that an agent would search such a model with."""
    cfg = LearnedConfig(
        predictor="dynamics",
        horizon=case.horizon,
        samples=case.n,
        method=METHODS[case.method],
        bf16=case.precision != "fp32",
    )
    search = planner_of(cfg, robot_spec(case.config().robot), model, "")
    if case.precision == "bf16 compiled":
        for part in (search.proposal, search.dynamics):
            part.net.compile(dynamic=False)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return search


def one_plan(search: SearchPlanner, step: StepModel) -> Callable[[], object]:
    """Return the call that is timed: a plan as an agent makes it, with a guess, from where the actions already due will lead."""
    spec = robot_spec("walker2d")
    state_BTD = torch.zeros(1, 2, spec.state_size)
    state_BTD[..., spec.columns["height"]] = 1.25
    belief = Belief(state_BTD, torch.zeros(1, 1, spec.action.size))
    guess_BHA = torch.zeros(1, search.horizon, spec.action.size)
    generators = [Generator().manual_seed(0)]
    committed_BKA = np.zeros((1, DUE, spec.action.size))

    def plan() -> object:
        then = look_ahead(step, belief, committed_BKA, generators)
        return search.plan(then, 0.0, guess_BHA, generators=generators)

    return plan


# --- arithmetic


def flop(work: Callable[[], object]) -> float:
    """Return the floating point operations of a call, counted by torch as it runs."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def pass_gflop(net: nn.Module, case: Case, channels: int, cond: int | None) -> float:
    """Return the GFLOP of one pass of one candidate through a denoiser, counted in fp32."""
    spec = robot_spec("walker2d")
    block, state = torch.zeros(1, case.horizon, channels), torch.zeros(1, spec.state_size)
    actions = None if cond is None else torch.zeros(1, case.horizon, cond)
    return flop(lambda: net(block, state, actions, torch.ones(1))) / 1e9


def plan_gflop(case: Case) -> float:
    """Return the GFLOP of one plan: passes x candidates x iterations, and the values at the end of them."""
    cfg, model = case.config(), random_model(case.config())
    assert model.dynamics is not None
    (state, action), (first, second) = model.proposal.sizes, two_parts(cfg)
    proposal = first.diffusion.sample_steps * pass_gflop(model.proposal.net, case, action, None)
    dynamics = second.diffusion.sample_steps * pass_gflop(model.dynamics.net, case, state, action)
    values = flop(lambda: model.value(torch.zeros(case.horizon // LearnedConfig().value_every, state))) / 1e9
    return case.n * (proposal + METHODS[case.method].iterations * (dynamics + values))


# --- measurement


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a plan; `how` says whether they were measured or scaled from fewer passes."""

    p50_ms: float
    p99_ms: float | None
    cpu_ms: float  # processor time per plan, all threads: what other programs on the machine disturb least
    plans: int
    how: str = "measured"


def time_case(case: Case, plans: int) -> Timing:
    """Return the time of one plan over `plans` plans after warm-up; where compiling fails, how it failed."""
    with torch.inference_mode(), torch_threads(case.threads):
        model = random_model(case.config())
        work = one_plan(planner(case, model), model.step)
        try:
            durations_s(work, 1, warmup=5 if plans > 5 else 1)
        except RuntimeError as error:  # torch.compile without a working C++ compiler
            return Timing(float("nan"), None, float("nan"), 0, f"does not run here: {type(error).__name__}")
        began_s = time.process_time()
        taken_ms = 1e3 * durations_s(work, plans, warmup=0)
        cpu_ms = 1e3 * (time.process_time() - began_s) / plans
    p50, p99 = quantiles(taken_ms, 0.5, 0.99)
    return Timing(p50, p99 if plans >= 100 else None, cpu_ms, plans)


def scaled_case(case: Case) -> Timing:
    """Return the time of a plan of many sampling steps, from plans of 1+1, 2+1 and 1+2 steps: it is linear in both."""
    wanted = tuple(part.diffusion.sample_steps for part in two_parts(case.config()))
    base, *more = (time_case(replace(case, steps=steps), 1) for steps in ((1, 1), (2, 1), (1, 2)))

    def extended(field: str) -> float:
        slopes = [getattr(timing, field) - getattr(base, field) for timing in more]
        return getattr(base, field) + sum((n - 1) * slope for n, slope in zip(wanted, slopes, strict=True))

    return Timing(extended("p50_ms"), None, extended("cpu_ms"), 3, "scaled from 1 and 2 steps")


def sweep(quick: bool) -> Iterator[tuple[str, Case]]:
    """Yield the small preset, then one change at a time."""
    base = Case()
    yield "walker-small", base
    yield "fp32", replace(base, precision="fp32")
    yield "2 threads", replace(base, threads=2)
    if quick:
        return
    yield "compiled", replace(base, precision="bf16 compiled")
    yield "fp32, 2 threads", replace(base, precision="fp32", threads=2)
    for n in (16, 32, 128, 256):
        yield f"N = {n}", replace(base, n=n)
    for horizon in (8, 16, 64):
        yield f"F = {horizon}", replace(base, horizon=horizon)
    for steps in ((1, 1), (4, 2), (4, 4)):
        yield f"steps {steps[0]}+{steps[1]}", replace(base, steps=steps)
    for width in (64, 192, 256):
        yield f"width {width}", replace(base, width=width)
    yield f"cem, {METHODS['cem'].iterations} iterations", replace(base, method="cem")


def paper_rows(quick: bool) -> Iterator[tuple[str, Case, Timing]]:
    """Yield the published size: whole plans where that takes seconds, scaled ones elsewhere."""
    paper = Case("walker-paper")
    yield "walker-paper, as published", paper, scaled_case(paper)
    if quick:
        return
    few = replace(paper, steps=(4, 2))
    yield "walker-paper, 4+2 steps", few, time_case(few, 3)
    yield "walker-paper, as published", paper, time_case(paper, 1)
    both = replace(paper, threads=2)
    yield "walker-paper, 2 threads", both, scaled_case(both)
    single = replace(paper, precision="fp32")
    yield "walker-paper, fp32", single, scaled_case(single)


def row(label: str, case: Case, timing: Timing) -> tuple[Any, ...]:
    """Return one line of the table."""
    (first, second), gflop = two_parts(case.config()), plan_gflop(case)
    steps = f"{first.diffusion.sample_steps}+{second.diffusion.sample_steps}"
    shape = (case.n, case.horizon, steps, second.denoiser.width, case.threads, case.precision)
    return (
        label,
        *shape,
        gflop,
        timing.p50_ms,
        timing.p99_ms,
        timing.cpu_ms,
        1e3 * gflop / timing.p50_ms,
        timing.plans,
        timing.how,
    )


COLUMNS = (
    "case",
    "N",
    "F",
    "steps",
    "width",
    "threads",
    "precision",
    "GFLOP",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "GFLOP/s",
    "plans",
    "how",
)


PEER_COLUMNS = (
    "dynamics",
    "candidates",
    "F",
    "ours ms",
    "pytorch_mppi ms",
    "ours / peer",
    "same update within",
    "turns",
)


def peer_rows(quick: bool) -> Iterator[tuple[Any, ...]]:
    """Yield our MPPI beside pytorch_mppi, turn by turn, on the same dynamics, samples and temperature."""
    for task, samples in (("mlp", 256),) if quick else (("mlp", 64), ("mlp", 256), ("mlp", 1024), ("linear", 256)):
        with torch_threads(1):
            found = compare(task, samples, repeats=30 if quick else 200)
        ratio = Interval(found["ratio"], found["ratio_lo"], found["ratio_hi"], found["n"])
        times = (found["ours_ms"], found["peer_ms"])
        yield (task, samples, found["horizon"], *times, ratio, found["agreement"], found["n"])


YARDSTICK_COLUMNS = ("threads", "GEMM fp32 GFLOP/s", "GEMM bf16 GFLOP/s", "MLP rollout ms")


def references() -> tuple[tuple[Any, ...], ...]:
    """Return the yardsticks of this run, per number of threads."""
    rows = []
    for threads in (1, 2):
        with torch_threads(threads):
            rows.append((threads, gemm_gflops("float32"), gemm_gflops("bfloat16"), mlp_rollout_ms()))
    return tuple(rows)


Found = tuple[str, Case, Timing]


def headline(found: Sequence[Found], peers: Sequence[tuple[Any, ...]], yardstick: Sequence[float]) -> dict[str, Any]:
    """Return the figures that the claim rests on; `yardstick` is that of one thread."""
    _, case, small = found[0]
    _, _, gemm, mlp_ms = yardstick
    paper = [timing for _, other, timing in found if other.preset == "walker-paper" and other.steps is None]
    return {
        "small_p50_ms": small.p50_ms,
        "small_p99_ms": small.p99_ms,
        "limit_ms": LIMIT_MS,
        "within_limit": small.p50_ms <= LIMIT_MS,
        "small_over_one_bf16_gemm_of_its_flop": small.p50_ms / (1e3 * plan_gflop(case) / gemm),
        "small_over_mlp_rollout": small.p50_ms / mlp_ms,
        "mppi_ours_over_peer": next(peer[5] for peer in peers if peer[:2] == ("mlp", 256)),
        "paper_plan_s": next((t for t in paper if t.how == "measured"), paper[0]).p50_ms / 1e3,
    }


def measure(quick: bool) -> Result:
    """Return the whole finding; the yardsticks are taken before and after the plans, and the better ones kept."""
    before = references()
    plans = 30 if quick else 200
    found = [(label, case, time_case(case, plans)) for label, case in sweep(quick)] + list(paper_rows(quick))
    peers = tuple(peer_rows(quick))
    yardsticks = tuple(better(a, b) for a, b in zip(before, references(), strict=True))
    return Result(
        "planning_time",
        f"How long a plan takes. The target: walker-small (N = 64, F = 32) in {LIMIT_MS:g} ms on one core with "
        "avx512_bf16; and our MPPI no slower than pytorch_mppi at the same samples.",
        headline(found, peers, yardsticks[0]),
        (
            Table("One plan", COLUMNS, tuple(row(*each) for each in found)),
            Table("MPPI, one update, one thread, fp32", PEER_COLUMNS, peers),
            Table("Yardsticks of the same run", YARDSTICK_COLUMNS, yardsticks),
        ),
        seeds=(0,),
        n=plans,
        notes=(
            "GFLOP is counted from the layers (matrix products), not measured.",
            "CPU ms is processor time over all threads: other programs on the machine disturb it less than p50.",
            "MLP rollout: 256 candidates, 16 steps, two hidden layers of 256, fp32.",
            "walker-paper has the published denoisers; its value is the small ensemble, not the published transformer.",
        ),
    )


def better(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    """Return the faster of two measurements of the yardsticks: what disturbs them only ever slows them down."""
    return (a[0], max(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3]))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and publish."""
    options = parse(Options, __doc__, argv)
    publish(measure(options.quick), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
