"""What `surefoot sweep` can be asked for by name."""

from __future__ import annotations

from deploy.sweeps.spec import Asha, Draw, SweepSpec

SWEEPS: dict[str, tuple[str, SweepSpec]] = {
    "linear": (
        "a point mass: how far to look ahead, with how many samples (minutes; no checkpoint needed)",
        SweepSpec(
            verb="evaluate",
            preset="linear-cem",
            metric="mean",
            options={"episodes": 10, "plan-latency": 0.1, "videos": 0},
            grid={"agent.horizon": (5, 10, 20), "agent.samples": (16, 64)},
            seeds=(0, 1),
            time_out_s=600.0,
        ),
    ),
    "walker-latency": (
        "what the walker's return depends on: time charged to a plan, and how often one is made (an hour on two cores)",
        SweepSpec(
            verb="evaluate",
            preset="walker",
            metric="mean",
            options={"episodes": 20, "videos": 0},
            grid={"plan-latency": (0.0, 0.032, 0.064), "plan-every": (2, 4, 8)},
        ),
    ),
    "walker-step-decay": (
        "weight decay and learning rate of the walker's one-step model; what falls behind is stopped (hours)",
        SweepSpec(
            verb="train",
            preset="walker-small",
            metric="step.metrics.error",
            direction="min",
            options={"parts": ("step",), "threads": 1},
            random={
                "step.train.weight-decay": Draw("log-uniform", (0.01, 3.0)),
                "step.train.learning-rate": Draw("log-uniform", (1e-4, 3e-3)),
            },
            draws=27,
            asha=Asha(first=4000, factor=3),
        ),
    ),
}
