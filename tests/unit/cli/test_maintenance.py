"""What `lbctl maintenance` changes on a Node, and what it leaves alone."""

import pytest

from cli.maintenance import COULD_NOT, MARK, changes, run
from config.model import EXCLUDE_LABEL as LABEL

SET = {"metadata": {"labels": {LABEL: ""}, "annotations": {MARK: "lbctl"}}}
TAKEN_BACK = {"metadata": {"labels": {LABEL: None}, "annotations": {MARK: None}}}


@pytest.mark.parametrize(
    ("verb", "labels", "annotations", "patch"),
    [
        ("start", {"zone": "a"}, {}, SET),
        ("start", {LABEL: ""}, {}, {}),
        ("start", {LABEL: ""}, {MARK: "lbctl"}, {}),
        ("stop", {LABEL: ""}, {MARK: "lbctl"}, TAKEN_BACK),
        ("stop", {}, {MARK: "lbctl"}, TAKEN_BACK),
        ("stop", {}, {}, {}),
    ],
)
def test_a_verb_changes_no_more_than_needed(
    verb: str, labels: dict[str, str], annotations: dict[str, str], patch: dict[str, object]
) -> None:
    assert changes(verb, labels, annotations) == patch


def test_a_label_that_somebody_else_has_set_is_not_taken_back() -> None:
    why = changes("stop", {LABEL: ""}, {})
    assert isinstance(why, str)
    assert LABEL in why


def test_without_credentials_it_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["start", "n1"]) == COULD_NOT
    assert "KUBECONFIG is not set" in capsys.readouterr().err
