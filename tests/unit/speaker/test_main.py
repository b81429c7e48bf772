"""How the process starts, and how it refuses to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def started(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "speaker", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_help_lists_the_flags_and_succeeds() -> None:
    ended = started("--help")
    assert ended.returncode == 0
    assert "--ml-bindaddr" in ended.stdout
    assert ended.stderr == ""


def test_starting_leaves_nothing_in_the_home_directory(tmp_path: Path) -> None:
    assert started("--help", HOME=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_node_name_is_one_sentence_and_exit_status_one() -> None:
    ended = started()
    assert ended.returncode == 1
    assert ended.stderr == "speaker: the name of the node is not known: give --node-name or METALLB_NODE_NAME\n"


def test_without_credentials_it_says_where_it_looked() -> None:
    ended = started("--node-name=a")
    assert ended.returncode == 1
    assert "no way to an API server" in ended.stderr


def test_without_a_namespace_it_says_which_flag_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n"
        "clusters: [{name: x, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n"
        "users: [{name: x, user: {token: t}}]\n"
    )
    ended = started("--node-name=a", KUBECONFIG=str(config))
    assert ended.returncode == 1
    assert "--namespace or METALLB_NAMESPACE" in ended.stderr
