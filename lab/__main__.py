"""`python -m lab`: a cluster on one machine, from the command line.

Each verb is a function here that says what it did in a line or two; the work is in the modules it calls. Exit status: 0 done,
1 refused or failed (the reason is on standard error), 2 this machine lacks something (what, and how to get it).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from typing import Any

import msgspec
from pyroute2.netlink.exceptions import NetlinkError

from lab import control, lifecycle, netns, paths, topology
from lab.paths import LabError, Paths
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
    except (LabError, TopologyError) as error:
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
        each.add_argument("--net", type=_network, metavar="CIDR", help="network of the switch (default 192.168.20.0/24)")
    verb("down", _down, "take the lab away, also what a killed one left", "down")
    status = verb("status", _status, "what is up", "status -o json")
    verb("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig", "kubeconfig")
    execute = verb("exec", _exec, "run a command on a machine", "exec client -- curl http://192.168.20.20/")
    execute.add_argument("name", metavar="NAME", help="n1, n2, …, client, cp, or sw (the switch)")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command and its arguments")
    for name, run, summary in (
        ("kill", _kill, "take a node's power: pull its cable, kill all its processes"),
        ("restore", _restore, "give a node its power and cable back"),
    ):
        verb(name, run, summary, f"{name} n2").add_argument("node", metavar="NODE")
    verb("api", _api, "kill the API server with SIGKILL and keep it away, or let it come back", "api stop").add_argument(
        "action", choices=("stop", "start")
    )
    scenario = verb("run", _run, "run a scenario and measure", "run node_death --runs 10 -o json")
    scenario.add_argument("scenario", metavar="SCENARIO", help="first_service or node_death")
    scenario.add_argument("--runs", type=int, default=1, metavar="N", help="how often (default 1)")
    for each in (status, scenario):
        each.add_argument("-o", "--output", choices=("text", "json"), default="text")
    demo = verb("demo", _demo, "the main job, shown step by step", "demo --keep")
    demo.add_argument("--keep", action="store_true", help="leave the lab up")
    return parser


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}; write it like 192.168.20.0/24") from None


def _up(where: Paths, arguments: argparse.Namespace) -> int:
    lifecycle.up(where, nodes=arguments.nodes, network=arguments.net)
    plan = topology.plan(topology.lab_id(where.root), nodes=arguments.nodes, network=arguments.net)
    nodes = ", ".join(f"{node.name} {node.ip}" for node in plan.nodes)
    print(f"lab: ready: {nodes}; client {plan.client.ip}; control plane {plan.control_plane.ip}")
    print(f"  export KUBECONFIG={where.kubeconfig}")
    print("  kubectl apply -f manifests/crds -f manifests/base")
    print(f"  {paths.LAB} exec client -- curl http://192.168.20.20/    a command on the client, n1, n2, …")
    print(f"  {paths.LAB} kill n1; {paths.LAB} restore n1    take a node's power and give it back")
    print(f"  {paths.LAB} status; {paths.LAB} down    what is up; the end")
    print(f"  logs: {where.logs}")
    return 0


def _supervise(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.supervisor import main as supervise  # noqa: PLC0415 - The other verbs need not load the whole cluster.

    return asyncio.run(supervise(where, nodes=arguments.nodes, network=arguments.net))


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


def _kill(where: Paths, arguments: argparse.Namespace) -> int:
    control.ask(where, "kill", node=arguments.node)
    print(f"lab: {arguments.node} killed")
    return 0


def _restore(where: Paths, arguments: argparse.Namespace) -> int:
    control.ask(where, "restore", node=arguments.node)
    print(f"lab: {arguments.node} restored")
    return 0


def _api(where: Paths, arguments: argparse.Namespace) -> int:
    control.ask(where, f"api-{arguments.action}")
    print("lab: the API server is away" if arguments.action == "stop" else "lab: the API server may come back")
    return 0


def _run(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.scenarios import run  # noqa: PLC0415 - The verbs of every day need not load it.

    return run(where, arguments.scenario, runs=arguments.runs, output=arguments.output)


def _demo(where: Paths, arguments: argparse.Namespace) -> int:
    from lab.demo import demo  # noqa: PLC0415 - As above.

    return demo(where, keep=arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
