"""Who is calling, and may they: tokens, client certificates, impersonation, RBAC.

The administrator has one static token. Service accounts get signed tokens from TokenRequest; a token dies with its account.
RBAC is evaluated from the stored roles and bindings for everybody but system:masters, so a verb that is missing from a Role
fails here. Rules of a user are collected once and kept until a role or binding changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.apiserver.errors import ApiError, forbidden_request, qualified
from lab.apiserver.store import Store

Json = dict[str, Any]
AUDIENCE = "https://kubernetes.default.svc"
_RBAC = "rbac.authorization.k8s.io"
BASIC_REVIEWS = {  # What everybody who is known may ask about themselves: the cluster role system:basic-user.
    "authentication.k8s.io": ["selfsubjectreviews"], "authorization.k8s.io": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
}  # fmt: skip
_BASIC = (
    'RBAC: allowed by ClusterRoleBinding "system:basic-user" of ClusterRole "system:basic-user" to Group "system:authenticated"'
)
_SHELVES = tuple(f"{p}.{_RBAC}" for p in ("roles", "rolebindings", "clusterroles", "clusterrolebindings"))


@dataclass(frozen=True, slots=True)
class User:
    """A caller."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Json = field(default_factory=dict, compare=False, hash=False)


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN = User("admin", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request wants to do: on a resource (`path` empty) or a path."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


def service_account(namespace: str, name: str, uid: str = "", extra: Json | None = None) -> User:
    """The user a service account is."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra or {})


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Tokens:
    """Knows the administrator's token; issues and checks those of service accounts, signed with the server's secret (HS256)."""

    def __init__(self, secret: bytes, store: Store, admin_token: str) -> None:
        self._secret, self._store, self._admin_token = secret, store, admin_token

    def issue(self, namespace: str, name: str, uid: str, audiences: list[str], seconds: int, now: float) -> str:
        """A token for a service account."""
        claims = {
            "iss": AUDIENCE, "aud": audiences, "sub": f"system:serviceaccount:{namespace}:{name}", "iat": int(now), "nbf": int(now),
            "exp": int(now) + seconds,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        }  # fmt: skip
        body = _b64(b'{"alg":"HS256","typ":"JWT"}') + "." + _b64(msgspec.json.encode(claims))
        return body + "." + self._sign(body)

    def _sign(self, body: str) -> str:
        return _b64(hmac.new(self._secret, body.encode(), hashlib.sha256).digest())

    def check(self, token: str, now: float) -> tuple[User, list[str]] | None:
        """The user of a token and its audiences, or None."""
        if hmac.compare_digest(token.encode(), self._admin_token.encode()):
            return ADMIN, [AUDIENCE]
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._sign(body).encode(), signature.encode()):
            return None
        try:
            claims = msgspec.json.decode(_unb64(body.partition(".")[2]))
        except (msgspec.DecodeError, binascii.Error):
            return None
        private = claims["kubernetes.io"]
        namespace, account = private["namespace"], private["serviceaccount"]
        stored = self._store.get("serviceaccounts", (namespace, account["name"]))
        if now >= claims["exp"] or stored is None or stored.uid != account["uid"]:
            return None
        identifier = f"JTI={hashlib.sha256(token.encode()).hexdigest()[:32]}"
        extra = {"authentication.kubernetes.io/credential-id": [identifier]}
        return service_account(namespace, account["name"], account["uid"], extra), claims["aud"]


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule that holds for a user, where it holds ("" everywhere), and the binding it comes from."""

    namespace: str
    rule: Json
    reason: str


def _has(values: Iterable[str], wanted: str) -> bool:
    return any(v in {"*", wanted} for v in values)


def _covers(rule: Json, wanted: Attributes) -> bool:
    if not _has(rule.get("verbs") or (), wanted.verb):
        return False
    if wanted.path:
        urls = rule.get("nonResourceURLs") or ()
        return any(u in {"*", wanted.path} or (u.endswith("*") and wanted.path.startswith(u[:-1])) for u in urls)
    resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    resources = rule.get("resources") or ()
    named = _has(resources, resource) or (bool(wanted.subresource) and f"*/{wanted.subresource}" in resources)
    names = rule.get("resourceNames") or ()
    return _has(rule.get("apiGroups") or (), wanted.group) and named and (not names or wanted.name in names)


class Authorizer:
    """RBAC over what is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = -1
        self._grants: dict[User, list[Grant]] = {}

    def grants(self, user: User) -> list[Grant]:
        """All rules that hold for a user."""
        version = max(self._store.shelf(s).version for s in _SHELVES)
        if version != self._version:
            self._version, self._grants = version, {}
        found = self._grants.get(user)
        if found is None:
            found = self._grants[user] = list(self._collect(user))
        return found

    def _collect(self, user: User) -> Iterator[Grant]:
        for scope, shelf in (("RoleBinding", "rolebindings"), ("ClusterRoleBinding", "clusterrolebindings")):
            for (namespace, name), stored in self._store.shelf(f"{shelf}.{_RBAC}").objects.items():
                binding = msgspec.json.decode(stored.body)
                subject = next((s for s in binding.get("subjects") or () if _is_subject(s, user)), None)
                if subject is None:
                    continue
                reference = binding["roleRef"]
                clustered = reference["kind"] == "ClusterRole"
                key = ("" if clustered else namespace, reference["name"])
                role = self._store.get(f"{'clusterroles' if clustered else 'roles'}.{_RBAC}", key)
                where = f"{name}/{namespace}" if namespace else name
                who = f"{subject['name']}/{subject['namespace']}" if subject.get("namespace") else subject["name"]
                reason = f'RBAC: allowed by {scope} "{where}" of {reference["kind"]} "{reference["name"]}" to {subject["kind"]} "{who}"'
                for rule in msgspec.json.decode(role.body).get("rules") or () if role else ():
                    yield Grant(namespace, rule, reason)

    def allows(self, user: User, wanted: Attributes) -> tuple[bool, str]:
        """Whether the user may, and by which binding."""
        if "system:masters" in user.groups:
            return True, ""
        if wanted.path and wanted.verb == "get" and _public(wanted.path, user):
            return True, ""
        for grant in self.grants(user):
            if grant.namespace and (wanted.path or grant.namespace != wanted.namespace):
                continue
            if _covers(grant.rule, wanted):
                return True, grant.reason
        if (
            wanted.verb == "create"
            and "system:authenticated" in user.groups
            and wanted.resource in BASIC_REVIEWS.get(wanted.group, ())
        ):
            return True, _BASIC
        return False, ""

    def require(self, user: User, wanted: Attributes) -> None:
        """Let the request pass.

        Raises:
            ApiError: 403 with the server's text.

        """
        if self.allows(user, wanted)[0]:
            return
        who = f'User "{user.name}" cannot {wanted.verb}'
        if wanted.path:
            raise ApiError(403, "Forbidden", f'forbidden: {who} path "{wanted.path}"', details={})
        resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
        named = qualified(wanted.resource, wanted.group) + (f' "{wanted.name}"' if wanted.name else "")
        where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
        message = f'{named} is forbidden: {who} resource "{resource}" in API group "{wanted.group}" {where}'
        raise forbidden_request(message, wanted.group, wanted.resource, wanted.name)


def _is_subject(subject: Json, user: User) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace', '')}:{subject['name']}"
    return False


_PUBLIC = ("/healthz", "/livez", "/readyz", "/version")
_DISCOVERY = ("/api", "/apis", "/openapi")


def _public(path: str, user: User) -> bool:
    """Health and version are for everybody, discovery for whoever is known."""
    if any(path == p or path.startswith(p + "/") for p in _PUBLIC):
        return True
    known = "system:authenticated" in user.groups
    return known and (path == "/" or any(path == p or path.startswith(p + "/") for p in _DISCOVERY))


def wall_clock() -> float:
    """Seconds since the epoch; tokens live by it."""
    return time.time()
