import struct
from ipaddress import IPv4Address

from lab.traffic import ArpSeen, Attempt, longest_gap, read_arp


def an_attempt(start: float, *, good: bool) -> Attempt:
    return Attempt(address="192.168.20.20", start=start, end=start + 0.001, good=good)


def test_an_outage_lasts_from_the_last_answered_start_to_the_next() -> None:
    attempts = [an_attempt(t / 100, good=t < 100 or t >= 400) for t in range(500)]
    gap = longest_gap(attempts, after=1.0)
    assert gap is not None
    assert (gap.last_good, gap.first_good) == (0.99, 4.0)
    assert round(gap.length_s, 6) == 3.01


def test_attempts_may_end_in_any_order() -> None:
    attempts = [an_attempt(3.0, good=True), an_attempt(1.0, good=True), an_attempt(2.0, good=False)]
    gap = longest_gap(attempts, after=0.0)
    assert gap is not None
    assert gap.length_s == 2.0


def test_lost_answers_after_the_takeover_do_not_count_as_the_outage() -> None:
    good = [0.0, 0.01, 3.0, 3.03, 3.04]
    gap = longest_gap([an_attempt(t, good=True) for t in good], after=0.02)
    assert gap is not None
    assert gap.first_good == 3.0


def test_a_gap_before_the_moment_in_question_is_none_of_it() -> None:
    good = [0.0, 5.0, 6.0, 6.5]
    gap = longest_gap([an_attempt(t, good=True) for t in good], after=6.2)
    assert gap is not None
    assert gap.last_good == 6.0


def test_without_two_good_answers_there_is_no_outage_to_report() -> None:
    assert longest_gap([an_attempt(0.0, good=True), an_attempt(1.0, good=False)], after=0.0) is None


def an_arp_frame(*, operation: int, sender: str, target: str, kind: int = 0x0806) -> bytes:
    return struct.pack(
        "!6s6sHHHBBH6s4s6s4s",
        b"\xff" * 6,
        b"\x02\x00\xc0\xa8\x14\x0b",
        kind,
        1,
        0x0800,
        6,
        4,
        operation,
        b"\x02\x00\xc0\xa8\x14\x0b",
        IPv4Address(sender).packed,
        bytes(6),
        IPv4Address(target).packed,
    )


def test_a_gratuitous_frame_names_the_same_address_twice() -> None:
    seen = read_arp(an_arp_frame(operation=1, sender="192.168.20.20", target="192.168.20.20") + bytes(18), at=1.0)
    assert seen == ArpSeen(
        at=1.0,
        operation=1,
        sender_mac="02:00:c0:a8:14:0b",
        sender="192.168.20.20",
        target="192.168.20.20",
        destination="ff:ff:ff:ff:ff:ff",
    )
    assert seen.gratuitous
    asked = read_arp(an_arp_frame(operation=1, sender="192.168.20.3", target="192.168.20.20"), at=1.0)
    assert asked is not None
    assert not asked.gratuitous


def test_what_is_not_arp_for_ipv4_is_not_reported() -> None:
    assert read_arp(b"\0" * 20, at=0.0) is None
    assert read_arp(an_arp_frame(operation=1, sender="1.1.1.1", target="1.1.1.1", kind=0x0800), at=0.0) is None
