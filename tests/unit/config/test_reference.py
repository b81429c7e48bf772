from __future__ import annotations

from config import reference
from config.kinds import KINDS


def test_there_is_a_page_for_each_kind_and_one_that_lists_them() -> None:
    pages = reference.files()
    assert set(pages) == {"resources.md", *(f"{kind.singular}.md" for kind in KINDS.values())}
    assert all(f"[{kind}]" in pages["resources.md"] for kind in KINDS)
    assert reference.files() == pages


def test_a_page_says_type_default_bounds_and_meaning() -> None:
    page = reference.page(KINDS["BGPPeer"])
    assert "| `spec.peerPort` | integer | `179` | at least 1; at most 16384 | The TCP port of the router. |" in page
    assert "| `spec.myASN` | integer | required |" in page
    assert "`external`, `internal`" in page
    assert page.index("## metallb.io/v1beta2") < page.index("## metallb.io/v1beta1")
    assert "Deprecated: v1beta1 is deprecated" in page


def test_members_of_lists_are_unfolded_but_for_label_selectors() -> None:
    page = reference.page(KINDS["L2Advertisement"])
    assert "| `spec.preferredNodeSelectors[].weight` | integer | required |" in page
    assert "| `spec.nodeSelectors` | list of label selectors |" in page
    assert "matchLabels" not in page
    assert "`kubectl get l2advertisements`" in page
