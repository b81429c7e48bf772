"""A store tells what changed in a way that matters, once."""

import pytest

from kube.objects import ObjectKey, ObjectMeta, Service, ServiceSpec
from kube.store import Store, everything, generation


def a_service(name: str, *, version: int = 1, kind: str = "LoadBalancer", uid: str = "", at: int = 0) -> Service:
    meta = ObjectMeta(name=name, namespace="default", uid=uid or f"u-{name}", resource_version=str(version), generation=at)
    return Service(metadata=meta, spec=ServiceSpec(type=kind))


A, B, C = ObjectKey("default/a"), ObjectKey("default/b"), ObjectKey("default/c")


def test_an_object_that_came_is_news_once() -> None:
    store: Store[Service] = Store()
    assert store.put(a_service("a"), everything)
    assert store.take_changed() == {A}
    assert store.take_changed() == frozenset()


def test_a_new_edition_that_matters_to_nobody_is_kept_without_news() -> None:
    store: Store[Service] = Store()
    store.put(a_service("a"), everything)
    store.take_changed()
    newer = a_service("a", version=2)
    assert not store.put(newer, everything)
    assert store.get(A) is newer
    assert store.take_changed() == frozenset()


def test_a_new_object_under_an_old_name_is_news_whatever_the_fingerprint() -> None:
    store: Store[Service] = Store()
    store.put(a_service("a"), everything)
    assert store.put(a_service("a", version=2, uid="other"), lambda _: None)


def test_of_custom_resources_only_a_new_generation_counts() -> None:
    store: Store[Service] = Store()
    store.put(a_service("a", at=1), generation)
    assert not store.put(a_service("a", version=2, kind="ClusterIP", at=1), generation)
    assert store.put(a_service("a", version=3, at=2), generation)


def test_a_deleted_object_is_news_only_if_it_was_there() -> None:
    store: Store[Service] = Store()
    assert not store.delete(A)
    store.put(a_service("a"), everything)
    store.take_changed()
    assert store.delete(A)
    assert store.take_changed() == {A}
    assert store.get(A) is None


def test_a_list_brings_what_came_what_changed_and_what_went() -> None:
    store: Store[Service] = Store()
    store.replace([a_service("a"), a_service("b"), a_service("same")], everything)
    store.take_changed()
    assert store.replace([a_service("b", version=2, kind="ClusterIP"), a_service("c"), a_service("same")], everything)
    assert store.take_changed() == {A, B, C}
    assert not store.replace([a_service("b", version=3, kind="ClusterIP"), a_service("c"), a_service("same")], everything)


def test_the_first_list_is_news_even_if_it_is_empty() -> None:
    store: Store[Service] = Store()
    assert not store.synced
    assert store.replace([], everything)
    assert store.synced
    assert not store.replace([], everything)


def test_the_last_readable_edition_of_an_unreadable_object_stays() -> None:
    store: Store[Service] = Store()
    store.replace([a_service("a")], everything)
    store.replace([], everything, keep=[A, B])
    assert set(store.snapshot()) == {A}


def test_a_snapshot_does_not_change_and_costs_nothing_when_asked_again() -> None:
    store: Store[Service] = Store()
    store.put(a_service("a"), everything)
    before = store.snapshot()
    assert store.snapshot() is before
    store.put(a_service("b"), everything)
    assert set(before) == {A}
    assert set(store.snapshot()) == {A, B}
    store.delete(A)
    assert set(store.snapshot()) == {B}
    assert len(store) == 1
    with pytest.raises(TypeError):
        before[C] = a_service("c")  # type: ignore[index]  # that it cannot be done is the point
