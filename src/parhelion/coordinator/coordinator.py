"""The coordinator: owner of nodes, queue and running answers, in one event loop, by events only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from parhelion.config import Config
from parhelion.coordinator.affinity import Affinity
from parhelion.coordinator.answer import Answer, Replayed
from parhelion.coordinator.console import Console
from parhelion.coordinator.console_sights import sights_of
from parhelion.coordinator.feed import NodeFeed
from parhelion.coordinator.gauges import show_pipelines, show_pool
from parhelion.coordinator.joiners import ANSWERED, Joiners
from parhelion.coordinator.joining import Door
from parhelion.coordinator.journal import Journal
from parhelion.coordinator.metrics import Metrics
from parhelion.coordinator.news import News
from parhelion.coordinator.node_views import model_states, node_view
from parhelion.coordinator.pipeline_views import pipeline_views, stages_of_nodes
from parhelion.coordinator.pipelines import Pipelines
from parhelion.coordinator.place import Places
from parhelion.coordinator.plan_view import PlanBook, PlanView
from parhelion.coordinator.prober import Prober
from parhelion.coordinator.queue import Queue
from parhelion.coordinator.recovery import recover
from parhelion.coordinator.registry import Member, Node, Registry, check_card
from parhelion.coordinator.relaying import Relays
from parhelion.coordinator.roster import Roster
from parhelion.coordinator.serve import Service, Tokeniser, draining
from parhelion.coordinator.session import NodeSession, Session, say_goodbye
from parhelion.coordinator.settle import Settler
from parhelion.coordinator.stage_orders import Orders
from parhelion.coordinator.sweeper import Sweeper
from parhelion.coordinator.tags import SECRET_BYTES
from parhelion.coordinator.views import Health, NodeView, PipelineView, StageView, StateMark
from parhelion.coordinator.workshop import Workshop
from parhelion.identity import Entropy, FetchTokens, NodeAccess, NodeKey, Whence, node_name
from parhelion.ledger import Ledger
from parhelion.link import Carrier, FromNode, Knock, LinkBroken
from parhelion.models import Catalogue, SliceBook
from parhelion.payments import Gate
from parhelion.proof import Receipts
from parhelion.words import Ask, AssetClass, Clock, Credentials, Problem, ProblemCode

log = logging.getLogger("parhelion.coordinator")

SWEEPS_PER_HEARTBEAT = 4
"""A node silent for `gone_s` is out of dispatch at most half a second later."""

LAST_SETTLING_S = 5.0
"""After the drain: a signature's 2 s, a commit, and room."""

EPOCH_BYTES = 4
"""Tells this process's event ids from an earlier one's; nothing secret."""

REFUSALS = frozenset({ProblemCode.LINK_REFUSED, ProblemCode.FORBIDDEN})
"""What makes a node refused and not merely gone: it is not let in again by trying."""

GOODBYES_S = 1.0
"""One frame to each node; who does not take it sees a closed socket instead."""


class Coordinator:
    """One pool: nodes attend, asks are served. `need` nodes are waited for once, at the start.

    `fallback` is the peer id of the pool's own engine, which serves when no node can; `own` are
    nodes on the operator's own machine. Strangers are compared with both.
    """

    def __init__(
        self,
        *,
        config: Config,
        clock: Clock,
        entropy: Entropy,
        key: NodeKey,
        catalogue: Catalogue,
        tokeniser: Tokeniser,
        gate: Gate,
        ledger: Ledger,
        receipts: Receipts,
        access: NodeAccess,
        metrics: Metrics,
        need: int = 1,
        fallback: str | None = None,
        own: Collection[str] = (),
        slices: SliceBook | None = None,
        fetch_tokens: FetchTokens | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._key = key
        self._catalogue = catalogue
        self._gate = gate
        self._ledger = ledger
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._visits: set[asyncio.Task[object]] = set()
        self._news = News()
        self._plans = PlanBook(clock)
        self.registry = Registry(config.nodes, need, self._nodes_changed)
        self.registry.on_leave = self._remember
        self._roster = Roster(clock)
        self.joiners = Joiners(config.nodes, clock, self._roster, self.is_here, fallback)
        self.registry.on_state = self._roster.seen
        self.feed = NodeFeed(self.known_nodes, entropy(EPOCH_BYTES).hex(), self.pipeline_views)
        queue = Queue(config.limits.queue_length, config.limits.queue_per_account)
        self.places = Places(self.registry, queue, clock, self._move)
        self.journal = Journal(ledger)
        self.door = Door(access, self._knows, clock, config.nodes.heartbeat_s, fallback, own)
        self._affinity = Affinity()
        self.relays = Relays(clock, entropy)
        money = config.money.asset_class
        settler = Settler(
            ledger=ledger, receipts=receipts, gate=gate, key=key, clock=clock, asset_class=money
        )
        self.service = Service(
            catalogue=catalogue,
            tokeniser=tokeniser,
            gate=gate,
            receipts=receipts,
            registry=self.registry,
            places=self.places,
            settler=settler,
            journal=self.journal,
            metrics=metrics,
            clock=clock,
            entropy=entropy,
            resume_wait_s=config.nodes.resume_wait_s,
            names=(self.registry.names, self._roster.names),
            affinity=self._affinity,
        )
        self.prober = self._make_prober(
            tokeniser, entropy, (*own, *([fallback] if fallback else ()))
        )
        self.pipelines = self._make_pipelines(slices, fetch_tokens, entropy)
        self.sweeper = Sweeper(ledger, gate, self.service.holds)
        self.console = Console(metrics.traffic, sights_of(self, catalogue), clock)
        self._show(metrics)

    def _make_prober(self, tokeniser: Tokeniser, entropy: Entropy, own: Collection[str]) -> Prober:
        return Prober(
            registry=self.registry,
            catalogue=self._catalogue,
            tokeniser=tokeniser,
            clock=self._clock,
            entropy=entropy,
            own=own,
            places=self.places,
            enabled=self._config.nodes.probe,
        )

    def _make_pipelines(
        self, slices: SliceBook | None, tokens: FetchTokens | None, entropy: Entropy
    ) -> Pipelines | None:
        """Who makes pipelines; None where nothing can be cut."""
        if slices is None or tokens is None:
            return None
        workshop = Workshop(
            orders=Orders(self.relays, self._clock),
            registry=self.registry,
            catalogue=self._catalogue,
            slices=slices,
            tokens=tokens,
            config=self._config.pipelines,
            clock=self._clock,
            secret=entropy(SECRET_BYTES),
            meet=self.prober.meet,
        )
        pipelines = Pipelines(workshop, self.feed.touch)
        self.places.why, self.places.comes = pipelines.why_not, pipelines.is_coming
        self.places.on_want, pipelines.on_planned = pipelines.hurry, self.places.plan_changed
        return pipelines

    async def start(self) -> None:
        """Close what an earlier process left open, then begin to watch nodes and to journal."""
        await recover(self._ledger, self._gate)
        self.joiners.on_change = self.feed.touch
        self._tasks = [
            asyncio.create_task(self.prober.run(), name="prober"),
            asyncio.create_task(self._sweep(), name="sweep"),
            asyncio.create_task(self.journal.run(), name="journal"),
            asyncio.create_task(self.sweeper.run(), name="sweeper"),
            asyncio.create_task(self.console.run(), name="console"),
        ]
        if self.pipelines is not None:
            self._tasks.append(asyncio.create_task(self.pipelines.run(), name="pipelines"))

    async def serve(self, ask: Ask, credentials: Credentials) -> Answer | Replayed:
        """The answer to an ask, once its job is open at a node; a Problem before costs nothing.

        Cancel the call, or `disconnect` the answer, when the client leaves.
        """
        return await self.service.serve(ask, credentials)

    async def attend(
        self,
        carrier: Carrier[FromNode],
        whence: Whence = "far",
        *,
        site: str = "",
        joined: Callable[[], None] = lambda: None,
    ) -> None:
        """One node's session, from its registration to its end.

        `site` is where it comes from (identity.site_of); `joined` is called once it is a member.
        """
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.add(visit)
        try:
            came = await self._register(carrier, whence, site)
            if isinstance(came, Node):
                joined()
                await self._serve_node(carrier, came)
            elif came is not None:
                await self.joiners.attend(carrier, came.stay, site, joined)
        finally:
            self._visits.discard(visit)

    async def _register(
        self, carrier: Carrier[FromNode], whence: Whence, site: str
    ) -> Node | Knock | None:
        """The node that may come in, or its knock; None when it was told why not, or left."""
        try:
            if self._stopping:
                raise draining()
            return await self.door.register(carrier, self._key.peer, whence, site)
        except Problem as refusal:
            # Who is told to come later asks again every few seconds: that is no news.
            level = logging.DEBUG if refusal.code is ProblemCode.DRAINING else logging.WARNING
            log.log(level, "node refused: %s", refusal.message, extra={"node": carrier.peer})
            is_kept_out = refusal.code in REFUSALS or self.door.is_drained(carrier.peer)
            if is_kept_out and self.registry.member(carrier.peer) is None:
                self._roster.refused(carrier.peer, refusal.message, self.name_of(carrier.peer))
                self.feed.touch()
            await say_goodbye(carrier, refusal)
            return None
        except LinkBroken as broken:
            log.info("node left while joining: %s", broken, extra={"node": carrier.peer})
            return None

    async def _serve_node(self, carrier: Carrier[FromNode], node: Node) -> None:
        session = NodeSession(carrier, node, self.registry, self._clock)
        log.info("node joined", extra={"node": node.peer, "slots": node.slots})
        # A process that comes back has an empty cache, also when its old session ends only now.
        self._affinity.forget(node.peer)
        self._roster.came(node.peer)
        self.prober.meet(node)
        if self.pipelines is not None:
            session.on_stage = self.pipelines.hear
        before = self.registry.member(node.peer)
        self.registry.enter(session)
        self.joiners.end(node.peer, ANSWERED)
        if self.pipelines is not None and isinstance(before, NodeSession):
            # The registry tells of nobody who was replaced; what it held is another session's now.
            self.pipelines.left(before)
        await session.run()

    def _remember(self, member: Member) -> None:
        """A node is here no more: it is shown as gone or refused for a while."""
        node, cause = member.node, member.cause
        self._affinity.forget(node.peer)
        self.prober.forget(node)
        if self.pipelines is not None:
            self.pipelines.left(member)
        if node.stages:
            return  # A pipeline: its nodes are shown by themselves.
        self.relays.withdraw_node(node.peer, "a node left")
        reason = "the session ended" if cause is None else cause.message
        self._roster.left(self._view(node), reason)
        if cause is not None and cause.code in REFUSALS:
            self._roster.refused(node.peer, reason)

    def expel(self, peer: str, reason: str) -> None:
        """End a node's session at once (it was banned); its jobs go elsewhere."""
        self.joiners.end(peer, Problem(ProblemCode.LINK_REFUSED, reason))
        member = self.registry.member(peer)
        if member is not None:
            member.end(ProblemCode.LINK_REFUSED, reason, "ask the pool's owner")

    def send_away(self, peer: str, reason: str, deadline_s: float) -> None:
        """Drain a node, if it is here: nothing new, and at the deadline its jobs go elsewhere."""
        self.joiners.end(peer, Problem(ProblemCode.DRAINING, reason))
        member = self.registry.member(peer)
        if isinstance(member, NodeSession):
            member.send_away(reason, deadline_s)

    def pardon(self, peer: str) -> None:
        """A node may join again: it is not shown as refused until it asks."""
        self._roster.pardoned(peer)
        self.feed.touch()

    def health(self) -> Health:
        """Whether a prompt that names no model would be served now, by the default one."""
        models = self._catalogue.models()
        if self.service.draining:
            status = "draining"
        else:
            served = bool(models) and self._is_served(models[0].card.digest)
            status = "ready" if served and self.takes_prompts() else "waiting"
        return Health(
            status=status,
            model=models[0].card.id if models else None,
            nodes=self.registry.ready_count(),
            need=self.registry.need,
            local=self._config.money.asset_class is AssetClass.LOCAL,
        )

    def takes_prompts(self) -> bool:
        """Whether a prompt for a model that some ready node serves would be served now."""
        return self.registry.complete() and not self.service.draining

    def nodes(self) -> tuple[NodeView, ...]:
        """Every connected node."""
        held = stages_of_nodes(self.pipeline_views())
        return tuple(
            self._view(node, held.get(node.peer, ()))
            for node in self.registry.nodes()
            if not node.stages
        )

    def servers(self) -> Mapping[str, int]:
        """How many nodes serve each model now, by its id; of a pipeline all that hold a stage."""
        found: Counter[str] = Counter()
        for node in self.registry.nodes():
            if node.state == "ready":
                for one in model_states(node, self._catalogue):
                    found[one.model] += (len(node.stages) or 1) if one.state == "ready" else 0
        return found

    def pipeline_views(self) -> tuple[PipelineView, ...]:
        """Every pipeline, also one that is not up."""
        if self.pipelines is None or not self.pipelines.deployments:
            return ()
        return pipeline_views(self.pipelines, self.registry, self._catalogue, self.name_of)

    async def plan(self) -> PlanView:
        """Which node holds which layers, and why; an empty plan where nothing can be cut."""
        if self.pipelines is None:
            return PlanView()
        return await self._plans.view(self.pipelines.seen)

    def known_nodes(self) -> tuple[NodeView, ...]:
        """Connected nodes, those that load, and who left or was refused a short while ago."""
        return (*self.nodes(), *self.joiners.shown(), *self.joiners.away())

    def node(self, peer: str) -> NodeView | None:
        """One node as it is, or as it was last; None for one that is not known."""
        member = self.registry.member(peer)
        if member is None or member.node.stages:
            return self.joiners.view(peer) or self._roster.last(peer)
        held = stages_of_nodes(self.pipeline_views())
        return self._view(member.node, held.get(peer, ()))

    def states_of(self, peer: str) -> tuple[StateMark, ...]:
        """The states that a node came into, the latest first."""
        return self._roster.states.of(peer)

    def name_of(self, peer: str) -> str:
        """What a node is called: as it was last shown, as it was called when something was decided
        of it, or else by the name made from its key."""
        here, gone = self.registry.names.name_of(peer), self._roster.names.name_of(peer)
        return here or gone or self.door.name_of(peer) or node_name(peer)

    def is_here(self, peer: str) -> bool:
        """Whether a node is connected."""
        return self.registry.member(peer) is not None

    def catalogue_changed(self) -> None:
        """A model is new: nodes that offered it all along serve it from now on, also its layers.

        Or one is gone: who holds its layers lets go of them when its streams have ended.
        """
        if self.pipelines is not None:
            self.pipelines.touch()
        for node in list(self.registry.nodes()):
            try:
                offered = check_card(node.card, node.peer, self._knows)
            except Problem:
                continue  # All that it offered was removed; it waits, as the rest of its session.
            fresh = {digest: offered[digest] for digest in offered.keys() - node.rooms.keys()}
            if fresh:
                log.info("node serves more", extra={"node": node.peer, "digests": list(fresh)})
                self.prober.meet_models(node, fresh)
                self.registry.widen(node, fresh)

    def want(self, nodes: int) -> None:
        """Wait for so many nodes from now on; a pool that has had its nodes goes on serving."""
        self.registry.want(nodes)

    def why_not(self, model: str) -> str | None:
        """Why nobody serves a model, where more is known than that."""
        return self.places.why(self._catalogue.resolve(model).card.digest)

    def watch_nodes(self, look: Callable[[], None]) -> None:
        """Call `look` after nodes came, went or changed their state; for good."""
        self._news.watch(look)

    async def drain(self, deadline_s: float) -> None:
        """Take nothing new; let running answers end, cut what is left after the deadline."""
        service = self.service
        service.draining = True
        self.places.refuse_all(draining)
        if service.live:
            log.info("draining", extra={"answers": len(service.live)})
            await asyncio.wait(list(service.live), timeout=deadline_s)
        for relay in list(service.live.values()):
            if relay is not None:
                relay.interrupt(draining())
        if service.live:
            await asyncio.wait(list(service.live), timeout=LAST_SETTLING_S)

    async def stop(self) -> None:
        """End everything; what could not be settled is left to the next start's recovery."""
        if self.service.live or not self.service.draining:
            await self.drain(0.0)
        self._stopping = True
        self.feed.close()
        self.console.close()
        self._news.close()
        for member in self.registry.members():
            member.end(ProblemCode.DRAINING, "the coordinator is stopping", "it may be back soon")
        self.joiners.end_all(Problem(ProblemCode.DRAINING, "the coordinator is stopping"))
        for task in [*self._tasks, *self.service.live]:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, *self.service.live, return_exceptions=True)
        self._tasks = []
        if self._visits:
            # The nodes hear why, and that it may pass, before their sockets close.
            await asyncio.wait(self._visits, timeout=GOODBYES_S)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._config.nodes.heartbeat_s / SWEEPS_PER_HEARTBEAT
        while True:
            slept_from_s = loop.time()
            await asyncio.sleep(interval_s)
            # While this process was stopped or busy nobody listened: that silence was not theirs.
            late_s = max(0.0, loop.time() - slept_from_s - interval_s)
            self.registry.forgive(late_s)
            if self.pipelines is not None:
                self.pipelines.sweep()
            try:
                self.registry.sweep(self._clock.monotonic_s())
                self.joiners.sweep(self._clock.monotonic_s(), late_s)
            except Exception:
                # One node's end must not keep the others from being watched.
                log.exception("sweep failed")

    def _nodes_changed(self) -> None:
        self.places.nodes_changed()
        self.feed.touch()
        self._news.touch(self.registry.version)
        if self.pipelines is not None:
            self.pipelines.touch(self.registry.version)

    def _move(self, node: Node, digest: str) -> None:
        """Take a model's jobs from a node, to go on elsewhere."""
        member = self.registry.member(node.peer)
        if isinstance(member, Session):
            member.move(digest)

    def _knows(self, digest: str) -> bool:
        return self._catalogue.by_digest(digest) is not None

    def _is_served(self, digest: str) -> bool:
        nodes = self.registry.nodes()
        return any(
            digest in node.rooms and node.rooms[digest].standing()[0] == "ready"
            for node in nodes
            if node.state == "ready"
        )

    def _view(self, node: Node, stages: tuple[StageView, ...] = ()) -> NodeView:
        refusal = None if self.pipelines is None else self.pipelines.refusal(node.peer)
        return node_view(node, model_states(node, self._catalogue), stages, refusal)

    def _show(self, metrics: Metrics) -> None:
        show_pool(
            metrics,
            registry=self.registry,
            joining=lambda: self.door.joining + len(self.joiners.shown()),
            places=self.places,
            service=self.service,
            journal=self.journal,
        )
        if self.pipelines is not None:
            show_pipelines(metrics, self.pipelines, self.relays)
