"""Every fault does on the wire what it says, is listed, and is gone after heal. Shown with packets, not with rules."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from itertools import permutations
from pathlib import Path

import pytest
from scapy.utils import rdpcap

from kube.auth import Credentials
from kube.client import KubeClient
from lab import control, netns
from lab.__main__ import main
from lab.kinds import PODS
from lab.topology import SWITCH
from tests.e2e.conftest import ROOT, Lab
from tests.e2e.test_lab import DEADLINE_S, a_deployment, a_service, clean, curl, eventually, until_ready, until_welcome
from tests.e2e.wire import Path as Way
from tests.e2e.wire import path, questions, transfer

pytestmark = [pytest.mark.needs("root", "nginx", "nft"), pytest.mark.timeout(120)]

__all__ = ["clean"]


@pytest.fixture
def sound(lab: Lab) -> Iterator[Lab]:
    """The session's lab without a fault, before and after."""
    say(lab, "heal")
    yield lab
    say(lab, "heal")
    assert faults(lab) == []
    assert the_switch(lab) == UNTOUCHED


UNTOUCHED = {"lo", "br0", "cp", "client", "n1", "n2", "n3"}


def the_switch(lab: Lab) -> set[str]:
    """What is on the switch: its links, and the tables of its packet filter."""
    namespace = lab.topology.netns(SWITCH)
    links = subprocess.run(netns.enter(namespace, ["ip", "-brief", "link"]), capture_output=True, text=True, check=True)
    tables = subprocess.run(netns.enter(namespace, ["nft", "list", "tables"]), capture_output=True, text=True, check=True)
    return {line.split()[0].split("@")[0] for line in links.stdout.splitlines()} | set(tables.stdout.splitlines())


def say(lab: Lab, *words: str, status: int = 0) -> str:
    """What `python -m lab WORDS` says, as Lab.command, without a process of its own."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        assert main(["--state", str(lab.paths.root), *words]) == status, out.getvalue() + errors.getvalue()
    return out.getvalue() + errors.getvalue()


def faults(lab: Lab) -> list[str]:
    return [each["fault"] for each in control.ask(lab.paths, "status")["faults"]]


def lost_while(lab: Lab, way: Way, *words: str, count: int = 20) -> int:
    """How many of so many datagrams are lost while a fault is in force; afterwards there is none."""
    assert way.works()
    say(lab, *words)
    numbers = way.send(count)
    say(lab, "heal")
    arrived = {arrival.number for arrival in way.arrivals(way.send(1)[-1])}
    return len(set(numbers) - arrived)


# What frames do


def test_a_partition_cuts_its_groups_and_nobody_else(sound: Lab) -> None:
    plan = sound.topology
    ends = {"across": ("n1", "n3"), "back": ("n3", "n1"), "along": ("n1", "n2"), "outside": ("n1", "client")}
    with ExitStack() as stack:
        ways = {name: stack.enter_context(path(plan, *both)) for name, both in ends.items()}
        assert all(way.works() for way in ways.values())
        say(sound, "partition", "n1,n2 | n3")
        assert faults(sound) == ["partition n1,n2 | n3"]
        numbers = {name: way.send(5) for name, way in ways.items()}
        say(sound, "heal")
        arrived = {
            name: {each.number for each in way.arrivals(way.send(1)[-1])} & {*numbers[name]} for name, way in ways.items()
        }
    assert {name: len(found) for name, found in arrived.items()} == {"across": 0, "back": 0, "along": 5, "outside": 5}


def test_a_broadcast_crosses_a_partition_as_little_as_anything_else(sound: Lab) -> None:
    plan = sound.topology
    say(sound, "partition", "n1", "n3")
    with questions(plan, "n1") as asking:
        asking.ask(plan.machine("n3"))
        assert asking.answers_until(plan.machine("n2")) == ["192.168.20.12"]
    say(sound, "heal")
    with questions(plan, "n1") as asking:
        assert asking.answers_until(plan.machine("n3")) == ["192.168.20.13"]


def test_client_and_api_server_can_be_on_a_side_of_a_partition(sound: Lab) -> None:
    with path(sound.topology, "client", "n1") as from_client, path(sound.topology, "n2", "cp") as to_api:
        assert lost_while(sound, from_client, "partition", "client", "n1") == 20
        assert lost_while(sound, to_api, "partition", "n2 | cp") == 20


def test_one_way_loses_one_direction_only(sound: Lab) -> None:
    with path(sound.topology, "n1", "n2") as there, path(sound.topology, "n2", "n1") as back:
        assert lost_while(sound, there, "one-way", "n1", "n2") == 20
        assert lost_while(sound, back, "one-way", "n1", "n2") == 0


@pytest.mark.parametrize("words", [["loss", "30", "n1"], ["loss", "30"]])
def test_loss_takes_its_share_of_frames(sound: Lab, words: list[str]) -> None:
    """Of 1000 frames, 300 on average; a share outside of 200 to 400 happens less than once in 10^11 times."""
    with path(sound.topology, "n1", "n2") as way:
        assert 200 < lost_while(sound, way, *words, count=1000) < 400


def test_loss_of_one_machine_spares_the_others(sound: Lab) -> None:
    with path(sound.topology, "n2", "n3") as way:
        assert lost_while(sound, way, "loss", "100", "n1") == 0
    with path(sound.topology, "n2", "n1") as way:
        assert lost_while(sound, way, "loss", "100", "n1") == 20


def test_a_delay_of_a_machine_is_felt_both_ways_and_by_its_frames_only(sound: Lab) -> None:
    plan = sound.topology
    with path(plan, "n1", "n2") as there, path(plan, "n2", "n1") as back, path(plan, "n2", "n3") as aside:
        assert there.works()
        assert back.works()
        assert aside.works()
        say(sound, "delay", "40", "n1")
        for way, least_s in ((there, 0.04), (back, 0.04), (aside, 0.0)):
            arrivals = way.arrivals(way.send(20)[-1])
            assert len(arrivals) == 20
            assert min(each.took_s for each in arrivals) >= least_s
        quick, slow = (min(each.took_s for each in way.arrivals(way.send(20)[-1])) for way in (aside, there))
        assert quick < slow
        assert transfer(plan, "n1", "n2", 1_000_000) == 1_000_000


def test_a_delay_of_the_switch_adds_to_that_of_a_machine(sound: Lab) -> None:
    plan = sound.topology
    with path(plan, "n1", "n2") as there, path(plan, "n2", "n3") as aside:
        assert there.works()
        assert aside.works()
        say(sound, "delay", "30")
        say(sound, "delay", "20", "n1")
        assert min(each.took_s for each in there.arrivals(there.send(10)[-1])) >= 0.05
        assert min(each.took_s for each in aside.arrivals(aside.send(10)[-1])) >= 0.03
        say(sound, "delay", "60", "n1")
        say(sound, "heal", "delay", "30")
        assert faults(sound) == ["delay 60 n1"]
        assert min(each.took_s for each in there.arrivals(there.send(10)[-1])) >= 0.06


def test_faults_of_every_kind_are_in_force_together(sound: Lab) -> None:
    plan = sound.topology
    with path(plan, "n1", "n2") as cut, path(plan, "n2", "n1") as back:
        assert cut.works()
        assert back.works()
        for words in ("delay 30 n1", "one-way n1 n2", "loss 100 client", "link down n3"):
            say(sound, *words.split())
        assert faults(sound) == ["delay 30 n1", "one-way n1 n2", "loss 100 client", "link down n3"]
        assert all(f"fault: {name}" in say(sound, "status") for name in faults(sound))
        numbers = cut.send(5)
        assert min(each.took_s for each in back.arrivals(back.send(5)[-1])) >= 0.03
        assert say(sound, "heal").startswith("lab: healed: delay 30 n1; one-way n1 n2; loss 100 client; link down n3")
        assert not {each.number for each in cut.arrivals(cut.send(1)[-1])} & set(numbers)
    for sender, receiver in permutations(("n1", "n3", "client"), 2):
        with path(plan, sender, receiver) as way:
            assert way.works()


def test_a_cable_that_is_pulled_takes_the_carrier_and_leaves_the_routes(sound: Lab) -> None:
    routes = sound.run_on("n2", "ip", "route").stdout.replace(" linkdown", "")
    with path(sound.topology, "n2", "n1") as way:
        assert way.works()
        say(sound, "link", "down", "n2")
        assert "NO-CARRIER" in sound.run_on("n2", "ip", "link", "show", "eth0").stdout
        assert sound.run_on("n2", "ip", "route").stdout.replace(" linkdown", "") == routes
        numbers = way.send(5)
        say(sound, "link", "up", "n2")
        assert way.works()
        assert not {each.number for each in way.arrivals(way.send(1)[-1])} & set(numbers)


# What processes do


def test_a_frozen_node_answers_nothing_but_its_kernel_does_and_thawed_it_goes_on(clean: Lab, sound: Lab) -> None:
    clean.user.apply_documents([a_deployment(replicas=3), a_service()])
    pods = until_ready(clean, 3)
    url = {pod["node"]: f"http://{pod['ip']}/" for pod in pods}
    for address in url.values():
        until_welcome(clean, "n2", address)
    say(sound, "freeze", "n1")
    assert curl(clean, "n2", url["n1"]) == ""  # It is connected, and waits for 2 s.
    assert "Welcome" in curl(clean, "n2", url["n3"])
    with path(sound.topology, "n2", "n1") as way, questions(sound.topology, "n2") as asking:
        assert way.works()
        assert asking.answers_until(sound.topology.machine("n1")) == ["192.168.20.11"]
    assert [pod for pod in until_ready(clean, 3) if pod["node"] == "n1"]  # Nobody reports that it is not.
    say(sound, "thaw", "n1")
    until_welcome(clean, "n2", url["n1"])
    assert {pod["name"] for pod in until_ready(clean, 3)} == {pod["name"] for pod in pods}


async def test_a_pod_that_others_called_unready_while_its_node_was_silent_is_reported_again(clean: Lab, sound: Lab) -> None:
    """What the node controller says of the Pods of a node without heartbeats stands only for as long as the kubelet is silent."""
    clean.user.apply_documents([a_deployment(replicas=3)])
    pod = next(pod for pod in until_ready(clean, 3) if pod["node"] == "n1")
    say(sound, "freeze", "n1")
    kube = await KubeClient.connect(Credentials.from_environment(str(sound.paths.kubeconfig)), user_agent="test")
    try:
        unready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        await kube.patch(PODS, pod["name"], unready, namespace="default", subresource="status")
    finally:
        await kube.close()
    assert len(until_ready(clean, 2)) == 2
    say(sound, "thaw", "n1")
    until_ready(clean, 3)


def test_a_killed_process_is_started_again_and_others_live_on(clean: Lab) -> None:
    clean.user.apply_documents([a_deployment(replicas=3)])
    pods = until_ready(clean, 3)
    victim = next(pod for pod in pods if pod["node"] == "n2")
    before = clean.pids("web-")
    assert f"default/{victim['name']}/c" in say(clean, "kill-process", "n2", "c")
    eventually(lambda: len(now := clean.pids("web-")) == 3 and now[victim["name"]] != before[victim["name"]], "another process")
    assert {n: p for n, p in clean.pids("web-").items() if n != victim["name"]} == {
        n: p for n, p in before.items() if n != victim["name"]
    }
    refusal = say(clean, "kill-process", "n2", "nobody", status=1)
    assert "no container 'nobody'" in refusal
    assert "there runs c" in refusal


def test_an_api_server_that_is_stopped_stays_away_until_it_may_start(sound: Lab) -> None:
    url = "https://192.168.20.2:6443/livez"

    def answer() -> str:
        return sound.run_on("client", "curl", "--silent", "--insecure", "--max-time", "2", url).stdout

    assert answer() == "ok"
    say(sound, "api", "stop")
    assert faults(sound) == ["api stop"]
    assert answer() == ""
    assert "in force already" in say(sound, "api", "stop", status=1)
    assert "healed: api stop" in say(sound, "api", "start")
    assert answer() == "ok"
    assert "nothing was wrong" in say(sound, "api", "start")


# What is refused


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["freeze", "n9"], "there is no node 'n9' in this lab; its nodes are n1, n2, n3"),
        (["kill", "client"], "there is no node 'client'"),
        (["partition", "n1"], "two groups or more"),
        (["partition", "n1 | n1"], "n1 cannot be named twice"),
        (["loss", "0"], "above 0"),
        (["loss", "5", "n9"], "its machines are cp, client, n1"),
        (["one-way", "n1", "n1"], "from itself"),
        (["thaw", "n1"], "freeze n1: that is not in force; in force: none"),
        (["heal", "loss", "5"], "loss 5: that is not in force"),
        (["heal", "status"], "status is no fault"),
        (["kill-process", "n9", "x"], "there is no node 'n9'"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(sound: Lab, words: list[str], answer: str) -> None:
    assert answer in say(sound, *words, status=1)
    assert faults(sound) == []


def test_a_node_without_power_cannot_be_frozen_and_power_ends_a_freeze(sound: Lab) -> None:
    say(sound, "freeze", "n3")
    say(sound, "kill", "n3")
    assert faults(sound) == ["kill n3"]
    assert "n3 has no power" in say(sound, "freeze", "n3", status=1)
    say(sound, "restore", "n3")
    with path(sound.topology, "n3", "n1") as way:
        assert way.works()


def test_the_program_that_delays_dies_with_the_lab(sound: Lab) -> None:
    """Its end is the end of its standard input, which a killed supervisor closes too."""
    say(sound, "delay", "10")
    found = subprocess.run(["pgrep", "-f", f"lab.delay {sound.paths.root}"], capture_output=True, text=True, check=True)
    (pid,) = (int(line) for line in found.stdout.split())
    os.kill(pid, signal.SIGSTOP)  # Even if it hangs.
    say(sound, "heal")
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the program has ended", limit_s=DEADLINE_S)  # noqa: PTH110


# What is recorded


@pytest.mark.needs("tshark")
def test_a_capture_and_the_logs_make_one_timeline(sound: Lab, tmp_path: Path) -> None:
    """The file is written by dumpcap and read by us; the question is told after the fault that came before it."""
    plan, file = sound.topology, tmp_path / "n2.pcap"
    words = [sys.executable, "-m", "lab", "--state", str(sound.paths.root), "capture", "n2", "-w", str(file), "--filter", "arp"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as capturing:
        assert capturing.stderr is not None
        while not capturing.stderr.readline().startswith("File:"):
            assert capturing.poll() is None
        say(sound, "link", "down", "n3")
        with questions(plan, "n1") as asking:
            assert asking.answers_until(plan.machine("n2")) == ["192.168.20.12"]
        eventually(lambda: file.stat().st_size > 24 and len(rdpcap(str(file))) >= 2, "both frames are in the file")
        capturing.terminate()
    found = json.loads(say(sound, "timeline", "--last", "30", "--capture", str(file), "-o", "json"))["moments"]
    at = {(moment["where"], moment["what"]): moment["at"] for moment in found}
    fault, asked = at["lab", "fault_injected"], at["n1", "ARP: 192.168.20.11 asks for 192.168.20.12"]
    answered = at["n2", f"ARP: 192.168.20.12 is at {plan.machine('n2').mac}, to 192.168.20.11"]
    assert fault < asked < answered
    assert [moment["at"] for moment in found] == sorted(moment["at"] for moment in found)
    assert "fault_injected fault=link down n3" in say(sound, "timeline", "--last", "30")
    assert say(sound, "timeline", "--last", "30", "-o", "svg").startswith("<svg")


@pytest.mark.needs("tshark")
def test_a_capture_ends_after_so_many_frames_and_is_refused_for_nobody(sound: Lab, tmp_path: Path) -> None:
    file = tmp_path / "client.pcap"
    with path(sound.topology, "n1", "client") as way:
        assert way.works()
        words = ["capture", "client", "-w", str(file), "--count", "3", "--filter", "udp and src host 192.168.20.11"]
        command = [sys.executable, "-m", "lab", "--state", str(sound.paths.root), *words]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as capturing:
            assert capturing.stderr is not None
            while not capturing.stderr.readline().startswith("File:"):
                assert capturing.poll() is None
            way.send(5)
            assert capturing.wait(DEADLINE_S) == 0
    assert len(rdpcap(str(file))) == 3
    assert "there is no machine 'n9'" in say(sound, "capture", "n9", "-w", str(file), status=1)
