"""What a real API server is started with; that it then serves is shown where KUBEBUILDER_ASSETS names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import realapi


def test_without_the_variable_there_is_no_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(realapi.ENVIRONMENT, raising=False)
    assert realapi.assets() is None


def test_a_directory_without_the_programs_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(realapi.ENVIRONMENT, str(tmp_path))
    with pytest.raises(OSError, match="has no program etcd"):
        realapi.assets()
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).touch(mode=0o755)
    assert realapi.assets() == tmp_path


def test_the_api_server_enforces_rbac_and_signs_tokens_with_the_labs_own_keys(tmp_path: Path) -> None:
    flags = realapi.apiserver_arguments(tmp_path, 2379, "192.0.2.1", 6443)
    assert {
        "--etcd-servers=http://127.0.0.1:2379", "--bind-address=192.0.2.1", "--secure-port=6443", "--authorization-mode=RBAC",
        f"--service-account-signing-key-file={tmp_path}/pki/sa.key", "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
    } <= set(flags)  # fmt: skip


def test_endpoints_are_those_of_the_ipv4_slices_by_readiness() -> None:
    slices: list[dict[str, Any]] = [
        {
            "addressType": "IPv4", "ports": [{"name": "https", "port": 9443, "protocol": "TCP", "appProtocol": None}],
            "endpoints": [
                {"addresses": ["192.0.2.1"], "conditions": {"ready": True}}, {"addresses": ["192.0.2.2"], "conditions": {"ready": False}},
            ],
        },
        {"addressType": "IPv6", "ports": None, "endpoints": [{"addresses": ["2001:db8::1"]}]},
    ]  # fmt: skip
    assert realapi.endpoints_of(slices) == {
        "subsets": [
            {
                "ports": [{"name": "https", "port": 9443, "protocol": "TCP"}], "addresses": [{"ip": "192.0.2.1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}],
            }
        ]
    }  # fmt: skip
