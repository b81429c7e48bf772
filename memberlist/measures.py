"""What a member does beyond hashicorp/memberlist's algorithm to find out sooner and to accuse less often, as data.

Every measure changes only when and whom this member asks, and when it speaks: the messages mean what they always meant, so
Go members notice nothing. All are off by default; profiles.py says which profile has which. Read by the parts of the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROFILE_NAMES: Final = ("compat", "balanced", "fast", "subsecond", "ring")
"""From slow to fast. A member says in its metadata which of them it was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Which measures are in effect.

    loop_guard: a probe or check that overlapped a stall of this very process proves nothing (lag.py).
    evidence_hold: a suspect that was heard since is asked once more before it is declared dead (suspicion.py).
    direct_sends: suspicions, refutations and deaths go to every member at once in rings of at most 100 (members.py).
    proven_nacks: a relay's silence counts against this member only if that relay was heard before (probe.py).
    retry: a second ping at half the timeout (probe.py).
    adaptive_timeout: the timeout follows each member's round trip time (rtt.py).
    probe_on_rumour: who hears of a suspicion asks the suspect itself, five members in expectation (probe.py).
    kernel_check: the suspect's kernel is asked before the suspect is declared dead (judge.py).
    flat_log: the suspicion does not grow with the ring below 100 members (config.py).
    successor_turns: every second turn goes to the member's successor on the circle (watch.py), so that nobody waits for its first
        probe longer than two intervals, which chance would have it do in a large ring.
    loss_fall_back: on a lossy network the member slows down to `balanced` (loss.py).
    watchers: how many successors each member watches at watch_interval_s, 0 for none (watch.py).
    refutation_s: how long a suspect may refute after enough accusers agreed; 0 for the Lifeguard formula alone.
    confirmations: how many accusers must agree with the first; None for suspicion_mult - 2.
    """

    loop_guard: bool = False
    evidence_hold: bool = False
    direct_sends: bool = False
    proven_nacks: bool = False
    retry: bool = False
    adaptive_timeout: bool = False
    probe_on_rumour: bool = False
    kernel_check: bool = False
    flat_log: bool = False
    successor_turns: bool = False
    loss_fall_back: bool = False
    watchers: int = 0
    watch_interval_s: float = 0.1
    refutation_s: float = 0.0
    confirmations: int | None = None


NOTHING: Final = Measures()
