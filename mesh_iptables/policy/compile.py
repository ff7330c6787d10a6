"""Documents in, one compiled policy out: every ambiguity is settled here, for one profile and one workload. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mesh_iptables.errors import UsageError
from mesh_iptables.policy import istio_schema, osm_schema
from mesh_iptables.policy.compile_fence import compile_fence, fence_complaints
from mesh_iptables.policy.compile_istio import compile_istio
from mesh_iptables.policy.compile_osm import compile_osm
from mesh_iptables.policy.complaint import Complaint, Severity
from mesh_iptables.policy.documents import Documents, read_documents
from mesh_iptables.policy.model import EgressPolicy, Profile
from mesh_iptables.policy.settings import Settings

Source = tuple[str, bytes | str]
"""A file: its name for complaints, its content."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy with all complaints about its documents; no policy if one of them is fatal."""

    policy: EgressPolicy | None
    complaints: tuple[Complaint, ...]

    @property
    def has_errors(self) -> bool:
        return any(complaint.severity.rejects for complaint in self.complaints)


def compile_sources(
    sources: Iterable[Source], allow: Sequence[str], settings: Settings, *, strict: bool = False
) -> Compiled:
    """The policy of files, or of `--allow` entries. Raises UsageError where both are given.

    `strict`: an unknown field is an error, and one error anywhere leaves no policy at all.
    """
    sources = list(sources)
    if not allow:
        compat_1_0 = settings.profile is Profile.ISTIO_1_0
        compiled = compile_policy(read_documents(sources, strict=strict, compat_1_0=compat_1_0), settings)
        return replace(compiled, policy=None) if strict and compiled.has_errors else compiled
    if sources:
        raise UsageError("--allow: does not go with --policy: write the hosts into the policy, or leave it out")
    policy = compile_fence(allow, replace(settings, profile=Profile.FENCE))
    return Compiled(policy, tuple(fence_complaints(allow)))


def compile_policy(documents: Documents, settings: Settings) -> Compiled:
    """The policy of `settings.identity`. Documents with errors are left out, as they are from a cluster."""
    if any(complaint.severity is Severity.FATAL for complaint in documents.complaints):
        return Compiled(None, documents.complaints)
    compiler = compile_osm if settings.profile is Profile.OSM else compile_istio
    policy, complaints = compiler(documents, settings)
    return Compiled(policy, (*documents.complaints, *_of_other_profiles(documents, settings.profile), *complaints))


def _of_other_profiles(documents: Documents, profile: Profile) -> Iterator[Complaint]:
    """Documents that mean nothing in this profile, which may well be the wrong one."""
    schema = osm_schema if profile is Profile.OSM else istio_schema
    for document in documents.accepted:
        if type(document.spec).__module__ != schema.__name__:
            text = f"has no effect: profile {profile.value} does not know this kind"
            yield document.field.place.at().warning("other-profile", text)
