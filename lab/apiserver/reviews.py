"""Requests that are answered and not stored: access reviews, tokens, scale, binding, eviction, namespace finalizing.

http.py calls these with decoded bodies; they ask auth.py and api.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from lab.apiserver import codec, patching
from lab.apiserver.api import Api, Call, DeleteOptions
from lab.apiserver.auth import AUDIENCE, BASIC_REVIEWS, Attributes, Authorizer, Tokens, User
from lab.apiserver.errors import MODIFIED, ApiError, bad_request, conflict, invalid, invalid_value
from lab.apiserver.resources import Resource
from lab.apiserver.store import Key
from lab.apiserver.tables import selector_text

Json = dict[str, Any]
SUCCESS: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _attributes(spec: Json) -> Attributes:
    wanted, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (wanted is None) == (path is None):
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise invalid("authorization.k8s.io", "", "", [invalid_value("spec.resourceAttributes", None, detail)])
    if path is not None:
        return Attributes(path.get("verb", ""), path=path.get("path", "/"))
    assert wanted is not None
    return Attributes(
        wanted.get("verb", ""), wanted.get("group", ""), wanted.get("resource", ""), wanted.get("subresource", ""),
        wanted.get("namespace", ""), wanted.get("name", ""),
    )  # fmt: skip


def _user_info(user: User) -> Json:
    out: Json = {"username": user.name}
    if user.uid:
        out["uid"] = user.uid
    out["groups"] = list(user.groups)
    if user.extra:
        out["extra"] = user.extra
    return out


def review(
    resource: Resource, document: Json, user: User, authorizer: Authorizer, tokens: Tokens, clock: Callable[[], float],
    api: Api,
) -> Json:  # fmt: skip
    """The answer to a review of any of the six kinds."""
    out: Json = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {"creationTimestamp": None}}
    spec = document.get("spec") or {}
    match resource.kind:
        case "SelfSubjectReview":
            out["metadata"] = {"creationTimestamp": api.timestamp()}
            return {**out, "status": {"userInfo": _user_info(user)}}
        case "TokenReview":
            found = tokens.check(spec.get("token", ""), clock())
            audiences = spec.get("audiences") or [AUDIENCE]
            if found is None or not set(found[1]) & set(audiences):
                return {**out, "spec": spec, "status": {"user": {}, "error": "[invalid bearer token]"}}
            status = {"authenticated": True, "user": _user_info(found[0]), "audiences": [a for a in audiences if a in found[1]]}
            return {**out, "spec": spec, "status": status}
        case "SelfSubjectRulesReview":
            return {**out, "spec": {}, "status": _rules(authorizer, user, spec.get("namespace", ""))}
        case "SelfSubjectAccessReview":
            who = user
        case _:
            who = User(spec.get("user", ""), tuple(spec.get("groups") or ()))
    allowed, reason = authorizer.allows(who, _attributes(spec))
    status = {"allowed": allowed, **({"reason": reason} if reason else {})}
    return {**out, "spec": spec, "status": status}


def _rules(authorizer: Authorizer, user: User, namespace: str) -> Json:
    resources: list[Json] = [{"verbs": ["create"], "apiGroups": [g], "resources": r} for g, r in BASIC_REVIEWS.items()]
    paths: list[Json] = [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version"]}]
    if "system:masters" in user.groups:
        resources.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        paths.append({"verbs": ["*"], "nonResourceURLs": ["*"]})
    for grant in authorizer.grants(user):
        if grant.namespace and grant.namespace != namespace:
            continue
        (paths if grant.rule.get("nonResourceURLs") else resources).append(grant.rule)
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def token_request(api: Api, tokens: Tokens, key: Key, document: Json, now: float) -> Json:
    """A token for a service account."""
    resource = api.registry.find("", "v1", "serviceaccounts")
    assert resource is not None
    account = api.find(resource, key)
    spec = document.get("spec") or {}
    seconds = spec.get("expirationSeconds") or 3600
    if seconds < 600:
        cause = invalid_value("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        raise invalid("authentication.k8s.io", "TokenRequest", "", [cause])
    audiences = spec.get("audiences") or [AUDIENCE]
    token = tokens.issue(key[0], key[1], account.uid, audiences, seconds, now)
    until = datetime.fromtimestamp(int(now) + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {"name": key[1], "namespace": key[0], "creationTimestamp": api.timestamp()},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": None},
        "status": {"token": token, "expirationTimestamp": until},
    }  # fmt: skip


def scale_of(document: Json) -> Json:
    """The Scale of a Deployment or ReplicaSet."""
    metadata = {k: document["metadata"][k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    status: Json = {"replicas": document["status"].get("replicas", 0)}
    status["selector"] = selector_text(document["spec"].get("selector"))
    spec = {"replicas": document["spec"]["replicas"]} if document["spec"].get("replicas") else {}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}


def scale(api: Api, resource: Resource, key: Key, verb: str, media: str, data: bytes, call: Call) -> Json:
    """Change the number of replicas."""
    stored = api.find(resource, key)
    document = api.document(resource, stored)
    try:
        body = codec.parse_json(data)
        now = {} if verb == "update" else scale_of(document)
        changed = patching.json_patch(now, body) if media == "application/json-patch+json" else patching.merge_patch(now, body)
        rv = (changed.get("metadata") or {}).get("resourceVersion", "")
        replicas = msgspec.convert((changed.get("spec") or {}).get("replicas", 0), int)
    except (ValueError, AttributeError, msgspec.ValidationError) as error:
        raise bad_request(f"the object provided is not a Scale: {error}") from error
    if rv not in {"", str(stored.rv)}:
        raise conflict(resource.group, resource.plural, key[1], MODIFIED)
    if replicas < 0:
        cause = invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid("autoscaling", "Scale", key[1], [cause])
    patch = msgspec.json.encode({"spec": {"replicas": replicas}})
    return scale_of(api.patch(resource, key, "application/merge-patch+json", patch, call)[0])


def finalize(api: Api, resource: Resource, key: Key, finalizers: list[str] | None) -> Json:
    """Set a namespace's finalizers; the last one gone, it goes."""
    stored = api.find(resource, ("", key[1]))
    document = api.document(resource, stored)

    def change(namespace: Json) -> None:
        namespace["spec"]["finalizers"] = finalizers or []
        if not finalizers:
            del namespace["spec"]["finalizers"]

    after = codec.copy_of(document)
    change(after)
    api.release(resource, ("", key[1]), change)
    return after


def bind(api: Api, resource: Resource, key: Key, document: Json) -> Json:
    """Put a pod on a node."""
    pod = api.document(resource, api.find(resource, key))
    node = (document.get("target") or {}).get("name", "")
    there = pod["spec"].get("nodeName")
    if there:
        message = (
            f'Operation cannot be fulfilled on pods/binding "{key[1]}": pod {key[1]} is already assigned to node "{there}"'
        )
        raise ApiError.named(409, "Conflict", message, "", "pods/binding", key[1])

    def change(pod: Json) -> None:
        pod["spec"]["nodeName"] = node
        condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": api.timestamp()}
        pod["status"]["conditions"] = [*(pod["status"].get("conditions") or []), condition]

    api.release(resource, key, change)
    return dict(SUCCESS)


def evict(api: Api, resource: Resource, key: Key, document: Json, call: Call) -> Json:
    """Delete a pod as a drain does. The lab has no disruption budgets."""
    options = document.get("deleteOptions") or {}
    api.delete(resource, key, DeleteOptions(grace_s=options.get("gracePeriodSeconds")), call)
    return dict(SUCCESS)
