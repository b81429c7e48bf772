"""MetalLB's end-to-end tests of addresses: pools, requests, families, sharing, restarts; by the controller process in the lab."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kube.resources import IP_ADDRESS_POOLS
from lab.scenarios.stage import BACKENDS, NAMESPACE, SYSTEM, Stage
from tests.e2e.conftest import Lab
from tests.e2e.installed import HOME, Installed, addresses, install, opened, until

pytestmark = [pytest.mark.needs("root", "nginx", "nft", "kubectl"), pytest.mark.timeout(180)]

ASSIGNMENT = "IP Assignment > IPV4 Assignment >"
PINNED = "IP Assignment > IPV4 - Validate service allocation in address pools >"
DUAL = "IP Assignment > PREFER DUALSTACK >"
A, B, SIX = "198.51.100.0/24", "203.0.113.0/24", "2001:db8:6::/64"
FIRST_A, FIRST_B, FIRST_SIX = "198.51.100.0", "203.0.113.0", "2001:db8:6::"
PREFER: dict[str, Any] = {"ipFamilyPolicy": "PreferDualStack"}
V6: dict[str, Any] = {"ipFamilies": ["IPv6"]}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {"IPV4": (A, FIRST_A, {}), "IPV6": (SIX, FIRST_SIX, V6)}


def parity(*titles: str) -> pytest.MarkDecorator:
    return pytest.mark.parity(*titles)


@pytest.fixture(scope="module")
def product(lab: Lab) -> Lab:
    """The session's lab with the product in it."""
    install(lab)
    return lab


@pytest.fixture
async def user(product: Lab) -> AsyncIterator[Installed]:
    """Somebody with a cluster in which nothing is configured."""
    async with opened(product) as found:
        yield found


# Pools that Services ask for, and pools that answer


@pytest.mark.parametrize(
    ("family", "asks"),
    [
        pytest.param(family, asks, id=f"{family}-{asks}", marks=parity(f"L2 > validate requesting a specific address pool for Loadbalancer service > {family}{tail}"))
        for family in FAMILIES
        for asks, tail in (("metallb.io", ""), ("metallb.universe.tf", " (2)"))
    ],
)  # fmt: skip
async def test_a_service_gets_an_address_of_the_pool_it_names(user: Installed, family: str, asks: str) -> None:
    entry, first, spec = FAMILIES[family]
    await user.pool("by-itself", B, "2001:db8:a::/64")
    await user.pool("named", entry, autoAssign=False)
    await user.service("asks", annotations={f"{asks}/address-pool": "named"}, **spec)
    await user.has("asks", first)
    if asks == "metallb.universe.tf":
        assert f"{asks}/address-pool" in await user.told("asks", "deprecatedAnnotation")
    await user.service("does-not-ask", **spec)
    await user.has("does-not-ask", FIRST_B if family == "IPV4" else "2001:db8:a::")


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, id=form, marks=parity(f"L2 > validate different AddressPools for type=Loadbalancer > set different AddressPools ranges modes > AddressPool defined by {form}"))
        for form in ("address range", "network prefix")
    ],
)  # fmt: skip
async def test_addresses_of_pools_of_either_form_answer(product: Lab, form: str) -> None:
    async with opened(product) as user, Stage.opened(product.paths) as stage:
        await stage.add_web_servers()
        network = stage.topology.network
        first = network[224]
        entry = f"{first}-{network[230]}" if form == "address range" else f"{first}/28"
        await user.pool("ranged", entry)
        await user.write("L2Advertisement", "ranged", ipAddressPools=["ranged"])
        await user.service(namespace=NAMESPACE, selector={"app": BACKENDS})
        await user.has("web", str(first), namespace=NAMESPACE)
        stage.client.ask(str(first))
        await stage.client.until(
            lambda: any(one.good and one.address == str(first) for one in stage.client.attempts) or None,
            limit_s=60,
            what=f"an answer from {first}",
        )
        stage.client.rest()


# Metrics and classes


@pytest.mark.parametrize(
    ("family", "advertisement"),
    [
        pytest.param(family, kind, id=f"{kind}-{family}", marks=parity(f"{suite} > should be exposed by the controller > {family} - Checking service"))
        for kind, suite in (("L2Advertisement", "L2 > metrics"), ("BGPAdvertisement", "BGP metrics > metrics"))
        for family in FAMILIES
        if (kind, family) != ("BGPAdvertisement", "IPV6")  # Only where BGP is spoken by FRR: test_metallb_webhooks.py.
    ],
)  # fmt: skip
async def test_the_controller_shows_pools_in_its_metrics(user: Installed, family: str, advertisement: str) -> None:
    entry, _, spec = FAMILIES[family]
    await user.metered(entry, advertisement, **spec)


@parity("LoadBalancer class > A service with loadbalancer class > should not get an ip")
async def test_a_service_of_another_class_gets_no_address(user: Installed) -> None:
    await user.pool("test", A)
    await user.service("classy", loadBalancerClass="example.com/another")
    await user.service("plain")
    await user.has("plain", FIRST_A)
    classy = await user.get("classy")
    assert (addresses(classy), classy.status.conditions) == ((), None)


# Holders, restarts, sharing


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, id=how, marks=parity(f"{ASSIGNMENT} should remove the ip from a service assign it to a free one when > {how}"))
        for how in ("changing the service type to clusterIP", "deleting the service")
    ],
)  # fmt: skip
async def test_an_address_given_up_goes_to_the_service_that_waits(user: Installed, how: str) -> None:
    await user.pool("one", "198.51.100.7/32")
    await user.service("holds")
    await user.has("holds", "198.51.100.7")
    await user.service("waits")
    await user.has("waits")
    if how == "deleting the service":
        await user.drop("holds")
    else:
        await user.change("holds", type="ClusterIP")
    await user.has("waits", "198.51.100.7")
    if how != "deleting the service":
        assert addresses(await user.get("holds")) == ()


@parity(f"{ASSIGNMENT} should preseve the same external ip after controller restart")
async def test_addresses_stay_over_five_restarts_while_others_wait(user: Installed) -> None:
    await user.pool("three", "198.51.100.1-198.51.100.3")
    holders = {f"holds-{last}": f"198.51.100.{last}" for last in (1, 2, 3)}
    for name, address in holders.items():
        await user.service(name)
        await user.has(name, address)
    for name in ("waits-1", "waits-2"):
        await user.service(name)
        await user.has(name)
    versions = {name: (await user.get(name)).metadata.resource_version for name in holders}
    for _ in range(5):
        before = user.controllers()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await user.decides(instead_of=before)
    assert {name: (await user.get(name)).metadata.resource_version for name in holders} == versions, "nothing was written"
    for name, address in holders.items():
        await user.has(name, address)
    for name in ("waits-1", "waits-2"):
        await user.has(name)
    await user.ready()


@parity(f"{ASSIGNMENT} should reconsider services when sharing the ip and conditions change")
async def test_sharing_is_reconsidered_when_conditions_change(user: Installed) -> None:
    await user.pool("one", "198.51.100.7/32")
    shared, both = "198.51.100.7", {"metallb.io/allow-shared-ip": "key"}
    for name, port in (("a", 80), ("b", 81)):
        await user.service(name, annotations=both, ports=[{"port": port}])
        await user.has(name, shared)
    await user.change("b", externalTrafficPolicy="Local")
    await user.has("b")
    await user.has("a", shared)
    await user.change("a", externalTrafficPolicy="Local")
    await user.has("b", shared)
    await user.has("a", shared)
    await user.change("a", selector={"app": "other"})
    await user.has("a")
    await user.has("b", shared)
    await user.change("b", selector={"app": "other"})
    await user.has("b", shared)
    await user.has("a", shared)


@parity("IP Assignment > IPV4 removing pools > removes all pools")
async def test_without_pools_nobody_has_an_address(user: Installed) -> None:
    await user.pool("a", A)
    await user.pool("b", B)
    for name, pool, first in (("x", "a", FIRST_A), ("y", "b", FIRST_B)):
        await user.service(name, annotations={"metallb.io/address-pool": pool})
        await user.has(name, first)
    await user.drop_pool("a")
    await user.drop_pool("b")
    await user.has("x")
    await user.has("y")


@parity("IP Assignment > IPV4 removing pools > reallocates svc after deleting a pool")
async def test_a_service_whose_pool_is_deleted_moves(user: Installed) -> None:
    await user.pool("a", A)
    await user.service()
    await user.has("web", FIRST_A)
    await user.pool("b", B)
    await user.drop_pool("a")
    await user.has("web", FIRST_B)
    assert "not allowed by config" in await user.told("web", "ClearAssignment")


# Pools pinned to namespaces and labels

TEAM, LABEL = "parity-team", {"app": "pinned"}


@pytest.mark.parametrize(
    ("allocation", "namespace", "labels"),
    [
        pytest.param({"namespaces": [TEAM]}, TEAM, {}, id="namespace", marks=parity(f"{PINNED} with namespace")),
        pytest.param({"namespaces": [TEAM], "namespaceSelectors": [{"matchLabels": {"team": "another"}}]}, TEAM, {}, id="namespace or labels, by name", marks=parity(f"{PINNED} with namespace and namespace labels")),
        pytest.param({"namespaces": ["another"], "namespaceSelectors": [{"matchLabels": {"team": "metal"}}]}, TEAM, {}, id="namespace or labels, by label", marks=parity(f"{PINNED} with namespace and namespace labels")),
        pytest.param({"serviceSelectors": [{"matchLabels": LABEL}]}, HOME, LABEL, id="service label", marks=parity(f"{PINNED} with service label")),
        pytest.param({"namespaces": [TEAM], "serviceSelectors": [{"matchLabels": LABEL}]}, TEAM, LABEL, id="namespace and service label", marks=parity(f"{PINNED} with namespace and service label")),
        pytest.param({"namespaceSelectors": [{"matchLabels": {"team": "metal"}}]}, TEAM, {}, id="namespace labels", marks=parity(f"{PINNED} with namespace with labels")),
    ],
)  # fmt: skip
async def test_a_pinned_pool_serves_whom_it_is_pinned_to(
    user: Installed, allocation: dict[str, Any], namespace: str, labels: dict[str, str]
) -> None:
    await user.namespace(TEAM, team="metal")
    await user.pool("for-all", A)
    await user.pool("low", "10.20.1.0/24", serviceAllocation={"priority": 20, **allocation})
    await user.pool("pinned", B, serviceAllocation={"priority": 10, **allocation})
    await user.service("fits", namespace=namespace, labels=labels)
    await user.has("fits", FIRST_B, namespace=namespace)
    await user.service("does-not")
    await user.has("does-not", FIRST_A)
    if labels and namespace != HOME:
        await user.service("half", namespace=namespace)
        await user.has("half", "198.51.100.1", namespace=namespace)


@parity(f"{PINNED} with only priority")
async def test_of_pools_with_a_priority_the_lowest_number_serves_first(user: Installed) -> None:
    await user.pool("a-none", "10.20.1.0/24", serviceAllocation={})
    await user.pool("b-twenty", A, serviceAllocation={"priority": 20})
    await user.pool("c-ten", "203.0.113.7/32", serviceAllocation={"priority": 10})
    for name, expected in (("first", "203.0.113.7"), ("second", FIRST_A)):
        await user.service(name)
        await user.has(name, expected)


# Two families


@parity(f"{DUAL} Should select dual-stack pool if available")
async def test_a_pool_of_both_families_is_preferred(user: Installed) -> None:
    await user.pool("a", A)
    await user.pool("six", SIX)
    await user.pool("z-both", B, "2001:db8:d::/64")
    await user.service(**PREFER)
    await user.has("web", FIRST_B, "2001:db8:d::")


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        pytest.param([], FIRST_A, id="default", marks=parity(f"{DUAL} Should prefer primary ip ipv4 family among single-stack pools by default")),
        pytest.param(["IPv6", "IPv4"], FIRST_SIX, id="IPv6 first", marks=parity(f"{DUAL} Should prefer primary ipv6 ip family among single-stack pools")),
    ],
)  # fmt: skip
async def test_among_pools_of_one_family_the_primary_family_decides(
    user: Installed, families: list[str], expected: str
) -> None:
    await user.pool("a", A)
    await user.pool("six", SIX)
    spec: dict[str, Any] = {**PREFER, "ipFamilies": families} if families else PREFER
    await user.service(**spec)
    await user.has("web", expected)


@parity(f"{DUAL} Additional ip should be assigned when the assigned 1-stack pool becomes dual-stack")
async def test_a_pool_that_gains_a_family_gives_its_services_a_second_address(user: Installed) -> None:
    await user.pool("a", A)
    await user.service(**PREFER)
    await user.has("web", FIRST_A)
    await user.change_pool("a", A, SIX)
    await user.has("web", FIRST_A, FIRST_SIX)


@parity(f"{DUAL} Single-stack pool should assign based on svc changes between PreferDualStack and RequireDualStack")
async def test_a_pool_of_one_family_serves_who_prefers_two_and_not_who_requires_them(user: Installed) -> None:
    await user.pool("a", A)
    await user.service(**PREFER)
    await user.has("web", FIRST_A)
    await user.change("web", ipFamilyPolicy="RequireDualStack")
    await user.has("web")
    await user.change("web", ipFamilyPolicy="PreferDualStack")
    await user.has("web", FIRST_A)


@parity(f"{DUAL} Svc assigned from single-stack pool should not jump to dual-stack pool when it's available")
async def test_a_new_pool_of_both_families_moves_nobody(user: Installed) -> None:
    await user.pool("a", A)
    await user.service(**PREFER)
    await user.has("web", FIRST_A)
    await user.pool("a-both", B, "2001:db8:d::/64")
    await user.service("later", **PREFER)
    await user.has("later", FIRST_B, "2001:db8:d::")
    await user.has("web", FIRST_A)


@parity(f"{DUAL} When current dualstack pool becomes single-stack, svc should pick another dualstack pool if possible")
async def test_a_pool_that_loses_a_family_loses_its_services_to_another(user: Installed) -> None:
    await user.pool("a-both", A, SIX)
    await user.pool("b-both", B, "2001:db8:d::/64")
    await user.service(**PREFER)
    await user.has("web", FIRST_A, FIRST_SIX)
    await user.change_pool("a-both", A)
    await user.has("web", FIRST_B, "2001:db8:d::")


@parity("IP Assignment > Pool Status > DUALSTACK")
async def test_a_pool_counts_both_families(user: Installed) -> None:
    async def counts(four: int, six: int) -> None:
        wanted = {"assignedIPv4": four, "assignedIPv6": six, "availableIPv4": 4 - four, "availableIPv6": 4 - six}

        async def so() -> bool:
            return (await user.kube.get(IP_ADDRESS_POOLS, "counted", SYSTEM)).document.get("status") == wanted

        await until(so, str(wanted))

    await user.pool("counted", "198.51.100.0/30", "2001:db8:6::/126")
    await counts(0, 0)
    await user.service("both", ipFamilyPolicy="RequireDualStack")
    await user.service("one")
    await counts(2, 1)
    lie = {"status": {"assignedIPv4": 9, "assignedIPv6": 9, "availableIPv4": 9, "availableIPv6": 9}}
    await user.kube.patch(IP_ADDRESS_POOLS, "counted", lie, namespace=SYSTEM, subresource="status")
    await counts(2, 1)
    await user.drop("both")
    await counts(1, 0)
