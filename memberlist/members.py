"""The member table and the rules by which it believes what it hears.

Every statement carries the incarnation of the member it is about, and only that member raises it; so any order of arrival ends
in the same table. The rules, for a known incarnation i and a heard one j:

    known, heard     alive j                      suspect j                    dead j
    alive i          j > i                        j >= i                       j >= i
    suspect i        j > i                        j >= i confirms              j >= i
    dead, left i     j > i, or address reclaim    never                        never

core.py feeds it messages, push_pull.py whole tables, probe.py its own accusations, judge.py its own declarations. It queues what
others must hear and returns what the application must hear. Refuses to send anything itself; what should go out without waiting
for gossip is kept for take_urgent().
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from memberlist import wire
from memberlist.awareness import Awareness
from memberlist.broadcast import BroadcastQueue
from memberlist.config import FLAT_UP_TO, Config, confirmations_needed, suspicion_min_s
from memberlist.effects import (
    Cause,
    Conflicted,
    Effect,
    Endpoint,
    Joined,
    Left,
    Member,
    Notify,
    Refuted,
    Suspected,
    Updated,
)
from memberlist.marker import marked, read_mark
from memberlist.messages import VERSIONS_LENGTH, Alive, Dead, Gossip, State, Suspect
from memberlist.suspicion import Suspicion

META_ACCEPTED_MAX: Final = 4096  # Go accepts any length; beyond this a statement could never be passed on.
_REPEAT_GAP_S: Final = 0.05  # between two repetitions of a refutation to one accuser
GONE: Final = frozenset({State.DEAD, State.LEFT})


@dataclass(slots=True)
class Record:
    """What is believed of one member. `address` is as it came over the wire; `since` is when the state last changed."""

    name: str
    address: bytes
    port: int
    meta: bytes
    versions: bytes
    incarnation: int
    state: State
    since: float
    suspicion: Suspicion | None = None
    endpoint: Endpoint = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = Endpoint.of(self.address, self.port)

    def protocol_max(self) -> int:
        """The highest protocol version the member understands."""
        return self.versions[1]

    def profile(self) -> str:
        """The profile that the member was given, "" for a foreign member."""
        return read_mark(self.meta)[0]

    def seen(self) -> Member:
        """Return the record as the application sees it."""
        profile, meta = read_mark(self.meta)
        return Member(self.name, self.endpoint.address, self.port, meta, self.state, self.incarnation, profile)


@dataclass(frozen=True, slots=True)
class Urgent:
    """A statement to be sent at once: to one member, or to all for None."""

    statement: Gossip
    to: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Vetoes:
    """What the application will not have: each returns why not, None for no objection. They must be quick and not raise.

    alive: asked before a statement about another member is believed. merge: asked with the other's members before the table of a
    join is taken in.
    """

    alive: Callable[[Member], str | None] = lambda _: None
    merge: Callable[[tuple[Member, ...]], str | None] = lambda _: None


NO_VETOES: Final = Vetoes()


class Members:
    """All known members, this one included, dead ones until they are forgotten.

    Owns: incarnations never fall (but for an address reclaim), a member has a running suspicion exactly when it is a suspect,
    and this member is alive in its own table until it leaves. check_invariants() says so.
    """

    def __init__(
        self, config: Config, port: int, queue: BroadcastQueue, awareness: Awareness, vetoes: Vetoes = NO_VETOES
    ) -> None:
        self._config = config
        self._vetoes = vetoes
        self._urgent: list[Urgent] = []
        self._repeated: dict[str, float] = {}
        self._refuted_at = -1.0
        self._endpoints: dict[Endpoint, Record] = {}
        self._endpoints_of = -1
        self.changes = 0  # Rises whenever a state, an address or metadata changes.
        self.refused: Counter[str] = Counter()  # Statements that were not believed though well-formed, by reason.
        self._queue = queue
        self._awareness = awareness
        self._leave_id: int | None = None
        self.generation = 0  # Rises whenever a name is added or forgotten.
        self.own = Record(
            name=config.name,
            address=config.advertised.packed,
            port=port,
            meta=marked(config.profile, config.meta),
            versions=config.versions,
            incarnation=1,
            state=State.ALIVE,
            since=0.0,
        )
        self._records = {config.name: self.own}
        self._suspects: dict[str, Record] = {}

    # What others ask of the table.

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def get(self, name: str) -> Record | None:
        """Return the record of a name, or None."""
        return self._records.get(name)

    def usable(self) -> tuple[Member, ...]:
        """Return who is alive or suspect, this member included, sorted by name."""
        return tuple(self._records[name].seen() for name in sorted(self._records) if self._records[name].state not in GONE)

    def knows(self, endpoint: Endpoint) -> bool:
        """Return whether a known member lives there."""
        return self.at(endpoint) is not None

    def at(self, endpoint: Endpoint) -> Record | None:
        """Return the member that lives there, or None."""
        if self._endpoints_of != self.changes:
            self._endpoints = {record.endpoint: record for record in self._records.values()}
            self._endpoints_of = self.changes
        return self._endpoints.get(endpoint)

    def suspects(self) -> tuple[Record, ...]:
        """Return who is suspected now."""
        return tuple(self._suspects.values())

    def alone(self) -> bool:
        """Return whether no other member is alive or suspect."""
        return all(record is self.own or record.state in GONE for record in self._records.values())

    def living(self) -> int:
        """Return how many are alive or suspect, this member included."""
        return sum(record.state not in GONE for record in self._records.values())

    @property
    def leaving(self) -> bool:
        """Whether this member said that it goes."""
        return self._leave_id is not None

    def leave_is_spread(self) -> bool:
        """Return whether the leave was sent often enough."""
        return self._leave_id is not None and self._leave_id not in self._queue

    def retune(self, config: Config) -> None:
        """Go by other numbers from now on; suspicions that run keep theirs."""
        self._config = config

    def take_urgent(self) -> list[Urgent]:
        """Return what is to be sent at once, each only once."""
        urgent, self._urgent = self._urgent, []
        return urgent

    # What this member says of itself.

    def announce(self) -> None:
        """Tell the others that this member is alive; called once at start."""
        self._tell(self.own_alive())

    def own_alive(self) -> Alive:
        """Return the statement that this member is alive."""
        own = self.own
        return Alive(own.incarnation, own.name, own.address, own.port, own.meta, own.versions)

    def set_meta(self, meta: bytes) -> None:
        """Gossip other metadata under a new incarnation."""
        self.own.meta = marked(self._config.profile, meta)
        self.own.incarnation += 1
        self.changes += 1
        self._tell(self.own_alive())

    def leave(self, now: float) -> None:
        """Tell the others that this member goes; a second call changes nothing."""
        if self._leave_id is None:
            self.own.state, self.own.since = State.LEFT, now
            self._leave_id = self._tell(Dead(self.own.incarnation, self.own.name, self.own.name))
            self.changes += 1

    def _refute(self, accused_incarnation: int, accuser: str, now: float) -> None:
        """Answer a wrong statement about this member with a higher incarnation (SWIM §4.2).

        Who makes up accusations gets no more than 20 refutations a second sent to everybody; gossip carries the others.
        """
        self.own.incarnation = max(self.own.incarnation, accused_incarnation) + 1
        self._awareness.adjust(1)
        if now - self._refuted_at < _REPEAT_GAP_S:
            self._tell(self.own_alive())
            return
        self._refuted_at = now
        self._tell_at_once(self.own_alive())
        if len(self) > FLAT_UP_TO:
            self._tell_accuser(accuser)

    def _refute_again(self, accuser: str, now: float) -> None:
        """Repeat the refutation to a member that has not heard it yet, at most 20 times a second."""
        if self._config.measures.direct_sends and now - self._repeated.get(accuser, now - 1) >= _REPEAT_GAP_S:
            self._repeated = {name: at for name, at in self._repeated.items() if now - at < _REPEAT_GAP_S} | {accuser: now}
            self._tell_accuser(accuser)

    def _tell_accuser(self, accuser: str) -> None:
        record = self._records.get(accuser)
        if record is not None and record is not self.own and self._config.measures.direct_sends:
            self._urgent.append(Urgent(self.own_alive(), record.endpoint))

    def _tell(self, statement: Gossip) -> int:
        return self._queue.enqueue(statement.node, wire.encode(statement))

    def _tell_at_once(self, statement: Gossip) -> None:
        """Queue what this member itself has found out, and send it to everybody where that is a measure."""
        self._tell(statement)
        if self._config.measures.direct_sends and len(self) <= FLAT_UP_TO:
            self._urgent.append(Urgent(statement))

    # What this member hears.

    def alive(self, heard: Alive, now: float) -> list[Effect]:
        """Believe an alive statement, refuse it, or refute it when it is about this member and wrong."""
        if heard.node == self._config.name and self.leaving:
            return []
        if not _acceptable(heard):
            self.refused["malformed"] += 1
            return []
        record = self._records.get(heard.node)
        moved = record is None or (record.address, record.port) != (heard.address, heard.port)
        if record is not self.own and (why_not := self._objection(heard, record, moved=moved)):
            self.refused[why_not] += 1
            return []
        if record is None:
            return self._add(heard, now)
        if moved and not self._may_move(record, now):
            return [Notify(Conflicted(record.seen(), Endpoint.of(heard.address, heard.port)))]
        if record is self.own:
            same = (heard.incarnation, heard.meta, heard.versions) == (record.incarnation, record.meta, record.versions)
            if heard.incarnation >= record.incarnation and not same:
                self._refute(heard.incarnation, "", now)
            return []
        if heard.incarnation <= record.incarnation and not moved:
            return []
        was, old_meta = record.state, record.meta
        self.changes += was is not State.ALIVE or moved or old_meta != heard.meta
        self._clear_suspicion(record)
        self._tell(heard)
        record.incarnation, record.meta, record.versions = heard.incarnation, heard.meta, heard.versions
        if moved:
            record.address, record.port = heard.address, heard.port
            record.endpoint = Endpoint.of(heard.address, heard.port)
        if was is not State.ALIVE:
            record.state, record.since = State.ALIVE, now
        if was in GONE:
            return [Notify(Joined(record.seen()))]
        effects: list[Effect] = [Notify(Refuted(record.seen()))] if was is State.SUSPECT else []
        if old_meta != record.meta:
            effects.append(Notify(Updated(record.seen())))
        return effects

    def _objection(self, heard: Alive, record: Record | None, *, moved: bool) -> str | None:
        """Return in a word why a member is not to be believed that it is there, None when it is."""
        address = Endpoint.of(heard.address, heard.port).address
        if moved and not self._config.allows(address):
            return "network"
        if record is None and len(self._records) >= self._config.members_max:
            return "too many members"
        profile, meta = read_mark(heard.meta)
        claimed = Member(heard.node, address, heard.port, meta, State.ALIVE, heard.incarnation, profile)
        return None if self._vetoes.alive(claimed) is None else "veto"

    def objection_to_join(self, members: tuple[Member, ...]) -> str | None:
        """Return why the application will not have these members join, None when it will."""
        return self._vetoes.merge(members)

    def _add(self, heard: Alive, now: float) -> list[Effect]:
        record = Record(heard.node, heard.address, heard.port, heard.meta, heard.versions, heard.incarnation, State.ALIVE, now)
        self._records[heard.node] = record
        self.generation += 1
        self.changes += 1
        self._tell(heard)
        return [Notify(Joined(record.seen()))]

    def _may_move(self, record: Record, now: float) -> bool:
        """Return whether the name is free for another address: its holder left, or is dead for long enough."""
        patience_s = self._config.dead_reclaim_s
        return record.state is State.LEFT or (record.state is State.DEAD and 0 < patience_s < now - record.since)

    def suspect(self, heard: Suspect, now: float) -> list[Effect]:
        """Start a suspicion, count a confirmation, or refute."""
        record = self._records.get(heard.node)
        if record is None:
            return []
        if heard.incarnation < record.incarnation:
            if record is self.own and not self.leaving:
                self._refute_again(heard.accuser, now)
            return []
        first_hand = heard.accuser == self._config.name
        if record.suspicion is not None:
            record.suspicion.first_hand |= first_hand
            if record.suspicion.confirm(heard.accuser, now):
                (self._tell_at_once if first_hand else self._tell)(heard)
            return []
        if record.state is not State.ALIVE:
            return []
        if record is self.own:
            self._refute(heard.incarnation, heard.accuser, now)
            return []
        self._tell(heard)
        record.incarnation, record.state, record.since = heard.incarnation, State.SUSPECT, now
        minimum_s = suspicion_min_s(self._config, len(self))
        living = self.living()
        record.suspicion = Suspicion(
            heard.accuser,
            needed=confirmations_needed(self._config, living),
            minimum_s=minimum_s,
            maximum_s=minimum_s * self._config.suspicion_max_mult,
            window_s=self._config.measures.refutation_s,
            quorum=2 if living > 2 else 1,
            now=now,
        )
        record.suspicion.first_hand = first_hand
        self._suspects[record.name] = record
        self.changes += 1
        return [Notify(Suspected(record.seen(), heard.accuser))]

    def dead(self, heard: Dead, now: float) -> list[Effect]:
        """Believe at once that a member is gone, whoever says so, or refute."""
        record = self._records.get(heard.node)
        if record is None or record.state in GONE:
            return []
        if heard.incarnation < record.incarnation:
            if record is self.own:
                self._refute_again(heard.accuser, now)
            return []
        if record is self.own:
            self._refute(heard.incarnation, heard.accuser, now)
            return []
        self._clear_suspicion(record)
        self._tell(heard)
        left = heard.accuser == heard.node
        record.incarnation, record.since = heard.incarnation, now
        record.state = State.LEFT if left else State.DEAD
        self.changes += 1
        return [Notify(Left(record.seen(), Cause.LEFT if left else Cause.FAILED, heard.accuser))]

    def accuse(self, record: Record, now: float) -> list[Effect]:
        """Suspect a member because it did not answer this one, and say so to everybody where that is a measure."""
        accusation = Suspect(record.incarnation, record.name, self._config.name)
        new = record.suspicion is None
        effects = self.suspect(accusation, now)
        if new and record.suspicion is not None and self._config.measures.direct_sends and len(self) <= FLAT_UP_TO:
            self._urgent.append(Urgent(accusation))
        return effects

    def declare(self, record: Record, now: float) -> list[Effect]:
        """Declare a suspect dead because it did not refute in time, and say so to everybody where that is a measure."""
        assert record.state is State.SUSPECT
        verdict = Dead(record.incarnation, record.name, self._config.name)
        if self._config.measures.direct_sends and len(self) <= FLAT_UP_TO:
            self._urgent.append(Urgent(verdict))
        return self.dead(verdict, now)

    def forget_the_dead(self, now: float) -> None:
        """Drop who is dead or left for longer than gossip_to_the_dead_s."""
        patience_s = self._config.gossip_to_the_dead_s
        forgotten = [r.name for r in self if r is not self.own and r.state in GONE and now - r.since > patience_s]
        for name in forgotten:
            del self._records[name]
        self.generation += bool(forgotten)
        self.changes += bool(forgotten)

    def _clear_suspicion(self, record: Record) -> None:
        record.suspicion = None
        self._suspects.pop(record.name, None)

    def check_invariants(self) -> None:
        """Assert what this class promises."""
        assert self._records[self.own.name] is self.own
        assert self.own.state is (State.LEFT if self.leaving else State.ALIVE)
        for record in self:
            assert (record.state is State.SUSPECT) == (record.suspicion is not None) == (record.name in self._suspects)
            assert record.incarnation > 0
            assert len(record.versions) == VERSIONS_LENGTH


def _acceptable(heard: Alive) -> bool:
    """Return whether an alive statement is one a member could have made.

    Six version bytes are demanded although Go takes fewer: a member without them makes every later exchange of tables fail
    there, and three of them crash the version that MetalLB ships. Such statements are neither believed nor passed on.
    """
    versions = heard.versions
    return (
        len(versions) == VERSIONS_LENGTH
        and 0 < versions[0] <= versions[1]
        and heard.incarnation > 0
        and heard.node != ""
        and len(heard.address) in {4, 16}
        and len(heard.meta) <= META_ACCEPTED_MAX
    )
