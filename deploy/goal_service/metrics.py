"""What a Prometheus server may read: the engine's counters as they are, and what each request took."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deploy.goal_service.requests import Finished

PREFIX = "surefoot"
COUNTERS: Mapping[str, tuple[str, str]] = {
    "drafts": ("spec_decode_num_drafts", "Drafts that the target has verified"),
    "drafted": ("spec_decode_num_draft_tokens", "Tokens in them"),
    "accepted": ("spec_decode_num_accepted_tokens", "Tokens of them that the target has accepted"),
    "forced": ("forced_tokens", "Tokens that a grammar left no choice about"),
    "cache_hits": ("cache_hits", "Drafts that were ready before they were asked for"),
    "cache_misses": ("cache_misses", "Drafts that were not"),
    "rounds": ("rounds", "Looks of the target, each at several texts"),
    "seen": ("verified_tokens", "Tokens that it has looked at"),
    "decided": ("generation_tokens", "Tokens that were decided"),
    "completion_tokens": ("completion_tokens", "Tokens of answers that have ended"),
    "requests": ("engine_requests", "Answers that were begun"),
    "refused": ("engine_refused", "Answers that there was no room for"),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts"),
    "cached_tokens": ("prefix_cache_hit_tokens", "Tokens of prompts that an earlier request had already computed"),
    "verify_seconds": ("verify_seconds", "Time that the target has looked"),
    "draft_seconds": ("draft_seconds", "Time that drafts have been waited for"),
    "draft_restarts": ("draft_restarts", "Times that the draft process was started again"),
    "draft_late": ("draft_late", "Drafts that came too late to be waited for"),
}
"""Key of `Engine.stats()` -> name without prefix and `_total`, and what it counts. Keys that are not here are gauges."""
LABELLED = (
    (re.compile(r"rounds_(\w+)"), "rounds_by_mode", "Looks of the target", ("mode",)),
    (re.compile(r"finished_(\w+)"), "finished", "Answers that have ended", ("reason",)),
    (re.compile(r"rate_(\w+)_(\d+)"), "tokens_per_second", "Measured of late", ("mode", "lookahead")),
)
"""Keys that stand for labels; the last are gauges."""
SHORT_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
TOKEN_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
PER_ROUND = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16)


class _EngineStats:
    """The engine's own numbers, read when they are asked for."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield each of them."""
        now = dict(self._stats())
        yield from self._labelled(now)
        for key, value in now.items():
            if key in COUNTERS:
                name, about = COUNTERS[key]
                yield CounterMetricFamily(f"{PREFIX}_{name}", about, value=value)
            else:
                yield GaugeMetricFamily(f"{PREFIX}_{key}", key.replace("_", " "), value=value)
        if now.get("rounds"):
            per_round = now.get("decided", 0.0) / now["rounds"]
            yield GaugeMetricFamily(f"{PREFIX}_tokens_per_round", "Decided per look, of all texts together", per_round)
        if now.get("drafted"):
            rate = now.get("accepted", 0.0) / now["drafted"]
            yield GaugeMetricFamily(f"{PREFIX}_acceptance_rate", "Of drafted tokens, since the start", rate)

    def _labelled(self, now: dict[str, float]) -> Iterator[Metric]:
        """Yield those whose keys stand for labels, and take them out of `now`."""
        for pattern, name, about, labels in LABELLED:
            kind = GaugeMetricFamily if name == "tokens_per_second" else CounterMetricFamily
            family = kind(f"{PREFIX}_{name}", about, labels=labels)
            for key in [key for key in now if pattern.fullmatch(key)]:
                found = pattern.fullmatch(key)
                assert found is not None
                family.add_metric(found.groups(), now.pop(key))
            if family.samples:
                yield family


class Metrics:
    """Numbers of one service; no other service in the process shares them."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        """`stats` is the engine's."""
        self._registry = registry = CollectorRegistry(auto_describe=False)
        registry.register(_EngineStats(stats))  # pyright: ignore[reportArgumentType]

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", about, buckets=buckets, registry=registry)

        self._first_s = histogram("time_to_first_token_seconds", "From submission", SHORT_S)
        self._per_token_s = histogram("time_per_output_token_seconds", "After the first", TOKEN_S)
        self._queue_s = histogram("queue_time_seconds", "From submission to the first computation", SHORT_S)
        self._total_s = histogram("answer_seconds", "From submission to the last token", SHORT_S)
        self._tokens = histogram("answer_tokens", "Tokens of an answer", TOKENS)
        self._per_round = histogram("answer_tokens_per_round", "Tokens of an answer per verification", PER_ROUND)
        self._goal_s = histogram("goal_seconds", "From sentence to goal", SHORT_S)
        self._ended = Counter(f"{PREFIX}_answers", "Answers, by how they ended", ["reason", "mode"], registry=registry)
        self._requests = Counter(f"{PREFIX}_requests", "Requests", ["method", "path", "status"], registry=registry)
        self._request_s = Histogram(
            f"{PREFIX}_request_seconds", "From the first byte to the last", ["path"], buckets=SHORT_S, registry=registry
        )

    def answered(self, finished: Finished) -> None:
        """Count an answer."""
        of = finished.timings
        self._ended.labels(finished.reason, of.mode).inc()
        self._queue_s.observe(of.queued_s)
        self._total_s.observe(of.total_s)
        self._tokens.observe(of.completion_tokens)
        if of.completion_tokens:
            self._first_s.observe(of.first_token_s)
        if of.completion_tokens > 1:
            self._per_token_s.observe((of.total_s - of.first_token_s) / (of.completion_tokens - 1))
        if of.rounds:
            self._per_round.observe(of.completion_tokens / of.rounds)

    def served(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE") else "other"
        self._requests.labels(known, path, str(status)).inc()
        self._request_s.labels(path).observe(seconds)

    def goal(self, seconds: float) -> None:
        """Count a goal."""
        self._goal_s.observe(seconds)

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)
