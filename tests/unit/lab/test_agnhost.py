import pytest

from lab.agnhost import shown, udp_answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [("hostname\n", "p1"), ("clientIP", "192.0.2.1:5"), ("echo a b", "a b"), ("exit", ""), ("", "")],
)
def test_a_datagram_is_answered_by_its_first_word(question: str, answer: str) -> None:
    assert udp_answer(question, hostname="p1", client="192.0.2.1:5") == answer


def test_addresses_are_written_as_go_does() -> None:
    assert shown("::ffff:192.0.2.1", 5) == "192.0.2.1:5"
    assert shown("2001:db8::1", 5) == "[2001:db8::1]:5"
