"""Decoders on tiny models, for the tests of drafting: the draft process's own code, without the process."""

from types import SimpleNamespace

import torch

from deploy.goal_service.draft_link import DraftLink
from deploy.goal_service.draft_process import DraftConfig, Guesser, Measured
from deploy.goal_service.drafters import Draftee, ModelDrafter
from deploy.goal_service.llama import Llama, LlamaConfig
from deploy.goal_service.requests import Sampling, Ticket
from deploy.goal_service.rounds import Decoder
from deploy.goal_service.rows import Row
from deploy.goal_service.sampling import SeededDice

VOCAB, EOS = 32, 31
NOBODY = frozenset[int]()
WORDS = SimpleNamespace(bytes_of=lambda token: bytes([65 + token]))


def random_model(seed, like=None):
    """A tiny random model that looks at its context; `like`: mostly another's weights, so that the two often agree."""
    cfg = LlamaConfig(VOCAB, 32, 2, 2, 1, 16, 64, 4096, tied=False)
    g = torch.Generator().manual_seed(seed)
    scale = {"q": 3.0, "k": 3.0, "o": 3.0, "output": 2.5}
    made = {}
    for name, shape in cfg.shapes().items():
        drawn = torch.randn(shape, generator=g) / shape[-1] ** 0.5 * scale.get(name.rsplit(".", 1)[-1], 1.0)
        made[name] = torch.ones(shape) if len(shape) == 1 else drawn
    if like is not None:
        made = {n: 0.98 * like[n] + 0.08 * t if t.dim() > 1 else t for n, t in made.items()}
    return cfg, made


def near_pair():
    """A target, and a small model that often agrees with it."""
    cfg, target = random_model(0)
    _, draft = random_model(1, like=target)
    return Llama(cfg, target, "fp32"), Llama(cfg, draft, "fp32")


class Near(DraftLink):
    """The draft process's own code, without the process."""

    def __init__(self, cfg, model):
        self.cfg, self.seen, self.restarts, self.hits, self.misses = cfg, Measured(), 0, 0, 0
        self.taken_on_hit = self.taken_on_miss = 0
        self._known, self._accepted, self._ended, self._late_s = {}, {}, set(), None
        self.guesser = Guesser(cfg, model, None, frozenset({EOS}))

    def ready(self):
        return True

    def _exchange(self, message):
        drafts = self.guesser.hear(message)
        self.guesser.prepare(message["lookahead"])
        return drafts


def start(
    models, prompts, sampling, rule="coupled", mode="ar", fallback="auto", uniform=False, factor=1.0, eos=EOS, budget=12
):
    """A decoder and a row for each prompt."""
    target, draft = models
    count = len(prompts)
    small = ModelDrafter(draft, VOCAB, count, 1024, None, rule, factor)
    cfg = DraftConfig("", "", count, 256, budget, rule, factor, fallback, uniform=uniform)
    ahead = Near(cfg, ModelDrafter(draft, VOCAB, count, 1024, None, rule, factor)) if mode == "ssd" else None
    decoder = Decoder(target, target.cache(count, 256), None if mode == "ngram" else small, ahead)
    made = []
    for i, (prompt, asked) in enumerate(zip(prompts, sampling, strict=True)):
        who = Draftee(i, list(prompt), len(prompt), asked, frozenset({eos}), None, SeededDice(asked.seed))
        made.append(Row(i, Ticket(tuple(prompt), asked), who, WORDS, rule, 256, 0.0, 0.0))
        small.begin(who)
    return decoder, made


def write(models, prompts, sampling, mode="ar", lookahead=3, **how):
    """What comes after each prompt, all decoded together."""
    decoder, made = start(models, prompts, sampling, mode=mode, **how)
    for _ in range(500):
        live = [row for row in made if not row.ended]
        if not live:
            break
        decoder.round(live, "sd" if mode == "ngram" else mode, lookahead)
    return [row.tokens[row.draftee.start :] for row in made], made


PROMPTS = [[1, 2, 3, 1, 2], [5, 6, 7, 8, 9, 10, 5, 6], [3], [4, 4, 4, 4]]
ASKED = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.3, "top_k": 5},
]


def samplings(asked, count=4, tokens=40):
    return [Sampling(seed=7 + i, max_tokens=tokens - 3 * i, **asked) for i in range(count)]


def three_words():
    """Three words, so that every way can be tried."""
    cfg = LlamaConfig(3, 16, 1, 2, 1, 8, 16, 64)
    g = torch.Generator().manual_seed(3)

    def made():
        return Llama(
            cfg,
            {n: torch.randn(s, generator=g) if len(s) > 1 else torch.ones(s) for n, s in cfg.shapes().items()},
            "fp32",
        )

    return made(), made()
