"""A small model that drafts for the target: distilled from what the target says, over the words that it uses most.

    python -m deploy.goal_service.distil --out runs/distil/out

First the target writes (goals from sentences, and answers to plain questions), then the small model learns the target's distribution
at each place of these texts. Both are kept in --work as they go; the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deploy.goal_service.engine import Engine, EngineConfig, build_engine
from deploy.goal_service.llama import Llama, LlamaConfig, Rope, Span
from deploy.goal_service.models import save_drafter
from deploy.goal_service.requests import Finished, Sampling, Ticket
from deploy.goal_service.vocabulary import Vocabulary

TOPICS = (
    *(
        "walking",
        "robots",
        "gravity",
        "bicycles",
        "the ocean",
        "bread",
        "music",
        "winter",
        "batteries",
        "knees",
        "maps",
    ),
    *("clouds", "friction", "sleep", "rivers", "bridges", "coffee", "ants", "the moon", "trains", "gardens", "numbers"),
)
QUESTIONS = (
    *("What is {}?", "Explain {} to a child.", "Write a short story about {}.", "List five facts about {}."),
    *("Why does {} matter?", "Give me advice about {}.", "Write a poem about {}.", "Describe {} in two sentences."),
    *("How would a robot think about {}?", "Write an email to a friend about {}.", "Compare {} with something else."),
)


@dataclass(frozen=True)
class DistilConfig:
    """What is made, and from how much."""

    out: Path = Path("runs/distil/out")
    work: Path = Path("runs/distil")
    model: str = ""
    """The target; empty for the one that the packages bring."""
    texts: int = 1500
    """That the target writes."""
    tokens: int = 96
    """Of each."""
    words: int = 4096
    """Of the target's vocabulary that the small model knows."""
    width: int = 256
    layers: int = 2
    steps: int = 3000
    batch: int = 16
    learning_rate: float = 2e-3
    decay: float = 0.1
    best: int = 32
    """Likeliest tokens of the target at each place that are kept."""
    seed: int = 0
    threads: int = 1


class Student(nn.Module):
    """The same model as llama.py's, that can learn."""

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        made = {}
        for name, shape in cfg.shapes().items():
            drawn = torch.randn(shape) * (0.02 if name == "embedding" else shape[-1] ** -0.5)
            made[name.replace(".", "_")] = nn.Parameter(torch.ones(shape) if len(shape) == 1 else drawn)
        self.held = nn.ParameterDict(made)
        angles = torch.arange(cfg.context).double()[:, None] * cfg.rope.frequencies(cfg.head_dim).double()
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1).float(), persistent=False)
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], -1).float(), persistent=False)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names that the target's have."""
        return {name: self.held[name.replace(".", "_")].detach() for name in self.cfg.shapes()}

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, words)."""
        cfg, x = self.cfg, self.held["embedding"][tokens_BT]
        for i in range(cfg.layers):
            w = {
                n: self.held[f"layers_{i}_{n}"]
                for n in ("attention_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")
            }
            h = F.rms_norm(x, (cfg.width,), w["attention_norm"], cfg.eps)
            q, k, v = (self._heads(h @ w[name].T) for name in ("q", "k", "v"))
            done = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v, is_causal=True, enable_gqa=True)
            x = x + done.transpose(1, 2).flatten(2) @ w["o"].T
            h = F.rms_norm(x, (cfg.width,), w["mlp_norm"], cfg.eps)
            x = x + (F.silu(h @ w["gate"].T) * (h @ w["up"].T)) @ w["down"].T
        return F.rms_norm(x, (cfg.width,), self.held["norm"], cfg.eps) @ self.held["embedding"].T

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.cfg.head_dim)).transpose(1, 2)

    def _turn(self, x: Tensor) -> Tensor:
        length, half = x.shape[-2], self.cfg.head_dim // 2
        return x * self.get_buffer("cos")[:length] + x.roll(half, -1) * self.get_buffer("sin")[:length]


def asked_of(vocabulary: Vocabulary, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return what is asked and, for sentences, the goal that is right: plain questions are the target's to answer."""
    from deploy.goal_service.examples.training import cases
    from deploy.goal_service.sentences import SYSTEM

    source, found = random.Random(seed), []
    for case in cases(random.Random(seed), count // 2):
        said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"sentence: {case.sentence}"}]
        found.append((vocabulary.chat(said), vocabulary.encode(case.goal.to_json(), special=False)))
        plain = source.choice(QUESTIONS).format(source.choice(TOPICS))
        found.append((vocabulary.chat([{"role": "user", "content": plain}]), []))
    return found


def write_texts(cfg: DistilConfig, path: Path) -> list[tuple[int, list[int]]]:
    """Return texts as (length of the prompt, tokens); those that are in the file already are not written again."""
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(done) < cfg.texts:
        held = EngineConfig(model=cfg.model, mode="ar", rows=16, queue=64, context=1024, threads=cfg.threads)
        engine = build_engine(held)
        asked = asked_of(engine.vocabulary, cfg.texts, cfg.seed)
        with path.open("a") as file:
            for first in range(len(done), len(asked), 32):
                for prompt, answer in _answered(engine, cfg, asked[first : first + 32], first):
                    done.append([len(prompt), [*prompt, *answer]])
                    file.write(json.dumps(done[-1]) + "\n")
                file.flush()
                print(f"texts {len(done)}/{cfg.texts}", file=sys.stderr)
        engine.close()
    return [(start, tokens) for start, tokens in done]


def _answered(
    engine: Engine, cfg: DistilConfig, asked: Sequence[tuple[list[int], list[int]]], first: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield prompts and answers; the target writes those that are missing, half of them greedily."""
    tickets = [
        None if answer else engine.submit(prompt, Sampling(float(i % 4 > 1), seed=first + i, max_tokens=cfg.tokens))
        for i, (prompt, answer) in enumerate(asked)
    ]
    for (prompt, answer), ticket in zip(asked, tickets, strict=True):
        yield prompt, answer if ticket is None else _said(ticket)


def _said(ticket: Ticket) -> list[int]:
    return [event.id for event in ticket if not isinstance(event, Finished) and event.id >= 0]


def look(target: Llama, texts: Sequence[list[int]], ids: Tensor, best: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, per text, the target's likeliest known tokens at each place (T, best), in its own numbers, and their logits."""
    cache = target.cache(1, max(map(len, texts)))
    for tokens in texts:
        slots = torch.arange(len(tokens))
        logits = target.forward(torch.tensor(tokens), [Span(0, slots, slots)], cache)
        found = logits[:, ids].topk(best)
        yield found.indices.int(), found.values


def known_words(texts: Sequence[list[int]], count: int, always: Sequence[int]) -> Tensor:
    """Return the tokens that the small model knows: `always`, then those that are most frequent."""
    often = [token for token, _ in Counter(t for tokens in texts for t in tokens).most_common()]
    return torch.tensor(sorted(list(dict.fromkeys([*always, *often]))[:count]))


@dataclass
class Lessons:
    """What the small model learns from: per text its tokens, and the target's view of each place."""

    tokens: list[Tensor]
    indices: list[Tensor]
    logits: list[Tensor]
    starts: list[int]

    def batch(self, which: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens (B, T), the target's tokens (B, T, K) and probabilities, and which places count (B, T)."""
        length = max(len(self.tokens[i]) for i in which)

        def padded(some: Sequence[Tensor]) -> Tensor:
            return torch.stack([F.pad(t, (0, 0) * (t.dim() - 1) + (0, length - len(t))) for t in some])

        counts = torch.zeros(len(which), length)
        for row, i in enumerate(which):
            counts[row, : len(self.tokens[i])] = 0.1  # what people ask is worth little
            counts[row, self.starts[i] - 1 : len(self.tokens[i])] = 1.0
        tokens = padded([self.tokens[i] for i in which]).long()
        indices = padded([self.indices[i] for i in which]).long()
        chances = padded([self.logits[i] for i in which]).softmax(-1)
        return tokens, indices, chances, counts


def loss_of(student: Student, lessons: Lessons, which: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy to the target per place, and the share of places where both have the same likeliest token."""
    tokens, indices, chances, counts = lessons.batch(which)
    logits = student(tokens)
    known = logits.log_softmax(-1).gather(-1, indices)
    same = (logits.argmax(-1) == indices[..., 0]).float()
    answers = (counts == 1).float()
    return -((known * chances).sum(-1) * counts).sum() / counts.sum(), (same * answers).sum() / answers.sum()


def learn(cfg: DistilConfig, student: Student, lessons: Lessons, path: Path) -> float:
    """Train with checkpoints in `path`; return the agreement on texts that were held out."""
    count = range(len(lessons.tokens))  # sentences and plain questions take turns, and some of each are held out
    held, rest = [i for i in count if i % 40 < 2], [i for i in count if i % 40 >= 2]
    flat = [p for p in student.parameters() if p.dim() > 1]
    groups = [
        {"params": flat, "weight_decay": cfg.decay},
        {"params": [p for p in student.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, cfg.learning_rate, betas=(0.9, 0.98))
    first = 0
    if path.exists():
        kept = load_file(path)
        first = int(kept.pop("step"))
        student.load_state_dict(kept, strict=False)
    for step in range(first, cfg.steps):
        share = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / cfg.steps))
        for group in optimiser.param_groups:
            group["lr"] = cfg.learning_rate * share
        loss, _ = loss_of(student, lessons, random.Random(cfg.seed + step).sample(rest, cfg.batch))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 250 == 0 or step + 1 == cfg.steps:
            with torch.no_grad():
                unseen, agreement = loss_of(student, lessons, held)
            print(
                f"step {step + 1}/{cfg.steps} loss {loss:.3f} held-out {unseen:.3f} agreement {agreement:.3f}",
                file=sys.stderr,
            )
            save_file({**student.state_dict(), "step": torch.tensor(step + 1)}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
    with torch.no_grad():
        return float(loss_of(student, lessons, held)[1])


def distil(cfg: DistilConfig) -> int:
    """Make the drafter."""
    from deploy.goal_service.models import load_target
    from deploy.goal_service.weights import load_weights, packaged_model

    torch.set_num_threads(cfg.threads)
    torch.manual_seed(cfg.seed)
    cfg.work.mkdir(parents=True, exist_ok=True)
    texts = write_texts(cfg, cfg.work / "texts.jsonl")
    weights = load_weights(Path(cfg.model) if cfg.model else packaged_model())
    always = [*sorted(weights.vocabulary.eos), *weights.vocabulary.encode('{}[]":,0123456789.-')]
    ids = known_words([tokens for _, tokens in texts], cfg.words, always)
    own = torch.zeros(weights.config.vocab, dtype=torch.int)
    own[ids] = torch.arange(len(ids), dtype=torch.int)
    seen_path = cfg.work / "seen.safetensors"
    if not seen_path.exists():
        seen = look(load_target(weights, "int4"), [tokens for _, tokens in texts], ids, cfg.best)
        held = {f"{i}.{k}": t for i, pair in enumerate(seen) for k, t in enumerate(pair)}
        save_file(held, seen_path)
    seen = load_file(seen_path)
    count = len(texts)
    lessons = Lessons(
        [own[torch.tensor(tokens)] for _, tokens in texts],
        [seen[f"{i}.0"] for i in range(count)],
        [seen[f"{i}.1"] for i in range(count)],
        [start for start, _ in texts],
    )
    shape = LlamaConfig(
        len(ids), cfg.width, cfg.layers, cfg.width // 32, cfg.width // 64, 32, 3 * cfg.width, 4096, Rope()
    )
    student = Student(shape)
    agreement = learn(cfg, student, lessons, cfg.work / "student.safetensors")
    about = {"target": weights.name, "texts": count, "steps": cfg.steps, "agreement": round(agreement, 4)}
    save_drafter(cfg.out, shape, {n: t.bfloat16() for n, t in student.tensors().items()}, ids, about)
    print(f"{cfg.out}: {sum(p.numel() for p in student.parameters()) / 1e6:.1f} M weights, agreement {agreement:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(distil(tyro.cli(DistilConfig)))
