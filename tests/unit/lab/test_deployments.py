"""How one template takes over from another; a Cluster below carries the decisions out at once."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from config.kinds.meta import ObjectMeta
from lab import workloads
from lab.deployments import REVISION, TEMPLATE_HASH_LABEL, roll_deployment
from lab.kinds import Deployment, DeploymentSpec, Pod, ReplicaSet, RollingUpdate, Strategy
from tests.unit.lab.test_workloads import TEMPLATE, a_pod

NOW = "2026-01-01T00:00:00Z"


def a_template(image: str) -> dict[str, Any]:
    return {**TEMPLATE, "spec": {"containers": [{"name": "c", "image": image}]}}


def a_deployment(replicas: int = 2, image: str = "nginx:1", **changes: Any) -> Deployment:
    spec = DeploymentSpec(replicas=replicas, template=a_template(image))
    meta = ObjectMeta(name="web", namespace="x", uid="d", generation=3, annotations={"kubernetes.io/change-cause": image})
    return Deployment(metadata=meta, spec=replace(spec, **changes))


@dataclass
class Cluster:
    """ReplicaSets and Pods as the decisions leave them. Pods become ready when a test says so."""

    deployment: Deployment
    replica_sets: list[ReplicaSet] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    made: int = 0
    fewest_ready: int = 99
    most: int = 0

    def step(self) -> bool:
        """Do once what is decided; whether there was anything to do."""
        changes = roll_deployment(self.deployment, self.replica_sets, self.pods, now=NOW)
        for view, patch in changes.patch:
            changed = merged(msgspec.to_builtins(view), patch)
            if view is self.deployment:
                self.deployment = msgspec.convert(changed, Deployment)
            else:
                after = msgspec.convert(changed, ReplicaSet)
                self.replica_sets = [after if each is view else each for each in self.replica_sets]
        self.replica_sets = [each for each in self.replica_sets if each not in changes.delete]
        for body in changes.create:
            body["metadata"]["uid"] = body["metadata"]["name"]
            self.replica_sets.append(msgspec.convert(body, ReplicaSet))
        busy = bool(changes.patch or changes.create or changes.delete)
        for replica_set in self.replica_sets:
            pods = workloads.roll_replica_set(replica_set, self.pods)
            self.pods = [each for each in self.pods if each not in pods.delete]
            for _ in pods.create:
                self.made += 1
                self.pods.append(a_pod(f"p{self.made}", owner=replica_set.metadata.uid, ready="False"))
            busy = busy or bool(pods.create or pods.delete)
        self.most = max(self.most, len(self.pods))
        return busy

    def settle(self) -> None:
        """Go on until nothing is left to do."""
        for _ in range(20):
            if not self.step():
                return
        raise AssertionError("it never settles")

    def make_ready(self) -> None:
        self.fewest_ready = min(self.fewest_ready, sum(map(workloads.is_ready, self.pods)))
        self.pods = [
            a_pod(pod.metadata.name, owner=(pod.metadata.owner_references or ())[0].uid) if not workloads.is_ready(pod) else pod
            for pod in self.pods
        ]

    def become(self, deployment: Deployment) -> None:
        """Change the Deployment's spec, as a user does."""
        meta = self.deployment.metadata
        self.deployment = replace(
            deployment, metadata=replace(meta, annotations={**(meta.annotations or {}), "kubernetes.io/change-cause": "by me"})
        )

    @property
    def replicas(self) -> list[int]:
        return [each.spec.replicas for each in self.replica_sets]


def merged(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386, for patches that remove nothing."""
    return {**old, **{k: merged(old.get(k, {}), v) if isinstance(v, dict) else v for k, v in patch.items()}}


def running(deployment: Deployment) -> Cluster:
    cluster = Cluster(deployment)
    cluster.settle()
    cluster.make_ready()
    cluster.settle()
    cluster.most, cluster.fewest_ready = 0, 99
    return cluster


def status_of(cluster: Cluster) -> dict[str, Any]:
    return roll_deployment(cluster.deployment, cluster.replica_sets, cluster.pods, now=NOW).status


def test_a_new_deployment_gets_a_replica_set_of_its_template() -> None:
    changes = roll_deployment(a_deployment(3), [], [], now=NOW)
    (body,) = changes.create
    hash_ = workloads.template_hash(a_template("nginx:1"))
    assert body["metadata"]["name"] == f"web-{hash_}"
    assert body["metadata"]["annotations"] == {"kubernetes.io/change-cause": "nginx:1", REVISION: "1"}
    assert body["metadata"]["ownerReferences"][0] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "web",
        "uid": "d",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert body["spec"]["replicas"] == 3
    assert body["spec"]["selector"]["matchLabels"] == {TEMPLATE_HASH_LABEL: hash_}
    assert body["spec"]["template"]["metadata"]["labels"] == {"app": "web", TEMPLATE_HASH_LABEL: hash_}
    assert body["spec"]["template"]["spec"] == a_template("nginx:1")["spec"]


def test_a_deployment_that_is_as_wanted_is_left_alone() -> None:
    cluster = running(a_deployment(2))
    assert not cluster.step()
    assert cluster.deployment.metadata.annotations == {"kubernetes.io/change-cause": "nginx:1", REVISION: "1"}
    assert status_of(cluster)["readyReplicas"] == 2
    assert [c["status"] for c in status_of(cluster)["conditions"]] == ["True", "True"]


def test_a_rolling_update_starts_new_pods_before_it_ends_old_ones() -> None:
    cluster = running(a_deployment(2))
    cluster.become(a_deployment(2, image="nginx:2"))
    cluster.settle()
    assert cluster.replicas == [2, 1]  # 25 % of two, rounded up, is one more.
    assert status_of(cluster)["conditions"][1]["reason"] == "ReplicaSetUpdated"
    cluster.make_ready()
    cluster.settle()
    assert cluster.replicas == [1, 2]
    cluster.make_ready()
    cluster.settle()
    assert (cluster.replicas, cluster.most, cluster.fewest_ready) == ([0, 2], 3, 2)
    assert status_of(cluster)["conditions"][1]["reason"] == "NewReplicaSetAvailable"


def test_a_large_update_stays_between_its_bounds() -> None:
    limits = Strategy(rolling_update=RollingUpdate(max_surge="30%", max_unavailable=2))
    cluster = running(a_deployment(10, strategy=limits))
    cluster.become(a_deployment(10, image="nginx:2", strategy=limits))
    for _ in range(10):
        cluster.settle()
        cluster.make_ready()
    assert (cluster.replicas, cluster.most, cluster.fewest_ready) == ([0, 10], 13, 8)


def test_old_pods_that_never_became_ready_make_way_first() -> None:
    cluster = running(a_deployment(4))
    broken = cluster.pods[0].metadata.name
    cluster.pods[0] = a_pod(broken, owner=cluster.replica_sets[0].metadata.uid, ready="False")
    cluster.become(a_deployment(4, image="nginx:2"))
    cluster.step()
    cluster.step()
    assert broken not in {pod.metadata.name for pod in cluster.pods}


def test_recreate_waits_until_the_last_old_pod_is_gone() -> None:
    cluster = running(a_deployment(1, strategy=Strategy(type="Recreate")))
    (old,) = cluster.pods
    cluster.become(a_deployment(1, image="nginx:2", strategy=Strategy(type="Recreate")))
    cluster.step()
    cluster.pods = [a_pod("p1", owner=cluster.replica_sets[0].metadata.uid, going=True)]
    cluster.settle()
    assert cluster.replicas == [0, 0]
    cluster.pods.remove(cluster.pods[0])
    cluster.settle()
    assert cluster.replicas == [0, 1]
    assert old not in cluster.pods


def test_an_update_that_allows_neither_more_nor_fewer_pods_still_moves() -> None:
    nothing = Strategy(rolling_update=RollingUpdate(max_surge=0, max_unavailable=0))
    cluster = running(a_deployment(1, strategy=nothing))
    cluster.become(a_deployment(1, image="nginx:2", strategy=nothing))
    cluster.settle()
    assert (cluster.replicas, cluster.most) == ([0, 1], 1)


def test_going_back_to_an_earlier_template_uses_its_replica_set_under_a_new_number() -> None:
    cluster = running(a_deployment(1))
    cluster.become(a_deployment(1, image="nginx:2"))
    cluster.settle()
    cluster.make_ready()
    cluster.settle()
    cluster.become(a_deployment(1))
    cluster.settle()
    cluster.make_ready()
    cluster.settle()
    assert cluster.replicas == [1, 0]
    assert [(each.metadata.annotations or {})[REVISION] for each in cluster.replica_sets] == ["3", "2"]
    assert (cluster.deployment.metadata.annotations or {})[REVISION] == "3"


def test_a_paused_deployment_is_scaled_and_not_updated() -> None:
    cluster = running(a_deployment(2))
    cluster.become(a_deployment(3, image="nginx:2", paused=True))
    cluster.settle()
    assert cluster.replicas == [3]
    cluster.become(a_deployment(3, image="nginx:2"))
    cluster.settle()
    assert cluster.replicas == [3, 1]
    cluster.become(a_deployment(5, image="nginx:2", paused=True))
    cluster.settle()
    assert cluster.replicas == [3, 1]  # Which of the two should grow is not known before it goes on.


def test_only_so_many_earlier_templates_are_kept_as_asked() -> None:
    cluster = running(a_deployment(1, revision_history_limit=1))
    for image in ("nginx:2", "nginx:3"):
        cluster.become(a_deployment(1, image=image, revision_history_limit=1))
        for _ in range(2):
            cluster.settle()
            cluster.make_ready()
        cluster.settle()
    assert [(each.metadata.annotations or {})[REVISION] for each in cluster.replica_sets] == ["2", "3"]


def test_an_unchanged_status_stays_equal_as_time_passes() -> None:
    cluster = running(a_deployment(2))
    status = status_of(cluster)
    deployment = replace(cluster.deployment, status=status)
    later = roll_deployment(deployment, cluster.replica_sets, cluster.pods, now="2026-01-01T01:00:00Z").status
    assert later == status
