"""The CEM solver of stable-worldmodel on weights and problems that it is given; run by benchmarks/latent_planning.py.

It runs in an environment of its own (`make bench-peers`), so it imports nothing of ours. Latents of picture and goal are given too:
neither side encodes. Prints one JSON line with the milliseconds of each plan, the plans, and what they cost by its own reckoning.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from gymnasium.spaces import Box
from safetensors.torch import load_file
from stable_worldmodel.solver import CEMSolver
from stable_worldmodel.wm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from torch import nn


def built(sizes: dict) -> LeWM:
    """Return their model of these sizes."""
    width = sizes["latent"]
    predictor = Predictor(
        num_frames=sizes["history"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        mlp_dim=sizes["mlp"],
        input_dim=width,
        hidden_dim=width,
        dim_head=sizes["head"],
    )
    actions = Embedder(input_dim=sizes["block"] * sizes["action"], smoothed_dim=10, emb_dim=width)
    projector = MLP(width, sizes["hidden"], width, norm_fn=nn.BatchNorm1d)
    return LeWM(nn.Identity(), predictor, actions, None, projector).eval()


def renamed(name: str) -> str:
    """Return their name of one of our weights."""
    for ours, theirs in (
        ("predictor.squeeze.", "action_encoder.patch_embed."),
        ("predictor.embed.", "action_encoder.embed."),
        ("predictor.position", "predictor.pos_embedding"),
        ("predictor.norm.", "predictor.transformer.norm."),
        ("predictor.layers.", "predictor.transformer.layers."),
        (".modulate.", ".adaLN_modulation.1."),
        (".norm_1.", ".attn.norm."),
        (".norm_2.", ".mlp.net.0."),
        (".qkv.", ".attn.to_qkv."),
        (".out.0.", ".attn.to_out.0."),
        (".mlp.3.", ".mlp.net.4."),
        ("pred_projector.", "pred_proj.net."),
    ):
        name = name.replace(ours, theirs)
    return name if ".mlp.net." in name else name.replace(".mlp.0.", ".mlp.net.1.")


def main(folder: Path) -> None:
    """Solve every problem once."""
    asked = json.loads((folder / "problem.json").read_text())
    torch.set_num_threads(asked["threads"])
    weights = {renamed(name): tensor for name, tensor in load_file(folder / "weights.safetensors").items()}
    weights["action_encoder.patch_embed.weight"] = weights["action_encoder.patch_embed.weight"][..., None]
    model, sizes = built(asked["sizes"]), asked["sizes"]
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown, unknown
    assert all("num_batches_tracked" in name for name in missing), missing
    solver = CEMSolver(model, num_samples=asked["samples"], n_steps=asked["iterations"], topk=asked["elites"])
    space = Box(-1.0, 1.0, (1, sizes["action"]), np.float32)
    solver.configure(
        action_space=space, n_envs=1, config=SimpleNamespace(horizon=asked["horizon"], action_block=sizes["block"])
    )
    times_ms, plans, costs = [], [], []
    for here, goal in zip(asked["here"], asked["goal"], strict=True):
        info = {
            "pixels": torch.zeros(1, 1, 1),
            "goal": torch.zeros(1, 1, 1),
            "action": torch.zeros(1, 1, sizes["block"] * sizes["action"]),
            "emb": torch.tensor(here).view(1, 1, -1),
            "goal_emb": torch.tensor(goal).view(1, 1, -1),
        }
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            found = solver.solve(info)
        times_ms.append(1e3 * (time.perf_counter() - began))
        plan = found["actions"][:1].float()
        plans.append(plan[0].tolist())
        with torch.inference_mode():
            costs.append(float(model.get_cost({k: v[:, None] for k, v in info.items()}, plan[:, None])))
    print(json.dumps({"ms": times_ms, "plans": plans, "costs": costs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
