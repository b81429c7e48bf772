"""`python -m lab`: a cluster on one machine, from the command line.

Each verb is a function here that says what it did in a line or two; the work is in the modules it calls. Exit status: 0 done,
1 refused or failed (the reason is on standard error), 2 this machine lacks something (what, and how to get it).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from lab import control, faults, lifecycle, netns, paths, topology
from lab.faults import AnyFault, FaultError
from lab.paths import LAB, LabError, Paths
from lab.topology import TopologyError


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["apiserver"]:  # It has a command line of its own, and needs nothing of what is below.
        from lab.apiserver.server import main as serve_api  # noqa: PLC0415 - Only this verb pays for loading it.

        return serve_api(words[1:])
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(paths.paths(arguments.state), arguments))
    except lifecycle.MissingError as missing:
        print(f"lab: {missing}", file=sys.stderr)
        return 2
    except (LabError, TopologyError, FaultError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # Whoever read what we print has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, NetlinkError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab", description="A cluster on one machine: nodes, a client, an API server."
    )
    parser.add_argument("--state", help=f"directory of the lab (default: ${paths.ENVIRONMENT}, else .lab in this clone)")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=summary, epilog=f"example: python -m lab {example}")
        made.set_defaults(run=run)
        return made

    up = verb("up", _up, "bring a lab up and leave it up", "up --nodes 5")
    supervise = verb("supervise", _supervise, "be the lab, in the foreground (up starts this)", "supervise")
    for each in (up, supervise):
        each.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default 3)")
        each.add_argument(
            "--api",
            choices=("lab", "real"),
            default="lab",
            help="the lab's API server, or the etcd and kube-apiserver in $KUBEBUILDER_ASSETS",
        )
        each.add_argument("--net", type=_network, metavar="CIDR", help="network of the switch (default 192.168.20.0/24)")
        mode = "kube-proxy's mode; ipvs shows the trap of strictARP: false (default nftables)"
        each.add_argument("--proxy-mode", choices=topology.PROXY_MODES, default=topology.NFTABLES, help=mode)
    verb("down", _down, "take the lab away, also what a killed one left", "down")
    status = verb("status", _status, "what is up", "status -o json")
    verb("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig", "kubeconfig")
    execute = verb("exec", _exec, "run a command on a machine", "exec client -- curl http://192.168.20.20/")
    execute.add_argument("name", metavar="NAME", help="n1, n2, …, client, cp, or sw (the switch)")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    _fault_verbs(verb)
    scenario = verb("run", _run, "run a scenario and measure", "run node_death --runs 10 -o json")
    scenario.add_argument("scenario", metavar="SCENARIO", help="first_service, node_death, planned_moves or speaker_death")
    scenario.add_argument("--runs", type=int, default=1, metavar="N", help="how often (default 1)")
    scenario.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the longest run's timeline")
    _record_verbs(verb)
    for each in (status, scenario):
        each.add_argument("-o", "--output", choices=("text", "json"), default="text")
    chaos = verb("chaos", _chaos, "random faults in a lab of its own, and what came of them", "chaos --minutes 3 --seed 7")
    chaos.add_argument(
        "--minutes", type=float, default=3.0, metavar="M", help="minutes with faults (default 3); the calm between comes on top"
    )
    chaos.add_argument(
        "--seed", type=int, metavar="S", help="the same seed makes the same faults (default: by the clock; printed)"
    )
    chaos.add_argument("--nodes", type=int, default=5, metavar="N", help="how many nodes (default 5)")
    chaos.add_argument("--services", type=int, default=200, metavar="N", help="how many Services (default 200)")
    demo = verb("demo", _demo, "the main job, shown step by step", "demo --keep")
    demo.add_argument("--keep", action="store_true", help="leave the lab up")
    return parser


def _fault_verbs(verb: Callable[[str, Any, str, str], argparse.ArgumentParser]) -> None:
    """A verb for every fault, and one to take it back where `heal` is not the word for it."""
    node_faults: tuple[tuple[str, type[faults.NodeFault], Any, str], ...] = (
        ("kill", faults.Kill, _inject, "take a node's power: pull its cable, kill all its processes"),
        ("restore", faults.Kill, _heal, "give a node its power and cable back"),
        ("freeze", faults.Freeze, _inject, "stop all processes of a node (SIGSTOP); its kernel goes on"),
        ("thaw", faults.Freeze, _heal, "let a frozen node go on"),
    )
    for name, kind, run, summary in node_faults:
        made = verb(name, run, summary, f"{name} n2")
        made.add_argument("node", metavar="NODE")
        made.set_defaults(fault=lambda given, kind=kind: kind(given.node))
    link = verb("link", _inject_or_heal, "pull a node's cable, or put it back", "link down n2")
    link.add_argument("action", choices=("down", "up"))
    link.add_argument("node", metavar="NODE")
    link.set_defaults(fault=lambda given: faults.LinkDown(given.node))
    api = verb("api", _inject_or_heal, "kill the API server (SIGKILL) and keep it away, or bring it back", "api stop")
    api.add_argument("action", choices=("stop", "start"))
    api.set_defaults(fault=lambda _: faults.ApiStop())
    split = verb("partition", _inject, "let no frame pass between groups of machines", "partition 'n1,n2 | n3'")
    split.add_argument("groups", nargs="+", metavar="GROUPS", help="'n1,n2 | n3', or a word for each group: n1,n2 n3")
    split.set_defaults(fault=lambda given: faults.Partition(faults.groups(given.groups)))
    one_way = verb("one-way", _inject, "let no frame of machine A reach machine B", "one-way n1 n2")
    one_way.add_argument("sender", metavar="A")
    one_way.add_argument("receiver", metavar="B")
    one_way.set_defaults(fault=lambda given: faults.OneWay(given.sender, given.receiver))
    for name, amount, make, summary in (
        ("loss", "PERCENT", faults.Loss, "lose so many of a hundred frames: of all, or of those to and from a machine"),
        ("delay", "MS", faults.Delay, "deliver frames so many milliseconds later: all, or those to and from a machine"),
    ):
        made = verb(name, _inject, summary, f"{name} 5 n1")
        made.add_argument("amount", type=float, metavar=amount)
        made.add_argument("machine", nargs="?", metavar="MACHINE", help="n1, n2, …, client, cp (default: every machine)")
        made.set_defaults(fault=lambda given, make=make: make(given.amount, given.machine))
    heal = verb("heal", _heal, "take faults back: all, or the one that `status` lists so", "heal one-way n1 n2")
    heal.add_argument("words", nargs="*", metavar="FAULT", help="as typed when it was made (default: all)")
    heal.set_defaults(fault=_named_fault)
    process = verb("kill-process", _kill_process, "kill a container's processes (SIGKILL)", "kill-process n1 speaker")
    process.add_argument("node", metavar="NODE")
    process.add_argument("name", metavar="NAME", help="the container's name, or how its Pod's name starts")


def _record_verbs(verb: Callable[[str, Any, str, str], argparse.ArgumentParser]) -> None:
    """What passes the wire, and what happened when."""
    taken = verb(
        "capture", _capture, "write what passes a machine's cable to a file, until interrupted", "capture n1 -w n1.pcap"
    )
    taken.add_argument("machine", metavar="MACHINE", help="n1, n2, …, client, cp")
    taken.add_argument("-w", "--write", type=Path, required=True, metavar="FILE.pcap")
    taken.add_argument("--for", dest="for_s", type=float, metavar="SECONDS", help="end after so long")
    taken.add_argument("--count", type=int, metavar="N", help="end after so many frames")
    taken.add_argument("--filter", default="", metavar="EXPRESSION", help="as tcpdump's: 'arp or icmp6 or udp port 7946'")
    order = verb(
        "timeline",
        _timeline,
        "what happened in which order: logs, faults, frames of captures",
        "timeline --last 10 --capture n1.pcap",
    )
    order.add_argument("--capture", type=Path, action="append", default=[], metavar="FILE.pcap", help="any number of times")
    order.add_argument(
        "--last", type=float, metavar="SECONDS", help="only what happened since so long ago (default: everything)"
    )
    order.add_argument("-o", "--output", choices=("text", "json", "svg"), default="text")


def _named_fault(arguments: argparse.Namespace) -> AnyFault | None:
    """The fault that these words would make; None for no words."""
    if not arguments.words:
        return None
    words = " ".join(arguments.words).split()
    parsed = _parser().parse_args(words)
    if getattr(parsed, "run", None) not in (_inject, _inject_or_heal):
        raise LabError(f"{' '.join(words)} is no fault; {LAB} status lists those in force")
    fault: AnyFault = parsed.fault(parsed)
    return fault


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}; write it like 192.168.20.0/24") from None


def _up(where: Paths, arguments: argparse.Namespace) -> int:
    options = {"api": arguments.api, "proxy_mode": arguments.proxy_mode}
    lifecycle.up(where, nodes=arguments.nodes, network=arguments.net, **options)
    plan = topology.plan(topology.lab_id(where.root), nodes=arguments.nodes, network=arguments.net)
    nodes = ", ".join(f"{node.name} {node.ip}" for node in plan.nodes)
    print(f"lab: ready: {nodes}; client {plan.client.ip}; control plane {plan.control_plane.ip}")
    print(f"  export KUBECONFIG={where.kubeconfig}")
    print("  kubectl apply -f manifests/crds -f manifests/base")
    print(f"  {paths.LAB} exec client -- curl http://192.168.20.20/    a command on the client, n1, n2, …")
    print(f"  {paths.LAB} kill n1; {paths.LAB} restore n1    a fault and its end; there are more: {paths.LAB} --help")
    print(f"  {paths.LAB} status; {paths.LAB} down    what is up; the end")
    print(f"  logs: {where.logs}")
    return 0


def _supervise(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.guardian import guarded  # noqa: PLC0415 - The other verbs need neither this nor the whole cluster.

    def supervise() -> int:
        from lab.supervisor import main as be_the_lab  # noqa: PLC0415 - Nor does the guardian need the cluster.

        options = {"api": arguments.api, "proxy_mode": arguments.proxy_mode}
        return asyncio.run(be_the_lab(where, nodes=arguments.nodes, network=arguments.net, **options))

    return guarded(where, supervise)


def _down(where: Paths, _: argparse.Namespace) -> int:
    print("lab: down" if lifecycle.down(where) else "lab: down (nothing was up)")
    return 0


def _status(where: Paths, arguments: argparse.Namespace) -> int:
    status = control.ask(where, "status")
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(status)).decode())
        return 0
    print(f"lab {status['lab_id']} in {status['state']}; network {status['network']}; API server {status['api']['url']}")
    for name, machine in status["machines"].items():
        node = status["nodes"].get(name)
        condition = (
            "" if node is None else ("  ready" if node["ready"] else "  not ready") + ("" if node["powered"] else ", no power")
        )
        print(f"  {name:8} {machine['address']:16}{condition}")
    for each in status["faults"]:
        print(f"  fault: {each['fault']}")
    for pod in status["pods"]:
        state = "ready" if pod["ready"] else pod["phase"].lower() or "not placed"
        print(f"  pod {pod['namespace']}/{pod['name']} on {pod['node'] or '-'}: {state}")
    for service in status["services"]:
        if service["type"] == "LoadBalancer":
            print(f"  service {service['namespace']}/{service['name']}: {', '.join(service['addresses']) or 'pending'}")
    return 0


def _kubeconfig(where: Paths, _: argparse.Namespace) -> int:
    print(control.ask(where, "status")["kubeconfig"])
    return 0


def _exec(where: Paths, arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise LabError(f"say what to run: {paths.LAB} exec {arguments.name} -- ip addr")
    plan = lifecycle.running_topology(where)
    if arguments.name != topology.SWITCH:
        plan.machine(arguments.name)
    line = netns.enter(plan.netns(arguments.name), command)
    sys.stdout.flush()
    os.execvp(line[0], line)  # noqa: S606 - The command takes this process's place, terminal and exit status.


def _inject(where: Paths, arguments: argparse.Namespace) -> int:
    fault: AnyFault = arguments.fault(arguments)
    control.ask(where, "inject", fault=fault)
    print(f"lab: in force: {fault}")
    return 0


def _inject_or_heal(where: Paths, arguments: argparse.Namespace) -> int:
    return (_inject if arguments.action in ("down", "stop") else _heal)(where, arguments)


def _heal(where: Paths, arguments: argparse.Namespace) -> int:
    fault: AnyFault | None = arguments.fault(arguments)
    healed = control.ask(where, "heal", fault=fault)["healed"]
    print(f"lab: healed: {'; '.join(healed) or 'nothing was wrong'}")
    return 0


def _kill_process(where: Paths, arguments: argparse.Namespace) -> int:
    print(f"lab: killed: {', '.join(control.ask(where, 'kill-process', node=arguments.node, name=arguments.name)['killed'])}")
    return 0


def _capture(where: Paths, arguments: argparse.Namespace) -> int:
    from lab import capture  # noqa: PLC0415 - As above.

    line = capture.command(
        lifecycle.running_topology(where),
        arguments.machine,
        arguments.write.absolute(),
        for_s=arguments.for_s,
        count=arguments.count,
        only=arguments.filter,
    )
    sys.stdout.flush()
    os.execvp(line[0], line)  # noqa: S606 - As in _exec: Ctrl-C is for the command.


def _timeline(where: Paths, arguments: argparse.Namespace) -> int:
    from lab import picture, timeline  # noqa: PLC0415 - As above.

    state = where.read_state()
    nodes, network = (state.nodes, IPv4Network(state.network)) if state else (9, None)
    plan = topology.plan(topology.lab_id(where.root), nodes=nodes, network=network)
    since = time.monotonic() - arguments.last if arguments.last is not None else float("-inf")
    frames = (timeline.from_capture(file, plan) for file in arguments.capture)
    moments = timeline.merged(*timeline.logs(where.logs), *frames, since=since)
    if not moments:
        raise LabError(f"nothing happened: no logs in {where.logs}{' since then' if arguments.last is not None else ''}")
    zero = next((moment.at for moment in moments if moment.kind == "fault"), moments[0].at)
    match arguments.output:
        case "json":
            print(msgspec.json.format(msgspec.json.encode({"zero": zero, "moments": moments})).decode())
        case "svg":
            print(
                picture.svg(
                    moments,
                    zero=zero,
                    title=f"{where.root}, from {'the first fault' if zero != moments[0].at else 'its start'}",
                )
            )
        case _:
            print(*timeline.text(moments, zero=zero), sep="\n")
    return 0


def _run(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.scenarios import run  # noqa: PLC0415 - The verbs of every day need not load it.

    return run(where, arguments.scenario, runs=arguments.runs, output=arguments.output, drawn=arguments.picture)


def _chaos(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.chaos.driver import chaos  # noqa: PLC0415 - As above.

    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    return chaos(where, length_s=arguments.minutes * 60, seed=seed, nodes=arguments.nodes, services=arguments.services)


def _demo(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.demo import demo  # noqa: PLC0415 - As above.

    return demo(where, keep=arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
