"""What Prometheus reads: OpenTelemetry's GenAI names where they exist, `parhelion_*` beside them.

Label values come from the catalogue and from fixed sets, never from requests or nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from parhelion.coordinator.pipeline_state import PipelineState
from parhelion.coordinator.relay import End, Relay
from parhelion.coordinator.traffic import Traffic, Wait

if TYPE_CHECKING:
    from parhelion.payments.x402.tally import Totals

# Bucket bounds are those of OpenTelemetry's semantic conventions for generative AI.
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS_S = tuple(0.01 * 2**power for power in range(14))
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

OPERATIONS = {"chat": "chat", "completions": "text_completion", "inference": "text_completion"}
NODE_STATES = ("joining", "measuring", "ready", "suspect", "draining", "failed", "refused")
PIPELINE_STATES = tuple(str(state) for state in PipelineState if state is not PipelineState.GONE)
_LABELS = ("gen_ai_operation_name", "gen_ai_response_model")


class _Bound(NamedTuple):
    """The instruments with the labels of one kind of end."""

    jobs: Counter
    charged: Counter
    asked: Histogram
    made: Histogram
    duration: Histogram
    first: Histogram
    per_token: Histogram


class Metrics:
    """One registry and its instruments; `render` is the body of /metrics."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.traffic = Traffic()
        """The same ends with their moments, which Prometheus keeps for itself: for the console."""
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request by type",
            (*_LABELS, "gen_ai_token_type"),
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._duration = self._seconds(
            "gen_ai_server_request_duration_seconds",
            "From the ask to the settled end of its answer",
            DURATION_BUCKETS_S,
        )
        self._first = self._seconds(
            "gen_ai_server_time_to_first_token_seconds",
            "From the ask to its first output id",
            FIRST_TOKEN_BUCKETS_S,
        )
        self._per_token = self._seconds(
            "gen_ai_server_time_per_output_token_seconds",
            "Between output ids after the first, mean of a request",
            PER_TOKEN_BUCKETS_S,
        )
        self._jobs = Counter(
            "parhelion_requests", "Requests by how they ended", ("outcome",), registry=self.registry
        )
        self._charged = Counter(
            "parhelion_charged_micro", "Base units charged", ("asset",), registry=self.registry
        )
        # `labels()` looks a child up by name under a lock: it is done once for each kind of end.
        self._bound: dict[tuple[str, str, str, str], _Bound] = {}

    def ended(self, relay: Relay, end: End, cost_micro: int, now_s: float) -> None:
        """A request was settled."""
        order = relay.order
        key = (order.ask.dialect, order.quote.model.id, end.kind, order.grant.rate.asset)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = self._bind(*key)
        bound.jobs.inc()
        bound.charged.inc(cost_micro)
        bound.duration.observe(now_s - order.started_s)
        bound.asked.observe(len(order.quote.prompt_ids))
        wait = None
        if relay.first_id_s is not None:
            wait = Wait(relay.first_id_s, relay.first_id_s - order.started_s)
            bound.made.observe(relay.meter.completion_tokens)
            bound.first.observe(wait.wait_s)
            if relay.meter.accepted > 1:
                spread_s = relay.last_id_s - relay.first_id_s
                bound.per_token.observe(spread_s / (relay.meter.accepted - 1))
        self.traffic.ended(relay.meter.completion_tokens, wait)

    def watch(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Gauges read when they are asked for: name -> (help, value)."""
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=self.registry).set_function(read)

    def watch_nodes(self, count: Callable[[str], float]) -> None:
        """How many nodes are in each state, read when asked for."""
        gauge = Gauge("parhelion_nodes", "Nodes by state", ("state",), registry=self.registry)
        for state in NODE_STATES:
            gauge.labels(state).set_function(lambda state=state: count(state))

    def watch_pipelines(self, count: Callable[[str], float]) -> None:
        """How many pipelines are in each state, read when asked for."""
        gauge = Gauge(
            "parhelion_pipelines", "Pipelines by state", ("state",), registry=self.registry
        )
        for state in PIPELINE_STATES:
            gauge.labels(state).set_function(lambda state=state: count(state))

    def watch_x402(self, glance: Callable[[], Totals | None]) -> None:
        """Payments by x402, as `glance` shows them whenever they are asked for."""
        # Loaded here: only where a network is paid on.
        from parhelion.coordinator.x402_metrics import X402Collector

        self.registry.register(X402Collector(glance))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def _seconds(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _LABELS, buckets=buckets, registry=self.registry)

    def _bind(self, dialect: str, model: str, outcome: str, asset: str) -> _Bound:
        key = (OPERATIONS[dialect], model)
        return _Bound(
            jobs=self._jobs.labels(outcome),
            charged=self._charged.labels(asset),
            asked=self._tokens.labels(*key, "input"),
            made=self._tokens.labels(*key, "output"),
            duration=self._duration.labels(*key),
            first=self._first.labels(*key),
            per_token=self._per_token.labels(*key),
        )
