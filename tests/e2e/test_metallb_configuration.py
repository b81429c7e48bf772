"""MetalLB's end-to-end tests of ConfigurationState: what controller and speakers say of what users wrote, node by node.

The speakers are told that BGP is spoken by FRR, because most of what these tests break has no place in native mode.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
import yaml

from kube.configuration_state import STATES
from kube.resources import NODES, SECRETS, resource_of
from lab.images import CLONE
from lab.scenarios.stage import SYSTEM, Stage
from tests.e2e.conftest import Lab
from tests.e2e.installed import Installed, install, opened, until

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "kubectl"), pytest.mark.timeout(180)]

DAEMONSET: Final = CLONE / "manifests" / "base" / "40-speaker.yaml"
SPEAKERS: Final = ("speaker-n1", "speaker-n2", "speaker-n3")
PEER: dict[str, Any] = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
NO_PROFILE: Final = "configuration error: peer {} referencing non existing bfd profile {}"
WRONG_SECRET: Final = (
    f'configuration error: parsing peer {{}} secret type mismatch on "{SYSTEM}"/"{{}}", type "kubernetes.io/basic-auth" is expected '
    "\nfailed to parse peer {} password secret"
)
DUPLICATE: Final = (
    "configuration error: peer 192.0.2.1 already exists, FRR mode doesn't support duplicate BGPPeers selecting the same node"
)


def parity(title: str) -> pytest.MarkDecorator:
    return pytest.mark.parity(f"ConfigurationState > {title}")


@pytest.fixture(scope="module")
def product(lab: Lab) -> Iterator[Lab]:
    """The session's lab with the product in it, its speakers in FRR's mode; as in the manifest again afterwards."""
    install(lab)
    manifest = yaml.safe_load(DAEMONSET.read_text(encoding="utf-8"))
    manifest["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "METALLB_BGP_TYPE", "value": "frr"})
    changed = lab.paths.root / "speaker.json"
    changed.write_text(json.dumps(manifest), encoding="utf-8")
    restart(lab, str(changed))
    yield lab
    restart(lab, str(DAEMONSET))


def restart(lab: Lab, manifest: str) -> None:
    """Replace the speakers' DaemonSet and all of its Pods at once; returns when the new ones are ready."""
    lab.user.run("replace", "-f", manifest)
    before = set(lab.pids("speaker-").values())
    lab.user.run("delete", "pod", "-n", SYSTEM, "-l", "component=speaker", "--wait=false")

    async def again() -> None:
        async def so() -> bool:
            now = set(lab.pids("speaker-").values())
            return len(now) == len(SPEAKERS) and not now & before

        await until(so, "new speakers")
        async with Stage.opened(lab.paths) as stage:
            await stage.until_speakers_ready()

    asyncio.run(again())


@pytest.fixture
async def user(product: Lab) -> AsyncIterator[Installed]:
    """Somebody with a cluster in which nothing is configured, and everybody says so."""
    async with opened(product) as found:
        await say(found, {})
        yield found


async def say(user: Installed, broken: dict[str, str]) -> None:
    """Return once every state is there: those named are Invalid with this summary, all others Valid and say nothing."""
    wanted = {name: ("Invalid", broken[name]) if name in broken else ("Valid", "") for name in ("controller", *SPEAKERS)}

    async def so() -> bool:
        states, _ = await user.kube.list(STATES, namespace=SYSTEM)
        statuses = {one.metadata.name: one.document.get("status") or {} for one in states}
        return {name: (one.get("result"), one.get("errorSummary")) for name, one in statuses.items()} == wanted

    await until(so, str(wanted))


def everywhere(summary: str) -> dict[str, str]:
    return dict.fromkeys(SPEAKERS, summary)


def on(node: str) -> list[Any]:
    return [{"matchLabels": {"kubernetes.io/hostname": node}}]


async def change(user: Installed, name: str, **spec: Any) -> None:
    await user.kube.patch(resource_of("BGPPeer"), name, {"spec": spec}, namespace=SYSTEM)


async def drop(user: Installed, name: str) -> None:
    await user.kube.delete(resource_of("BGPPeer"), name, namespace=SYSTEM)


async def secret(user: Installed, name: str, type_: str = "Opaque") -> None:
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": type_, "stringData": {"password": "x", "username": "y"}}  # fmt: skip
    await user.kube.create(SECRETS, document, namespace=SYSTEM)


@parity("all ConfigurationStates should report valid with a valid BGP peer config")
async def test_a_repaired_peer_makes_every_state_valid(user: Installed) -> None:
    await user.write("BGPPeer", "peer", **PEER, bfdProfile="none")
    await say(user, everywhere(NO_PROFILE.format("peer", "none")))
    await change(user, "peer", bfdProfile=None)
    await say(user, {})


@parity("a single speaker should have invalid result when BGPPeer with nodeSelector references secret with wrong type")
async def test_a_secret_of_the_wrong_type_concerns_the_nodes_that_use_it(user: Installed) -> None:
    await secret(user, "wrong")
    try:
        await user.write("BGPPeer", "peer", **PEER, passwordSecret={"name": "wrong"}, nodeSelectors=on("n2"))
        await say(user, {"speaker-n2": WRONG_SECRET.format("peer", "wrong", "peer")})
    finally:
        await user.kube.delete(SECRETS, "wrong", namespace=SYSTEM)


@parity("speaker should have invalid result when BFD profile is missing")
async def test_a_profile_that_comes_makes_the_state_valid(user: Installed) -> None:
    await user.write("BGPPeer", "peer", **PEER, bfdProfile="fast")
    await say(user, everywhere(NO_PROFILE.format("peer", "fast")))
    await user.write("BFDProfile", "fast")
    await say(user, {})


@parity("speaker should have invalid result when valid BGPPeer BFD profile reference is broken at runtime")
async def test_a_reference_broken_later_makes_the_state_invalid(user: Installed) -> None:
    await user.write("BFDProfile", "fast")
    await user.write("BGPPeer", "peer", **PEER, bfdProfile="fast")
    await user.write("BGPPeer", "witness", **{**PEER, "peerAddress": "192.0.2.2"}, bfdProfile="slow", nodeSelectors=on("n3"))
    await say(user, {"speaker-n3": NO_PROFILE.format("witness", "slow")})
    await drop(user, "witness")
    await say(user, {})
    await change(user, "peer", bfdProfile="gone")
    await say(user, everywhere(NO_PROFILE.format("peer", "gone")))


@parity("speaker should recover when missing community for BGPAdvertisement is created")
async def test_a_community_that_comes_makes_the_state_valid(user: Installed) -> None:
    await user.write("BGPAdvertisement", "ad", communities=["later"])
    text = 'configuration error: invalid community format: later\ninvalid community "later" in BGP advertisement'
    await say(user, everywhere(text))
    await user.write("Community", "names", communities=[{"name": "later", "value": "1:1"}])
    await say(user, {})


@parity("FRR - speaker should cycle through errors as invalid BGPPeers are removed one by one")
async def test_with_each_broken_peer_removed_its_problem_goes(user: Installed) -> None:
    await secret(user, "wrong")
    try:
        await user.write("BGPPeer", "a", **PEER, bfdProfile="none")
        await user.write("BGPPeer", "b", **{**PEER, "peerAddress": "192.0.2.2"}, passwordSecret={"name": "wrong"})
        await user.write("BGPPeer", "c", **{**PEER, "peerAddress": "192.0.2.3"}, bfdProfile="other")
        a, b, c = NO_PROFILE.format("a", "none"), WRONG_SECRET.format("b", "wrong", "b"), NO_PROFILE.format("c", "other")
        remaining = {"a": a, "b": b, "c": c}
        while remaining:
            await say(user, everywhere("\n".join(sorted(remaining.values()))))
            name = min(remaining)
            del remaining[name]
            await drop(user, name)
        await say(user, {})
    finally:
        await user.kube.delete(SECRETS, "wrong", namespace=SYSTEM)


@parity("FRR - should surface configState error when node relabeling causes BGPPeer conflict")
async def test_a_node_that_two_peers_come_to_share_says_so(user: Installed) -> None:
    async def label(node: str, **labels: str | None) -> None:
        await user.kube.patch(NODES, node, {"metadata": {"labels": labels}})

    await label("n1", zone="a")
    await label("n2", tier="b")
    try:
        await user.write("BGPPeer", "zone", **PEER, nodeSelectors=[{"matchLabels": {"zone": "a"}}])
        await user.write("BGPPeer", "tier", **PEER, nodeSelectors=[{"matchLabels": {"tier": "b"}}])
        await user.write(
            "BGPPeer", "witness", **{**PEER, "peerAddress": "192.0.2.2"}, bfdProfile="none", nodeSelectors=on("n3")
        )
        await say(user, {"speaker-n3": NO_PROFILE.format("witness", "none")})
        await label("n1", tier="b")
        await say(user, {"speaker-n1": DUPLICATE, "speaker-n3": NO_PROFILE.format("witness", "none")})
        await label("n1", tier=None)
        await say(user, {"speaker-n3": NO_PROFILE.format("witness", "none")})
    finally:
        await label("n1", zone=None, tier=None)
        await label("n2", tier=None)


@parity("FRR - speaker should report node-specific validation results")
async def test_every_node_speaks_for_itself(user: Installed) -> None:
    await user.write("BGPPeer", "for-n1", **PEER, bfdProfile="one", nodeSelectors=on("n1"))
    await user.write("BGPPeer", "for-n2", **PEER, bfdProfile="two", nodeSelectors=on("n2"))
    await user.write("BGPPeer", "for-n3", **PEER, nodeSelectors=on("n3"))
    await say(user, {"speaker-n1": NO_PROFILE.format("for-n1", "one"), "speaker-n2": NO_PROFILE.format("for-n2", "two")})


async def delete_all(user: Installed) -> dict[str, str]:
    """Delete every state; returns their uids."""
    states, _ = await user.kube.list(STATES, namespace=SYSTEM)
    for one in states:
        await user.kube.delete(STATES, one.metadata.name, namespace=SYSTEM)
    return {one.metadata.name: one.metadata.uid for one in states}


async def made_anew(user: Installed, before: dict[str, str]) -> None:
    async def so() -> bool:
        states, _ = await user.kube.list(STATES, namespace=SYSTEM)
        uids = {one.metadata.name: one.metadata.uid for one in states}
        return uids.keys() == before.keys() and not set(uids.values()) & set(before.values())

    await until(so, "new states")


@parity("should self-heal after deletion")
async def test_deleted_states_come_back_with_their_labels_and_owners(user: Installed) -> None:
    before = await delete_all(user)
    await made_anew(user, before)
    await say(user, {})
    states, _ = await user.kube.list(STATES, namespace=SYSTEM)
    for one in states:
        speaks = one.metadata.name != "controller"
        expected = {"metallb.io/component-type": "speaker", "metallb.io/node-name": one.metadata.name.removeprefix("speaker-")}
        assert one.metadata.labels == (expected if speaks else {"metallb.io/component-type": "controller"})
        (owner,) = one.metadata.owner_references or ()
        assert owner.kind == "Pod"
        assert owner.name.startswith("speaker-" if speaks else "controller-")


@parity("FRR - should preserve invalid state after all ConfigurationStates are deleted and recreated")
async def test_deleted_states_come_back_with_what_is_wrong(user: Installed) -> None:
    await user.write("BGPPeer", "peer", **PEER, bfdProfile="none")
    await say(user, everywhere(NO_PROFILE.format("peer", "none")))
    await made_anew(user, await delete_all(user))
    await say(user, everywhere(NO_PROFILE.format("peer", "none")))
