"""MetalLB's end-to-end tests of webhooks, and what an operator does with them: rotation, failure policies, modes, own certificates.

The API server asks the controller process of the manifests over HTTPS about everything that is written here.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from config import yaml_text
from config.crd import structural
from config.kinds import KINDS
from controller.certificates import CONVERTED, DEFINITIONS, VALIDATORS, VALIDATORS_NAME, host_name
from controller.webhook_pki import Pair, Renewal, authority, from_data, renewed
from kube.errors import KubeError, NotFound
from kube.objects import RawObject
from kube.resources import SECRETS, Resource
from lab import daemons
from lab.images import CLONE
from lab.scenarios.stage import SYSTEM
from tests.e2e.conftest import Lab
from tests.e2e.installed import HOME, OLD_PEERS, Installed, addresses, install, opened, refused, until

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "kubectl"), pytest.mark.timeout(180)]

DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment", RawObject)
SAMPLES: Final = CLONE / "tests" / "integration" / "config" / "samples.yaml"
SECRET: Final = "metallb-webhook-cert"
HOST: Final = host_name("metallb-webhook-service", SYSTEM)
DEPLOYMENT: Final = CLONE / "manifests" / "base" / "30-controller.yaml"
PEER: dict[str, Any] = {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"}
DENIED: Final = 'admission webhook "{}validationwebhook.metallb.io" denied the request'


def parity(*titles: str) -> pytest.MarkDecorator:
    return pytest.mark.parity(*titles)


@pytest.fixture(scope="module")
def product(lab: Lab) -> Iterator[Lab]:
    """The session's lab with the product in it; the controller is as the manifest has it again afterwards."""
    install(lab)
    yield lab

    async def put_back() -> None:
        async with opened(lab) as user:
            await replace(user, DEPLOYMENT)

    asyncio.run(put_back())


@pytest.fixture
async def user(product: Lab) -> AsyncIterator[Installed]:
    """Somebody with a cluster in which nothing is configured."""
    async with opened(product) as found:
        yield found


async def alter(user: Installed, change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    """Replace the controller's Deployment by the manifest's with this change to its Pods, as a user does it.

    The tests that do so come last; after them the manifest is put back.
    """
    document = yaml.safe_load(DEPLOYMENT.read_text(encoding="utf-8"))
    change(document["spec"]["template"]["spec"])
    changed = tmp_path / "controller.json"
    changed.write_text(json.dumps(document), encoding="utf-8")
    await replace(user, changed)


async def replace(user: Installed, manifest: Path) -> None:
    """Replace the controller's Deployment, and return once another controller is there instead of the one before."""
    before, pods = set(user.controllers().values()), await template(user)
    await asyncio.to_thread(user.lab.user.run, "replace", "-f", str(manifest))
    if await template(user) == pods:
        return  # It is like this already.

    async def so() -> bool:
        now = user.controllers()
        return len(now) == 1 and not set(now.values()) & before

    await until(so, "another controller")
    await user.ready()


async def template(user: Installed) -> Any:
    """The template of the controller's Pods: a new controller comes when it changes, and only then."""
    return (await user.kube.get(DEPLOYMENTS, "controller", SYSTEM)).document["spec"]["template"]


def in_mode(mode: str) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        for variable in pod["containers"][0]["env"]:
            if variable["name"] == "METALLB_BGP_TYPE":
                variable["value"] = mode

    return change


def with_flags(*flags: str, probed: bool = True) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        pod["containers"][0]["args"] += flags
        if not probed:
            del pod["containers"][0]["readinessProbe"]

    return change


# What is refused


@parity("Webhooks > For IPAddressPool > Should recognize overlapping addresses in two AddressPools")
async def test_bad_and_overlapping_pools_are_refused(user: Installed) -> None:
    said = await refused(user.pool("bad", "198.51.100.9-198.51.100.1"))
    assert DENIED.format("ipaddresspool") in said
    assert "invalid IP range '198.51.100.9-198.51.100.1': start is after end" in said
    await user.pool("first", "198.51.100.0/24")
    said = await refused(user.pool("second", "198.51.100.128-198.51.101.5"))
    assert "overlaps with already defined CIDR" in said
    assert f"IPAddressPool {SYSTEM}/second: spec.addresses[0]" in said
    await user.pool("second", "198.51.101.0/24")
    with pytest.raises(KubeError, match="overlaps with already defined CIDR"):
        await user.change_pool("second", "198.51.100.0/25")


@parity("Webhooks > for BGPAdvertisement > Should recognize invalid AggregationLength")
async def test_an_aggregate_larger_than_its_pool_is_refused(user: Installed) -> None:
    await user.pool("small", "198.51.100.0/28")
    said = await refused(user.write("BGPAdvertisement", "ad", aggregationLength=26, ipAddressPools=["small"]))
    assert "invalid aggregation length 26: prefix 28 in this pool is more specific than the aggregation length" in said


@parity("Webhooks > for BGPAdvertisement > Should reject serviceSelectors with non-default aggregationLength")
async def test_service_selectors_do_not_go_with_an_aggregate(user: Installed) -> None:
    select = [{"matchLabels": {"app": "web"}}]
    said = await refused(user.write("BGPAdvertisement", "ad", aggregationLength=24, serviceSelectors=select))
    assert "serviceSelectors and aggregationLength are mutually exclusive" in said
    await user.write("BGPAdvertisement", "ad", aggregationLength=32, serviceSelectors=select)


@parity("Webhooks > For BGPPeer > Should reject invalid BGPPeer IP address")
async def test_a_peer_at_no_address_is_refused_in_both_versions(user: Installed) -> None:
    for kind in ("BGPPeer", OLD_PEERS):
        said = await refused(user.write(kind, "peer", **{**PEER, "peerAddress": "1.1.1.400"}))
        assert DENIED.format("bgppeers") in said
        assert "invalid BGPPeer address '1.1.1.400'" in said


INVALID = {"legacy": ("99999:1", "invalid community value: invalid section"), "large": ("lar:1:2:3", "expected community to be of format large")}  # fmt: skip


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=parity(*(f"Webhooks > For Community > reject {what} invalid Community > in {form} format" for what in ("a new", "an update to an"))))
        for form in INVALID
    ],
)  # fmt: skip
async def test_an_invalid_community_is_refused_when_new_and_when_changed(user: Installed, form: str) -> None:
    value, fault = INVALID[form]
    wrong = [{"name": "alias", "value": value}]
    assert fault in await refused(user.write("Community", "new", communities=wrong))
    await user.write("Community", "old", communities=[{"name": "alias", "value": "1:1"}])
    words = ("patch", "community", "old", "-n", SYSTEM, "--type=merge", "-p", json.dumps({"spec": {"communities": wrong}}))
    with pytest.raises(Exception, match=fault):
        user.lab.user.run(*words)


async def twice(user: Installed, value: str) -> None:
    await user.write("Community", "one", communities=[{"name": "alias", "value": value}])
    said = await refused(user.write("Community", "two", communities=[{"name": "alias", "value": value}]))
    assert "duplicate definition of community" in said


@parity("Webhooks > For Community > reject Community duplications > in legacy format")
async def test_a_community_defined_twice_is_refused(user: Installed) -> None:
    await twice(user, "1:1")


@parity("Webhooks > For BFDProfile > Should produce an error when deleting a profile used by a BGPPeer")
async def test_a_profile_in_use_is_not_deleted(user: Installed) -> None:
    await user.write("BFDProfile", "fast")
    await user.write("BGPPeer", "peer", **PEER, bfdProfile="fast")
    with pytest.raises(Exception, match="failed to delete BFDProfile fast, used by BGPPeer peer"):
        user.lab.user.run("delete", "bfdprofile", "fast", "-n", SYSTEM)
    user.lab.user.run("delete", "bgppeer", "peer", "-n", SYSTEM)
    user.lab.user.run("delete", "bfdprofile", "fast", "-n", SYSTEM)


SPECS: dict[str, dict[str, Any]] = {"IPAddressPool": {"addresses": ["198.51.100.0/24"]}, "BGPPeer": PEER}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=parity(f"Webhooks namespace validation > Should reject creating {kind} in a different namespace"))
        for kind in ("BFDProfile", "IPAddressPool", "BGPPeer", "BGPAdvertisement", "L2Advertisement", "Community")
    ],
)  # fmt: skip
async def test_an_object_outside_our_namespace_is_refused(user: Installed, kind: str) -> None:
    said = await refused(user.write(kind, "astray", namespace=HOME, **SPECS.get(kind, {})))
    assert f"resource must be created in {SYSTEM} namespace" in said


# kubectl


async def test_kubectl_reads_and_writes_peers_in_both_versions(user: Installed, tmp_path: Path) -> None:
    run = user.lab.user.run
    for version, name, more in (
        ("v1beta1", "old", {}),
        ("v1beta2", "new", {"peerAddress": "192.0.2.2", "holdTime": "90s", "vrf": ""}),
    ):
        document = {
            "apiVersion": f"metallb.io/{version}", "kind": "BGPPeer", "metadata": {"name": name, "namespace": SYSTEM},
            "spec": {**PEER, "nodeSelectors": [{"matchLabels": {"rack": "1"}}], **more},
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        assert "created" in run("apply", "-f", str(tmp_path / f"{name}.json"))
        assert "unchanged" in run("apply", "-f", str(tmp_path / f"{name}.json"))

    def shown(name: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("get", f"bgppeers.{version}.metallb.io", name, "-n", SYSTEM, "-o", "json"))
        assert found["apiVersion"] == f"metallb.io/{version}"
        spec: dict[str, Any] = found["spec"]
        return spec

    timers = {"holdTime": "0s", "keepaliveTime": "0s"}
    old, new = shown("old", "v1beta1"), shown("old", "v1beta2")
    assert old.items() >= {**PEER, **timers, "peerPort": 179}.items()
    assert new.items() >= {**PEER, **timers, "peerPort": 179}.items()
    assert new["nodeSelectors"] == [{"matchLabels": {"rack": "1"}}]
    assert shown("new", "v1beta1")["holdTime"] == "90s"
    assert "vrf" not in shown("new", "v1beta1")
    listed = json.loads(run("get", "bgppeers.v1beta1.metallb.io", "-n", SYSTEM, "-o", "json"))
    assert {(one["apiVersion"], one["metadata"]["name"]) for one in listed["items"]} == {
        ("metallb.io/v1beta1", "old"),
        ("metallb.io/v1beta1", "new"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_explains_every_member_in_our_words(product: Lab, kind: str) -> None:
    version = KINDS[kind].versions[-1]
    parts = structural(version.struct)["properties"]
    part = "spec" if parts.get("spec", {}).get("properties") else "status"
    words = ("explain", f"{KINDS[kind].plural}.{part}", f"--api-version=metallb.io/{version.name}")
    said = " ".join(product.user.run(*words).split())
    for name, member in parts[part]["properties"].items():
        assert name in said
        assert " ".join(member["description"].split())[:60] in said


# Certificates


async def kept(user: Installed) -> Pair | None:
    """The pair in the Secret."""
    try:
        return from_data((await user.kube.get(SECRETS, SECRET, SYSTEM)).data or {})
    except NotFound:
        return None


async def near_its_end(user: Installed) -> None:
    """The server certificate is replaced by one that the same authority made 299 days ago."""
    old = renewed(await kept(user), Renewal.SERVER, HOST, datetime.now(UTC) - timedelta(days=299))
    await user.kube.patch(SECRETS, SECRET, {"data": old.as_data()}, namespace=SYSTEM)


async def deleted(user: Installed) -> None:
    """Somebody deletes the Secret, as one does to have everything made anew."""
    await user.kube.delete(SECRETS, SECRET, namespace=SYSTEM)


async def of_another_authority(user: Installed) -> None:
    """Somebody puts a pair of another authority into the Secret."""
    other = renewed(None, Renewal.BOTH, HOST, datetime.now(UTC))
    await user.kube.patch(SECRETS, SECRET, {"data": other.as_data()}, namespace=SYSTEM)


@pytest.mark.parametrize("rotate", [near_its_end, deleted, of_another_authority])
async def test_no_request_fails_while_certificates_are_rotated(
    user: Installed, rotate: Callable[[Installed], Awaitable[None]]
) -> None:
    await user.ready()
    before = await kept(user)
    assert before is not None
    rotated, rounds = asyncio.Event(), [0, 0]

    async def write(number: int) -> None:
        while not rotated.is_set() or rounds[number] < 3:
            await user.write("Community", f"c-{number}-{rounds[number]}")
            assert "start is after end" in await refused(user.pool(f"p-{number}", "198.51.100.9-198.51.100.1"))
            await user.write(OLD_PEERS, f"peer-{number}", **PEER)
            await user.kube.delete(OLD_PEERS, f"peer-{number}", namespace=SYSTEM)
            rounds[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(write(number))
        await rotate(user)

        async def done() -> bool:
            now = await kept(user)
            if now is None or now.certificate == before.certificate:
                return False
            return await shown(user) == now.certificate

        await until(done, "the new certificate")
        rotated.set()
    after = await kept(user)
    assert after is not None
    assert (authority(after) == authority(before)) == (rotate is near_its_end)


async def shown(user: Installed) -> bytes:
    """The certificate that the controller shows to who connects."""
    (pod,) = (one for one in user.lab.status()["pods"] if one["name"].startswith("controller-"))
    done = user.lab.run_on(
        pod["node"], "sh", "-c", f"openssl s_client -connect {pod['ip']}:9443 </dev/null 2>/dev/null | openssl x509"
    )
    return done.stdout.encode()


# The controller away


async def policy(user: Installed, wanted: str) -> None:
    """Set the failure policy of all webhooks."""
    document = (await user.kube.get(VALIDATORS, VALIDATORS_NAME)).document
    for hook in document["webhooks"]:
        hook["failurePolicy"] = wanted
    await user.kube.update(VALIDATORS, VALIDATORS_NAME, document)


async def test_while_the_controller_is_away_the_failure_policy_decides(user: Installed) -> None:
    run, before = user.lab.user.run, user.controllers()
    run("scale", "deployment", "controller", "-n", SYSTEM, "--replicas=0")
    try:

        async def away() -> bool:
            return not user.controllers()

        await until(away, "no controller")
        said = await refused(user.pool("closed", "198.51.100.0/24"))
        assert 'failed calling webhook "ipaddresspoolvalidationwebhook.metallb.io"' in said
        assert "metallb-webhook-service" in said
        await policy(user, "Ignore")
        await user.pool("open", "198.51.100.9-198.51.100.1")
        said = await refused(user.write(OLD_PEERS, "old", **PEER))
        assert "conversion webhook for metallb.io/v1beta1, Kind=BGPPeer failed" in said
    finally:
        await policy(user, "Fail")
        run("scale", "deployment", "controller", "-n", SYSTEM, "--replicas=1")
        await user.decides(instead_of=before)
        await user.ready()
    said = await refused(user.pool("worse", "198.51.100.9-198.51.100.2"))
    assert "start is after end" in said, "what passed meanwhile harms nobody else"
    await user.pool("good", "203.0.113.0/24")
    await user.service()
    await user.has("web", "203.0.113.0")


# Modes and certificates of one's own


async def test_without_webhooks_addresses_are_assigned(user: Installed, tmp_path: Path) -> None:
    validators = (await user.kube.get(VALIDATORS, VALIDATORS_NAME)).document
    await alter(user, with_flags("--webhook-mode=disabled", probed=False), tmp_path)
    assert "failed calling webhook" in await refused(user.pool("bad", "198.51.100.9-198.51.100.1"))
    await user.kube.delete(VALIDATORS, VALIDATORS_NAME)
    try:
        await user.pool("bad", "198.51.100.9-198.51.100.1")
        await user.pool("good", "203.0.113.0/24")
        await user.service()
        await user.has("web", "203.0.113.0")
    finally:
        for key in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
            validators["metadata"].pop(key, None)
        await user.kube.create(VALIDATORS, validators)


async def test_with_nothing_but_webhooks_no_address_is_assigned(user: Installed, tmp_path: Path) -> None:
    await alter(user, with_flags("--webhook-mode=onlywebhook"), tmp_path)
    assert "start is after end" in await refused(user.pool("bad", "198.51.100.9-198.51.100.1"))
    await user.pool("good", "203.0.113.0/24")
    await user.service()
    (said,) = (one for one in await daemons.statuses(user.lab.paths) if one.get("component") == "controller")
    assert not said["pending_writes"]
    assert addresses(await user.get()) == ()


async def test_a_certificate_of_ones_own_is_shown_and_nothing_of_ours_is_touched(user: Installed, tmp_path: Path) -> None:
    own = renewed(None, Renewal.BOTH, HOST, datetime.now(UTC))
    data = {name: value for name, value in own.as_data().items() if name.startswith("tls.")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "own-certificate"},
        "data": data,
    }

    def change(pod: dict[str, Any]) -> None:
        with_flags("--disable-cert-rotation", "--cert-dir=/opt/certificates")(pod)
        pod["containers"][0]["volumeMounts"].append({"name": "own", "mountPath": "/opt/certificates", "readOnly": True})
        pod["volumes"].append({"name": "own", "secret": {"secretName": "own-certificate"}})

    await user.kube.create(SECRETS, secret, namespace=SYSTEM)
    ours = await kept(user)
    await alter(user, change, tmp_path)
    assert await shown(user) == own.certificate
    assert "failed calling webhook" in await refused(user.pool("good", "203.0.113.0/24")), "nobody trusts it yet"
    trust = base64.b64encode(own.ca).decode()
    document = (await user.kube.get(VALIDATORS, VALIDATORS_NAME)).document
    for hook in document["webhooks"]:
        hook["clientConfig"]["caBundle"] = trust
    trusting = await user.kube.update(VALIDATORS, VALIDATORS_NAME, document)
    client = {"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": trust}}}}}
    await user.kube.patch(DEFINITIONS, CONVERTED, client)
    assert "start is after end" in await refused(user.pool("bad", "198.51.100.9-198.51.100.1"))
    await user.write(OLD_PEERS, "old", **PEER)
    await user.pool("good", "203.0.113.0/24")
    assert await user.kube.get(VALIDATORS, VALIDATORS_NAME) == trusting
    assert await kept(user) == ours
    await user.kube.delete(SECRETS, "own-certificate", namespace=SYSTEM)


@parity(
    "Webhooks > For BGPPeer > FRR - Should reject two BGPPeers with the same address and overlapping nodeSelectors",
    "Webhooks > For BGPPeer > FRR - Should allow two BGPPeers with the same address when nodeSelectors are disjoint",
    "Webhooks > For Community > reject Community duplications > FRR - in large format",
    "BGP metrics > metrics > should be exposed by the controller > IPV6 - Checking service",
)
async def test_in_frr_mode_the_rules_of_frr_hold(user: Installed, tmp_path: Path) -> None:
    def on(*nodes: str) -> list[Any]:
        return [{"matchLabels": {"kubernetes.io/hostname": node}} for node in nodes]

    await alter(user, in_mode("frr"), tmp_path)
    await user.write("BGPPeer", "one", **PEER, nodeSelectors=on("n1", "n2"))
    said = await refused(user.write("BGPPeer", "two", **PEER, nodeSelectors=on("n2", "n3")))
    assert "already exists, FRR mode doesn't support duplicate BGPPeers selecting the same node" in said
    await user.write("BGPPeer", "two", **PEER, nodeSelectors=on("n3"))
    await twice(user, "large:1:2:3")
    await user.metered("2001:db8:6::/64", "BGPAdvertisement", ipFamilies=["IPv6"])


async def test_kubectl_applies_what_users_of_metallb_have_in_their_files(user: Installed, tmp_path: Path) -> None:
    await alter(user, in_mode("frr"), tmp_path)
    documents = list(yaml_text.load_all(SAMPLES.read_text(encoding="utf-8")))
    lines = user.lab.user.run("apply", "-f", str(SAMPLES)).splitlines()
    assert len([line for line in lines if line.endswith(" created")]) == len(documents)
    again = user.lab.user.run("apply", "-f", str(SAMPLES)).splitlines()
    assert len([line for line in again if line.endswith(" unchanged")]) == len(documents)
