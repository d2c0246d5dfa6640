"""Several predictors on one encoder: where they disagree, the model does not know what comes next."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_models.jepa import Jepa, JepaConfig, Predictor, projector


@dataclass(frozen=True)
class LatentEnsembleConfig:
    """How many there are beside the model's own."""

    members: int = 2

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"an ensemble needs at least one more member, got {self.members}")


class LatentEnsemble(nn.Module):
    """Further predictors with their projectors, each of the size of the model's own."""

    def __init__(self, cfg: LatentEnsembleConfig, of: JepaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.predictors = nn.ModuleList(Predictor(of) for _ in range(cfg.members))
        self.projectors = nn.ModuleList(projector(of.latent, of.hidden, of.latent) for _ in range(cfg.members))

    def models(self, model: Jepa) -> list[Jepa]:
        """Return the model and, sharing its encoder, one model for each further member."""
        others = []
        for predictor, its in zip(self.predictors, self.projectors, strict=True):
            other = copy.copy(model)
            other._modules = {**model._modules, "predictor": predictor, "pred_projector": its}
            others.append(other)
        return [model, *others]

    def loss(self, model: Jepa, z_BTD: Tensor, actions_BTA: Tensor) -> Tensor:
        """Return the mean error of prediction over the further members, of windows of latents and the blocks between them."""
        guesses = [other.predict(z_BTD[:, :-1], actions_BTA) for other in self.models(model)[1:]]
        return torch.stack([(guess - z_BTD[:, 1:]).square().mean() for guess in guesses]).mean()


def disagreement(futures: list[Tensor]) -> Tensor:
    """Return the spread (...) of what each member foresees (..., D): root mean square over the latent of the standard deviation."""
    return torch.stack(futures).var(0, correction=0).mean(-1).sqrt()
