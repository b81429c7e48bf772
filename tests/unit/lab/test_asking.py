from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from lab import topology
from lab.asking import names, question
from lab.frames import Arp, read


def test_a_question_is_one_for_a_reader_that_knows_nothing_of_it() -> None:
    client = topology.plan("labx").client
    read_back = read(question(client, IPv4Address("192.0.2.20"), IPv4Address("198.18.0.7")), at=0.0)
    assert isinstance(read_back, Arp)
    assert (read_back.operation, read_back.sender, read_back.target) == (1, "198.18.0.7", "192.0.2.20")
    assert (read_back.from_mac, read_back.to_mac, read_back.gratuitous) == (client.mac, "ff:ff:ff:ff:ff:ff", False)


def test_every_asker_is_another_one() -> None:
    found = list(islice(names(), 1000))
    assert len(set(found)) == 1000
    assert all(one in IPv4Network("198.18.0.0/15") for one in found)
