"""Logs and captures in one order, as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.utils import PcapNgWriter, PcapWriter

from lab import capture, picture, timeline
from lab.paths import LabError
from lab.timeline import Moment
from lab.topology import plan

LAB = plan("lab123456", nodes=3)
N1 = LAB.nodes[0]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "supervisor.log").write_text(
        '{"mono":10.0,"level":"info","msg":"fault_injected","fault":"kill n1","component":"lab"}\n'
        "action 3: not a line of ours\n"
        '{"mono":"late","msg":"no number"}\n[1]\n{"mono":1}\n'
    )
    (tmp_path / "metallb-system_speaker-abcde_speaker.log").write_text(
        '{"mono":9.0,"msg":"early"}\n'
        '{"mono":9.5,"msg":"speaker_started","node":"n2"}\n'
        '{"mono":10.6,"msg":"member_dead","node":"n1","ts":"x"}\n'
        '{"mono":10.7,"msg":"address_announced","address":"192.168.20.20"}\n'
    )
    return tmp_path


def test_what_everybody_logged_is_in_one_order_and_says_where(logs: Path) -> None:
    found = timeline.merged(*timeline.logs(logs))
    assert [(moment.at, moment.where, moment.kind, moment.what) for moment in found] == [
        (9.0, "speaker-abcde", "log", "early"),
        (9.5, "n2", "log", "speaker_started"),
        (10.0, "lab", "fault", "fault_injected"),
        (10.6, "n2", "gossip", "member_dead"),
        (10.7, "n2", "log", "address_announced"),
    ]
    assert timeline.merged(*timeline.logs(logs), since=9.5, until=10.6) == found[1:4]
    assert timeline.text(found[2:4], zero=10.0) == [
        "      +0.0 ms  lab      fault  fault_injected fault=kill n1",
        "    +600.0 ms  n2       gossip member_dead node=n1",
    ]


def test_frames_of_a_capture_are_told_by_who_sent_them(tmp_path: Path) -> None:
    announcement = Ether(src=N1.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=2, hwsrc=N1.mac, psrc="192.168.20.20", pdst="192.168.20.20"
    )
    stranger = Ether(src="02:00:00:00:00:09") / ARP(op=1, psrc="192.0.2.1", pdst="192.0.2.2")
    file = tmp_path / "client.pcap"
    with PcapWriter(str(file), linktype=1) as writer:
        for packet, at in ((announcement, 100.25), (stranger, 101.0), (Ether(type=0x88CC), 102.0)):
            packet.time = at
            writer.write(packet)
    first, second = timeline.from_capture(file, LAB)
    assert (first.where, first.kind, first.what) == ("n1", "frame", f"gratuitous ARP: 192.168.20.20 is at {N1.mac}")
    assert second.where == "02:00:00:00:00:09"
    assert second.at - first.at == pytest.approx(0.75)


def test_a_file_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"something else, long enough to hold a header")
    with pytest.raises(LabError, match="cannot be read as a capture"):
        list(capture.read(tmp_path / "x.pcap"))
    with pytest.raises(LabError, match="cannot be read"):
        list(capture.read(tmp_path / "none.pcap"))
    with PcapNgWriter(str(tmp_path / "y.pcapng")) as writer:
        writer.write(Ether() / ARP())
    with pytest.raises(LabError, match="pcapng"):
        list(capture.read(tmp_path / "y.pcapng"))


def test_the_picture_has_a_lane_for_each_place_and_a_dot_for_each_moment() -> None:
    moments = [
        Moment(at=at, where=where, kind=kind, what=f"what happened at {at} <&>")
        for at, where, kind in ((0.0, "client", "client"), (0.1, "n10", "log"), (0.1, "n2", "gossip"), (0.2, "lab", "fault"))
    ]
    drawn = ET.fromstring(picture.svg(moments, zero=0.1, title="a < b"))  # noqa: S314 - It was made a line ago.
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    lanes = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text") if element.get("font-weight")]
    assert lanes == ["lab", "n2", "n10", "client"]
    hints = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(hints) == 4
    assert any(hint and hint.startswith("-100.0 ms client") for hint in hints)
    assert "a < b" in words


def test_a_picture_of_one_moment_and_one_of_very_many_can_be_drawn() -> None:
    one = Moment(at=5.0, where="n1", kind="other", what="x" * 80)
    assert "x" * 39 + "…" in picture.svg([one], zero=5.0, title="one")
    many = [Moment(at=float(at), where="n1", kind="log", what="word") for at in range(picture.LABELS + 1)]
    assert ">word<" not in picture.svg(many, zero=0.0, title="many")
