"""Random faults on a ring, drawn from one seed: what nobody would think of writing down as a test.

`chaos` runs a ring through a few dozen faults that overlap, then makes everything whole and demands that all living members
agree within a bound. The rules of checks.py hold at every step on the way. A failure says which command runs it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from memberlist import push_pull
from memberlist.config import suspicion_min_s
from memberlist.effects import Join
from tests.simulation.checks import Breach
from tests.simulation.network import Power
from tests.simulation.profiles import configure
from tests.simulation.ring import Node, Ring

REJOIN_S: Final = 5.0  # The application dials whom it misses, as the speaker does for the pods that it knows.
_KEY: Final = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of chaos came to."""

    seed: int
    n: int
    profile: str
    faults: tuple[str, ...]
    steps: int
    settled_after_s: float
    wrong_deaths: int
    digest: str


def command(profile: str, n: int, seed: int) -> str:
    """Return the command that runs the same again."""
    return f"python -m tests.simulation chaos --profile {profile} --n {n} --seed {seed}"


def chaos(profile: str, n: int, seed: int, *, seconds: float = 60.0) -> Outcome:
    """Run one ring through random faults; Breach when a rule is broken or the survivors do not agree in time."""
    try:
        return _chaos(profile, n, seed, seconds)
    except AssertionError as breach:
        raise Breach(f"{breach}\nrun it again with: {command(profile, n, seed)}") from breach


def _chaos(profile: str, n: int, seed: int, seconds: float) -> Outcome:
    chance = random.Random(f"{profile} {n} {seed}")  # noqa: S311  (repeatable on purpose)
    ring = Ring(n, seed=chance.getrandbits(64), key=_KEY if seed % 2 else None, configure=configure(profile))
    for node in ring.nodes.values():
        _rejoin(ring, node.name)
    ring.run(3.0)
    done: list[str] = []
    end = ring.now + seconds
    while ring.now < end:
        ring.run(chance.random() * 5.0)
        fault = chance.choice(_FAULTS)
        done.append(f"{ring.now:.3f} {fault.__name__.strip('_')} {fault(ring, chance)}")
    healed = ring.now
    _make_whole(ring)
    bound_s = _bound_s(ring)
    if not ring.run_until(ring.agreed, within_s=bound_s):
        tables = "\n".join(f"  {node.name}: {node.table()}" for node in ring.living())
        raise Breach(f"no agreement {bound_s:.0f} s after the last of {len(done)} faults:\n" + "\n".join(done) + "\n" + tables)
    settled_after_s = ring.now - healed
    assert ring.checker is not None
    return Outcome(seed, n, profile, tuple(done), ring.checker.steps, settled_after_s, len(ring.wrong_deaths), ring.digest())


def _bound_s(ring: Ring) -> float:
    """Two exchanges of tables and the longest suspicion, and once the application's patience."""
    config = next(iter(ring.nodes.values())).core.members._config
    size = len(ring.nodes)
    exchange_s = push_pull.interval_s(config.push_pull_interval_s, size)
    return 2 * exchange_s + config.suspicion_max_mult * suspicion_min_s(config, size) + 2 * REJOIN_S + config.stream_timeout_s


def _rejoin(ring: Ring, name: str) -> None:
    """Dial, now and then, one member that is missed: what an application does that knows who should be there."""
    node = ring.nodes[name]
    if node.power is Power.ON and not node.core.members.leaving:
        present = {member.name for member in node.core.members.usable()}
        for other in ring.nodes.values():
            if other.name not in present and other.power is not Power.HOST_GONE:
                node.joins += 1
                ring.give(node, Join(node.joins, other.endpoint))
                break
    ring.clock.after(REJOIN_S, _rejoin, ring, name)


def _make_whole(ring: Ring) -> None:
    ring.heal()
    for name, node in list(ring.nodes.items()):
        node.slow_s = 0.0
        if node.power in {Power.PROCESS_KILLED, Power.HOST_GONE} or node.core.members.leaving:
            ring.kill(name, Power.PROCESS_KILLED)
            ring.restart(name)
    ring.run(6.0)  # The longest stall that may still be going on.
    ring.heal()


# The faults: each does something at once, and may undo it later. They return what they did, for the report.


def _living(ring: Ring, chance: random.Random) -> Node:
    return chance.choice(ring.living() or list(ring.nodes.values()))


def _two(ring: Ring, chance: random.Random) -> tuple[str, str]:
    a, b = chance.sample(sorted(ring.nodes), 2)
    return a, b


def _crash(ring: Ring, chance: random.Random) -> str:
    node, power = _living(ring, chance), chance.choice([Power.PROCESS_KILLED, Power.HOST_GONE])
    ring.kill(node.name, power)
    back_s = chance.random() * 30

    def restart() -> None:
        if ring.nodes[node.name] is node:
            ring.restart(node.name)

    ring.clock.after(back_s, restart)
    return f"{node.name} {power.name} for {back_s:.1f} s"


def _stop(ring: Ring, chance: random.Random) -> str:
    node, seconds = _living(ring, chance), chance.choice([0.2, 0.5, 1.0, 2.0, 5.0])
    ring.stall(node.name, seconds)
    return f"{node.name} for {seconds} s"


def _pause(ring: Ring, chance: random.Random) -> str:
    node, seconds = _living(ring, chance), chance.choice([0.5, 2.0, 5.0])
    ring.freeze(node.name, seconds)
    return f"{node.name} for {seconds} s"


def _slow(ring: Ring, chance: random.Random) -> str:
    node, slow_s = _living(ring, chance), chance.choice([0.0, 0.0005, 0.002])
    node.slow_s = slow_s
    return f"{node.name} takes {slow_s} s for everything"


def _pull(ring: Ring, chance: random.Random) -> str:
    node, seconds = _living(ring, chance), chance.random() * 15
    node.cable = False

    def plug() -> None:
        node.cable = True

    ring.clock.after(seconds, plug)
    return f"{node.name} for {seconds:.1f} s"


def _split(ring: Ring, chance: random.Random) -> str:
    names = sorted(ring.nodes)
    chance.shuffle(names)
    cut = chance.randrange(1, len(names))
    ring.partition(names[:cut], names[cut:])
    ring.clock.after(chance.random() * 20, ring.network.reset_links)
    return f"{names[:cut]} from {names[cut:]}"


def _one_way(ring: Ring, chance: random.Random) -> str:
    a, b = _two(ring, chance)
    ring.link(a, b, cut=True)
    return f"nothing from {a} to {b}"


def _bad_link(ring: Ring, chance: random.Random) -> str:
    a, b = _two(ring, chance)
    loss, duplicate, reorder = chance.random() * 0.6, chance.random() * 0.5, chance.random() * 0.5
    ring.link(a, b, loss=loss, duplicate=duplicate, reorder=reorder, jitter_s=chance.random() * 0.02)
    return f"{a} to {b} loses {loss:.2f}, doubles {duplicate:.2f}, reorders {reorder:.2f}"


def _bad_weather(ring: Ring, chance: random.Random) -> str:
    loss = chance.choice([0.0, 0.05, 0.2])
    for a in ring.nodes:
        for b in ring.nodes:
            if a != b:
                ring.link(a, b, loss=loss, duplicate=0.02, reorder=0.05)
    return f"all links lose {loss}"


def _good_weather(ring: Ring, _chance: random.Random) -> str:
    ring.heal()
    return ""


def _farewell(ring: Ring, chance: random.Random) -> str:
    node = _living(ring, chance)
    ring.leave(node.name)

    def restart() -> None:
        if ring.nodes[node.name] is node:
            ring.restart(node.name)

    ring.clock.after(2.0 + chance.random() * 20, restart)
    return node.name


_FAULTS: Final[list[Callable[[Ring, random.Random], str]]] = [
    _crash,
    _stop,
    _pause,
    _slow,
    _pull,
    _split,
    _one_way,
    _bad_link,
    _bad_weather,
    _good_weather,
    _farewell,
]
