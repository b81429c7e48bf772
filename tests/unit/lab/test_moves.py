from lab.frames import Arp, Frame, Ndp
from lab.moves import Move, Story, questions, story, unanswered

VIP = "192.0.2.20"
A, B, CLIENT = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
ALL = "ff:ff:ff:ff:ff:ff"


def arp(at: float, operation: int, mac: str, sender: str, target: str, *, to: str = ALL) -> Arp:
    return Arp(
        at=at, from_mac=mac, to_mac=to, operation=operation, sender_mac=mac, sender=sender, target_mac=ALL, target=target
    )


def announced(at: float, mac: str) -> Arp:
    return arp(at, 1, mac, VIP, VIP)


def answer(at: float, mac: str, to: str = "198.18.0.1") -> Arp:
    return arp(at, 2, mac, VIP, to, to=CLIENT)


def question(at: float, name: str = "198.18.0.1") -> Arp:
    return arp(at, 1, CLIENT, name, VIP)


def test_an_announcement_of_another_node_is_a_move() -> None:
    frames = [answer(1.0, A), announced(2.0, B), announced(3.1, B), answer(4.0, B), announced(5.0, A)]
    moves = (Move(at=2.0, was=A, now=B), Move(at=5.0, was=B, now=A))
    assert story(frames, VIP, A) == Story(owner=A, moves=moves)


def test_two_answer_until_the_former_owner_is_silent() -> None:
    frames = [announced(2.0, B), answer(2.25, A), answer(2.5, A), answer(2.75, B)]
    assert story(frames, VIP, A) == Story(owner=B, moves=(Move(at=2.0, was=A, now=B, both_s=0.5),))


def test_an_answer_of_somebody_who_never_announced_is_told() -> None:
    assert story([answer(1.0, B)], VIP, A) == Story(owner=A, unannounced=((1.0, B),))


def test_other_addresses_are_another_story() -> None:
    frames: list[Frame] = [arp(1.0, 1, B, "192.0.2.21", "192.0.2.21"), question(1.5)]
    assert story(frames, VIP, A) == Story(owner=A)


def test_neighbour_advertisements_count_as_announcements() -> None:
    said = Ndp(
        at=1.0,
        from_mac=B,
        to_mac="33:33:00:00:00:01",
        advertisement=True,
        source="fe80::b",
        destination="ff02::1",
        target="2001:db8::1",
        link_address=B,
        override=True,
    )
    assert story([said], "2001:db8::1", A).moves == (Move(at=1.0, was=A, now=B),)


def test_a_question_counts_as_answered_when_its_asker_gets_the_answer() -> None:
    frames = [
        question(1.0, "198.18.0.1"),
        question(1.1, "198.18.0.2"),
        answer(1.2, A, "198.18.0.2"),
        question(9.0, "198.18.0.3"),
    ]
    assert [one.sender for one in unanswered(frames, VIP, until=5.0)] == ["198.18.0.1"]
    assert len(questions(frames, VIP)) == 3


def test_who_asks_again_had_no_answer() -> None:
    frames: list[Frame] = [question(1.0), question(2.0), answer(2.1, A)]
    assert [one.at for one in unanswered(frames, VIP, until=5.0)] == [1.0]


def test_announcements_and_questions_to_one_machine_are_no_questions() -> None:
    frames: list[Frame] = [announced(1.0, A), arp(1.1, 1, CLIENT, "198.18.0.1", VIP, to=A)]
    assert questions(frames, VIP) == []
