"""LeWorldModel: a world model in latents, learned from pixels and actions alone (Maes et al. 2026).

    z_t = projector(encoder(frame_t))        z^_(t+1) = projector'(predictor(z_(<= t), actions_(<= t)))
    loss = mean (z^_(t+1) - z_(t+1))^2 + weight * SIGReg(z)

No gradient is stopped, nothing is averaged over time, nothing is reconstructed. A latent step is `block` control steps; the actions
of a block are one condition. The predictor is a causal transformer over the last `history` latents, modulated by the actions
(adaLN-zero, Peebles & Xie 2023).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.shapes import check
from world_models.normaliser import Normaliser
from world_models.sigreg import sigreg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MEAN_RGB, STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as the reference."""
EPS = 1e-6
"""Of the layer norms that are modulated."""


@dataclass(frozen=True)
class VitConfig:
    """A vision transformer; the default is ViT-tiny with patches of 14 pixels."""

    patch: int = 14
    width: int = 192
    layers: int = 12
    heads: int = 3
    mlp: int = 768


@dataclass(frozen=True)
class ConvConfig:
    """Convolutions of stride 2, each followed by a residual one, then a linear layer to `width`."""

    stages: tuple[int, ...] = (32, 64, 128, 256)
    width: int = 256


@dataclass(frozen=True)
class JepaConfig:
    """Sizes; the default is the published model."""

    image: int = 224
    """Side of a picture [pixels]."""
    action: int = 2
    block: int = 5
    """Control steps from one latent to the next."""
    encoder: VitConfig | ConvConfig = field(default_factory=VitConfig)
    latent: int = 192
    hidden: int = 2048
    """Width inside both projectors."""
    history: int = 3
    layers: int = 6
    heads: int = 16
    head: int = 64
    """Width of one head of attention."""
    mlp: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        side = self.encoder.patch if isinstance(self.encoder, VitConfig) else 2 ** len(self.encoder.stages)
        if self.image % side:
            raise ValueError(f"image={self.image} must be a multiple of {side} pixels")

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> JepaConfig:
        """Return the config that `asdict` wrote, perhaps through JSON."""
        encoder = card["encoder"]
        if "patch" in encoder:
            return cls(**{**card, "encoder": VitConfig(**encoder)})
        return cls(**{**card, "encoder": ConvConfig(tuple(encoder["stages"]), encoder["width"])})


# --- frames to latents


class ViT(nn.Module):
    """Pre-norm vision transformer (Dosovitskiy et al. 2021); what it returns is the class token."""

    def __init__(self, cfg: VitConfig, image: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, cfg.width, cfg.patch, cfg.patch)
        self.token = nn.Parameter(torch.randn(1, 1, cfg.width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (image // cfg.patch) ** 2 + 1, cfg.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            cfg.width, cfg.heads, cfg.mlp, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, cfg.layers, nn.LayerNorm(cfg.width), enable_nested_tensor=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return features (N, width)."""
        patches_NPW = self.patches(x_NCHW).flatten(2).transpose(1, 2)
        tokens_NTW = torch.cat([self.token.expand(len(x_NCHW), -1, -1), patches_NPW], 1) + self.position
        return self.layers(tokens_NTW)[:, 0]


class Halve(nn.Module):
    """Half the resolution: a strided convolution and a residual one."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down, self.stay = nn.Conv2d(before, after, 3, 2, 1), nn.Conv2d(after, after, 3, 1, 1)
        self.norm_1, self.norm_2 = nn.GroupNorm(8, after), nn.GroupNorm(8, after)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return half as many rows and columns."""
        x_NCHW = F.gelu(self.norm_1(self.down(x_NCHW)))
        return x_NCHW + F.gelu(self.norm_2(self.stay(x_NCHW)))


class ConvNet(nn.Sequential):
    """Stages of convolutions, whose last map is read as a whole: where things are is not averaged away."""

    def __init__(self, cfg: ConvConfig, image: int) -> None:
        sizes = (3, *cfg.stages)
        stages = [Halve(a, b) for a, b in pairwise(sizes)]
        side = image // 2 ** len(cfg.stages)
        super().__init__(*stages, nn.Flatten(), nn.Linear(side * side * cfg.stages[-1], cfg.width))


def projector(before: int, hidden: int, after: int) -> nn.Sequential:
    """Return the MLP on top of encoder and predictor; its batch norm is what lets SIGReg shape the latents."""
    return nn.Sequential(nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, after))


# --- latents and actions to the next latent


class Layer(nn.Module):
    """Causal attention and MLP, each behind a modulated layer norm and a gate that starts at zero."""

    def __init__(self, cfg: JepaConfig) -> None:
        super().__init__()
        width, inner = cfg.latent, cfg.heads * cfg.head
        self.heads, self.dropout = cfg.heads, cfg.dropout
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(cfg.dropout))
        self.mlp = nn.Sequential(
            nn.Linear(width, cfg.mlp),
            nn.GELU(),
            nn.Dropout(cfg.dropout),
            nn.Linear(cfg.mlp, width),
            nn.Dropout(cfg.dropout),
        )

    def forward(
        self, x_NTD: Tensor, changes: tuple[Tensor, ...], past: list[Tensor] | None = None, last: bool = False
    ) -> Tensor:
        """Return (N, T, D) for `changes` = `modulate`'s six parts. With `past`, a list of earlier keys and values, x follows them.

        `last`: of the last token alone, (N, 1, D).
        """
        shift_1, scale_1, *changes_2 = changes
        size = (x_NTD.shape[-1],)
        y_NTD = self.norm_1(torch.addcmul(shift_1, F.layer_norm(x_NTD, size, eps=EPS), 1 + scale_1))
        if last:
            x_NTD, changes_2 = x_NTD[:, -1:], [change[:, -1:] for change in changes_2]
        gate_1, shift_2, scale_2, gate_2 = changes_2
        x_NTD = torch.addcmul(x_NTD, gate_1, self.attend(y_NTD, past, last))
        y_NTD = self.norm_2(torch.addcmul(shift_2, F.layer_norm(x_NTD, size, eps=EPS), 1 + scale_2))
        return torch.addcmul(x_NTD, gate_2, self.mlp(y_NTD))

    def attend(self, y_NTD: Tensor, past: list[Tensor] | None, last: bool) -> Tensor:
        """Return what each token, or the last, reads from itself and those before it; keys and values are added to `past`."""
        n, t, _ = y_NTD.shape
        of_q, of_kv = self.qkv.weight.tensor_split([len(self.qkv.weight) // 3])
        asking_NAD = y_NTD[:, -1:].contiguous() if last else y_NTD  # the product of a strided slice may take far longer
        q_NAHD = F.linear(asking_NAD, of_q).view(n, -1, self.heads, len(of_q) // self.heads)
        k_NTHD, v_NTHD = F.linear(y_NTD, of_kv).view(n, t, 2, self.heads, -1).unbind(2)
        if past is not None:
            if past:
                k_NTHD, v_NTHD = torch.cat([past[0], k_NTHD], 1), torch.cat([past[1], v_NTHD], 1)
            past[:] = k_NTHD, v_NTHD
            return self.out(read_few(q_NAHD, k_NTHD, v_NTHD).flatten(2))
        drop, causal = self.dropout if self.training else 0.0, q_NAHD.shape[1] == t
        heads = (x.transpose(1, 2) for x in (q_NAHD, k_NTHD, v_NTHD))
        return self.out(
            F.scaled_dot_product_attention(*heads, dropout_p=drop, is_causal=causal).transpose(1, 2).flatten(2)
        )


def read_few(q_NAHD: Tensor, k_NTHD: Tensor, v_NTHD: Tensor) -> Tensor:
    """Return causal attention of the last A of T tokens, (N, A, H, D), for windows so short that a kernel takes longer to start."""
    found, (asking, heads, size) = [], q_NAHD.shape[1:]
    sum_XH = torch.eye(heads, dtype=q_NAHD.dtype, device=q_NAHD.device).repeat_interleave(size, 0) * size**-0.5
    for i in range(asking):
        seen = k_NTHD.shape[1] - asking + i + 1
        share_NTH = ((q_NAHD[:, i, None] * k_NTHD[:, :seen]).flatten(2) @ sum_XH).softmax(1)
        read_NHD = share_NTH[:, 0, :, None] * v_NTHD[:, 0]
        for t in range(1, seen):
            read_NHD = torch.addcmul(read_NHD, share_NTH[:, t, :, None], v_NTHD[:, t])
        found.append(read_NHD)
    return torch.stack(found, 1)


class Predictor(nn.Module):
    """The next latent after each of up to `history` latents; token t is modulated by the action that leaves frame t."""

    def __init__(self, cfg: JepaConfig) -> None:
        super().__init__()
        size = cfg.block * cfg.action
        self.squeeze = nn.Linear(size, 10)
        self.embed = nn.Sequential(nn.Linear(10, 4 * cfg.latent), nn.SiLU(), nn.Linear(4 * cfg.latent, cfg.latent))
        self.position = nn.Parameter(torch.randn(1, cfg.history, cfg.latent))
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.latent)

    def condition(self, actions_NTA: Tensor) -> list[Tensor]:
        """Return how actions change each layer, (N, T, 6 D) per layer: they may be reused wherever the action stands."""
        embedded_NTD = F.silu(self.embed(self.squeeze(actions_NTA)))
        return [layer.modulate(embedded_NTD) for layer in self.layers]  # pyright: ignore

    def forward(
        self,
        z_NTD: Tensor,
        changes: list[Tensor],
        past: list[list[Tensor]] | None = None,
        first: int = 0,
        last: bool = False,
    ) -> Tensor:
        """Return (N, T, D) for latents at positions `first` on; with `past`, one list per layer, they follow what is there.

        `last`: what comes after the last of them alone, (N, 1, D).
        """
        x_NTD = z_NTD + self.position[:, first : first + z_NTD.shape[1]]
        for index, layer in enumerate(self.layers):
            kept = None if past is None else past[index]
            x_NTD = layer(x_NTD, changes[index].chunk(6, -1), kept, last and index == len(self.layers) - 1)
        return self.norm(x_NTD)


class Jepa(nn.Module):
    """Encoder, predictor and their projectors; `action` holds the data's statistics, per control step."""

    def __init__(self, cfg: JepaConfig, action: Normaliser) -> None:
        super().__init__()
        self.cfg, self.action = cfg, action
        made = cfg.encoder
        self.encoder = ViT(made, cfg.image) if isinstance(made, VitConfig) else ConvNet(made, cfg.image)
        self.projector = projector(made.width, cfg.hidden, cfg.latent)
        self.predictor = Predictor(cfg)
        self.pred_projector = projector(cfg.latent, cfg.hidden, cfg.latent)
        self.register_buffer("mean_rgb", 255 * torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std_rgb", 255 * torch.tensor(STD_RGB).view(1, 3, 1, 1), persistent=False)

    def encode(self, frames_NHWC: Tensor) -> Tensor:
        """Return latents (N, D) of pictures (N, side, side, 3) uint8. Raises ValueError, in one line, for another size."""
        side = self.cfg.image
        check("frames", frames_NHWC, "N H W C", H=side, W=side, C=3)
        x_NCHW = (frames_NHWC.movedim(-1, 1).float() - self.mean_rgb) / self.std_rgb  # pyright: ignore
        layout = torch.channels_last if x_NCHW.is_cuda else torch.contiguous_format  # a quarter faster on a CPU
        return self.projector(self.encoder(x_NCHW.contiguous(memory_format=layout)))

    def condition(self, actions_NTA: Tensor) -> list[Tensor]:
        """Return how blocks of actions (N, T, block * action), in the robot's units, change each layer."""
        n, t, _ = actions_NTA.shape
        unit_NTA = self.action(actions_NTA.view(n, t, self.cfg.block, -1)).view(n, t, -1)
        return self.predictor.condition(unit_NTA.to(self.dtype))

    @property
    def dtype(self) -> torch.dtype:
        """Of the dynamics; the encoder's may be another."""
        return self.predictor.position.dtype

    def predict(self, z_NTD: Tensor, actions_NTA: Tensor) -> Tensor:
        """Return the latent after each of T <= history latents and the blocks that leave them, (N, T, D)."""
        return self._project(self.predictor(z_NTD, self.condition(actions_NTA)))

    def _project(self, x_NTD: Tensor) -> Tensor:
        return self.pred_projector(x_NTD.flatten(0, 1)).view(x_NTD.shape)

    def rollout(self, z_NTD: Tensor, past_NPA: Tensor, actions_NHA: Tensor) -> Tensor:
        """Return the latents after each of H blocks, (N, H, D), from T <= history latents and the P = T - 1 blocks between them.

        Equal to `predict` on the last `history` latents, block after block: while that window only grows, earlier tokens'
        keys and values are kept; once it slides, its positions move, and all its tokens are computed anew.
        """
        history, known = self.cfg.history, z_NTD.shape[1]
        check("past_NPA", past_NPA, "N P A", P=known - 1)
        changes = self.condition(torch.cat([past_NPA, actions_NHA], 1))
        z_NTD = z_NTD.to(self.dtype)
        past: list[list[Tensor]] = [[] for _ in self.predictor.layers]
        new_NTD, first = z_NTD, 0
        for end in range(known, known + actions_NHA.shape[1]):
            if end > history:
                past, new_NTD, first = [[] for _ in past], z_NTD[:, end - history :], end - history
            window = [c[:, first:end] for c in changes]
            out_N1D = self.predictor(new_NTD, window, past, 0 if end > history else first, last=True)
            new_NTD = self._project(out_N1D)
            z_NTD, first = torch.cat([z_NTD, new_NTD], 1), end
        return z_NTD[:, known:].float()


def quick(model: Jepa) -> Jepa:
    """Return the model with dynamics in bf16, for searches; the encoder is shared with the given one, which stays as it is."""
    made = copy.copy(model)
    made._modules = dict(model._modules)
    made.predictor = copy.deepcopy(model.predictor).bfloat16()
    made.pred_projector = copy.deepcopy(model.pred_projector).bfloat16()
    return made


def losses(model: Jepa, frames_BTHWC: Tensor, actions_BTA: Tensor, directions_DM: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error of prediction and SIGReg, two scalars, of windows of T = history + 1 frames and T - 1 blocks or more."""
    batch, frames = frames_BTHWC.shape[:2]
    z_BTD = model.encode(frames_BTHWC.flatten(0, 1)).view(batch, frames, -1)
    predicted_BTD = model.predict(z_BTD[:, :-1], actions_BTA[:, : frames - 1])
    return (predicted_BTD - z_BTD[:, 1:]).square().mean(), sigreg(z_BTD.transpose(0, 1).float(), directions_DM)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d]:
    """Return the batch norms of a model, which are in its projectors."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]


def settle(model: Jepa, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Set the statistics of every batch norm to those of the data, in place: the mean over batches (frames, actions)."""

    def run() -> None:
        for frames_BTHWC, actions_BTA in batches:
            batch, frames = frames_BTHWC.shape[:2]
            z_BTD = model.encode(frames_BTHWC.flatten(0, 1)).view(batch, frames, -1)
            model.predict(z_BTD[:, :-1], actions_BTA[:, : frames - 1])

    settle_norms(model, run)


@torch.no_grad()
def settle_norms(model: nn.Module, run: Callable[[], object]) -> None:
    """Set the statistics of every batch norm to the mean over what `run` passes through the model, in place.

    The running ones lag behind the weights, which can raise the error in evaluation a hundredfold. Dropout is off meanwhile.
    """
    norms = batch_norms(model)
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    run()
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
