from __future__ import annotations

from pathlib import Path

import pytest

from lab.apiserver import store as store_module
from lab.apiserver.errors import ApiError
from lab.apiserver.store import Key, Store, Stored


def index(_resource: str, key: Key, rv: int, body: bytes) -> Stored:
    return Stored(key, rv, body, {}, {}, f"uid-{key[1]}")


def put(store: Store, name: str, body: bytes = b"{}") -> int:
    rv = store.next_rv()
    store.put("things", Stored(("ns", name), rv, body, {}, {}, f"uid-{name}"))
    return rv


def remove(store: Store, name: str) -> int:
    rv = store.next_rv()
    store.delete("things", Stored(("ns", name), rv, b"{}", {}, {}, f"uid-{name}"))
    return rv


def names(store: Store) -> list[str]:
    return [name for _, name in store.shelf("things").sorted_keys()]


def test_a_reopened_store_has_the_same_objects_versions_and_history(tmp_path: Path) -> None:
    store = Store(tmp_path, index)
    first = put(store, "a", b'{"v":1}')
    put(store, "b")
    put(store, "a", b'{"v":2}')
    last = remove(store, "b")
    store.close()

    again = Store(tmp_path, index)

    assert again.rv == last
    assert names(again) == ["a"]
    kept = again.get("things", ("ns", "a"))
    assert kept is not None
    assert kept.body == b'{"v":2}'
    changes = again.changes_since("things", first)
    assert [(c.before is None, c.now is None) for c in changes] == [(True, False), (False, False), (False, True)]
    again.close()


def test_a_line_that_was_not_finished_is_forgotten_and_writing_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path, index)
    put(store, "a")
    store.close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'["P",2,"things","ns","half"]\n{"torn":')

    again = Store(tmp_path, index)
    put(again, "b")
    again.close()
    third = Store(tmp_path, index)

    assert names(third) == ["a", "b"]
    third.close()


def test_a_file_that_is_no_journal_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"hello\nworld\n")

    with pytest.raises(RuntimeError, match=r"journal\.jsonl.*not a journal line"):
        Store(tmp_path, index)


def test_state_at_an_older_version_is_what_was_there_then(tmp_path: Path) -> None:
    store = Store(tmp_path, index)
    put(store, "a", b'{"v":1}')
    then = put(store, "b")
    put(store, "a", b'{"v":2}')
    remove(store, "b")
    put(store, "c")

    state = store.state_at("things", then)

    assert {key[1]: stored.body for key, stored in state.items()} == {"a": b'{"v":1}', "b": b"{}"}
    store.close()


def test_compaction_keeps_the_objects_and_ends_the_history(tmp_path: Path) -> None:
    store = Store(tmp_path, index)
    old = put(store, "a")
    put(store, "b")
    remove(store, "b")
    store.compact()
    put(store, "c")
    store.close()

    again = Store(tmp_path, index)

    assert names(again) == ["a", "c"]
    assert again.rv == 4
    with pytest.raises(ApiError) as caught:
        again.changes_since("things", old)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    assert len(again.changes_since("things", 3)) == 1
    with pytest.raises(ApiError):
        again.changes_since("others", old)
    again.close()


def test_a_long_journal_compacts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMPACT_AT_BYTES", 2000)
    store = Store(tmp_path, index)
    for turn in range(100):
        put(store, "a", b'{"turn":%d}' % turn)

    assert (tmp_path / "journal.jsonl").stat().st_size < 4000
    store.close()
    again = Store(tmp_path, index)
    kept = again.get("things", ("ns", "a"))
    assert kept is not None
    assert kept.body == b'{"turn":99}'
    again.close()


def test_history_is_bounded_and_says_when_it_is_too_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_PER_RESOURCE", 3)
    store = Store(tmp_path, index)
    shelf = store.shelf("things")
    shelf.history = type(shelf.history)(maxlen=3)
    for name in "abcde":
        put(store, name)

    assert [c.rv for c in store.changes_since("things", 2)] == [3, 4, 5]
    with pytest.raises(ApiError):
        store.changes_since("things", 1)
    with pytest.raises(ApiError):
        store.state_at("things", 1)
    store.close()
