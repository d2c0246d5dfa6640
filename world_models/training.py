"""The one training loop: AdamW, warm-up and cosine, clipping, EMA, bf16, held-out curves, exact resume.

Everything random at step i comes from a generator seeded with (seed, i), so a run that was killed and resumed has the same weights
as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from world_models.checkpoint import save_tensors

Loss = Callable[[nn.Module, int, Generator], Tensor]
"""(model, step, generator) -> mean loss of a batch that is drawn with the generator."""


@dataclass(frozen=True)
class TrainConfig:
    """How one part is trained."""

    steps: int = 20_000
    batch: int = 256
    learning_rate: float = 5e-4
    final_rate: float = 1e-5
    warmup: int = 500
    weight_decay: float = 0.01
    clip: float = 5.0
    ema: float = 0.999
    bf16: bool = True
    seed: int = 0
    save_every: int = 500
    evaluate_every: int = 1000
    heldout_share: float = 0.05
    """Share of the episodes kept for the held-out curve; episodes, never windows of the same episode."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps and batch must be >= 1, got {self.steps} and {self.batch}")
        if not 0.0 < self.heldout_share < 1.0:
            raise ValueError(f"heldout_share must be between 0 and 1, got {self.heldout_share}")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine down to `final_rate`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_rate + 0.5 * (self.learning_rate - self.final_rate) * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Progress:
    """One report of a running training."""

    step: int
    steps: int
    loss: float
    heldout: float | None
    seconds: float


def seeded(seed: int, step: int, stream: int = 0) -> Generator:
    """Return the generator of one step; streams keep training and evaluation apart."""
    return Generator().manual_seed((seed * 1_000_003 + stream) * 1_000_000_007 + step)


class Run:
    """Weights, moving average and moments of one training, saved to and resumed from `folder`."""

    def __init__(self, model: nn.Module, cfg: TrainConfig, folder: Path) -> None:
        self.model, self.cfg, self.folder = model, cfg, folder
        self.params = dict(model.named_parameters())
        self.ema = {name: p.detach().clone() for name, p in self.params.items()}
        self.optimiser = torch.optim.AdamW(self.params.values(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
        self.step, self.average = 0, float("nan")
        self.curve: list[list[float]] = []  # step, mean training loss, held-out loss
        if (folder / "state.json").exists():
            self.load()

    def load(self) -> None:
        """Continue from what `save` wrote; refuses a state that was made with another config."""
        meta = json.loads((self.folder / "state.json").read_text())
        if meta["config"] != repr(self.cfg):
            raise ValueError(f"{self.folder} was trained with {meta['config']}, not {self.cfg!r}: use another folder")
        saved = load_file(self.folder / meta["tensors"])
        for index, (name, param) in enumerate(self.params.items()):
            param.data.copy_(saved[f"param.{name}"])
            self.ema[name] = saved[f"ema.{name}"]
            self.optimiser.state[param] = {
                "step": torch.tensor(float(meta["step"])),
                "exp_avg": saved[f"first.{index}"],
                "exp_avg_sq": saved[f"second.{index}"],
            }
        self.step, self.average, self.curve = meta["step"], meta["average"], meta["curve"]

    def save(self) -> None:
        """Write the whole state; the JSON, renamed into place last, names the tensors it belongs to."""
        tensors = {f"param.{n}": p.detach() for n, p in self.params.items()} | {
            f"ema.{n}": e for n, e in self.ema.items()
        }
        for index, param in enumerate(self.params.values()):
            tensors[f"first.{index}"] = self.optimiser.state[param]["exp_avg"]
            tensors[f"second.{index}"] = self.optimiser.state[param]["exp_avg_sq"]
        name = f"state-{self.step % (2 * self.cfg.save_every)}.safetensors"
        save_tensors(self.folder / name, tensors)
        meta = {
            "config": repr(self.cfg),
            "step": self.step,
            "average": self.average,
            "curve": self.curve,
            "tensors": name,
        }
        temporary = self.folder / "state.json.tmp"
        temporary.write_text(json.dumps(meta))
        temporary.rename(self.folder / "state.json")

    def update(self, loss: Loss) -> float:
        """Make one step of gradient descent and return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.cfg.rate(self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cfg.bf16):
            value = loss(self.model, self.step, seeded(self.cfg.seed, self.step))
        value.backward()
        nn.utils.clip_grad_norm_(list(self.params.values()), self.cfg.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        decay = min(self.cfg.ema, (1 + self.step) / (10 + self.step))
        for name, param in self.params.items():
            self.ema[name].lerp_(param.detach(), 1 - decay)
        self.step += 1
        return float(value.detach())

    def use_ema(self) -> nn.Module:
        """Return the model with its averaged weights (in place: the end of training)."""
        for name, param in self.params.items():
            param.data.copy_(self.ema[name])
        return self.model

    @torch.no_grad()
    def heldout(self, loss: Loss) -> float:
        """Return the loss of the averaged weights on a fixed set of held-out batches."""
        kept = {name: p.detach().clone() for name, p in self.params.items()}
        self.use_ema()
        values = [float(loss(self.model, i, seeded(self.cfg.seed, i, stream=1))) for i in range(8)]
        for name, param in self.params.items():
            param.data.copy_(kept[name])
        return sum(values) / len(values)


def train(run: Run, train_loss: Loss, heldout_loss: Loss) -> Iterator[Progress]:
    """Yield progress until `cfg.steps` are done; the caller may stop between any two, and resume later from the folder.

    Raises FloatingPointError, after saving nothing, when the loss is not finite.
    """
    cfg, start = run.cfg, time.monotonic()
    run.folder.mkdir(parents=True, exist_ok=True)
    while run.step < cfg.steps:
        value = run.update(train_loss)
        if not math.isfinite(value):
            raise FloatingPointError(f"loss {value} at step {run.step}: lower learning_rate ({cfg.learning_rate})")
        run.average = value if math.isnan(run.average) else 0.98 * run.average + 0.02 * value
        held = None
        if run.step % cfg.evaluate_every == 0 or run.step == cfg.steps:
            held = run.heldout(heldout_loss)
            run.curve.append([run.step, run.average, held])
        if run.step % cfg.save_every == 0 or run.step == cfg.steps:
            run.save()
        yield Progress(run.step, cfg.steps, run.average, held, time.monotonic() - start)
