"""Documents in, one compiled policy out: every ambiguity is settled here, for one profile and one workload. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mesh_iptables.policy.compile_istio import compile_istio
from mesh_iptables.policy.compile_osm import compile_osm
from mesh_iptables.policy.complaint import Complaint, Severity
from mesh_iptables.policy.documents import Documents
from mesh_iptables.policy.model import EgressPolicy, Profile
from mesh_iptables.policy.settings import Settings


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy with all complaints about its documents; no policy if one of them is fatal."""

    policy: EgressPolicy | None
    complaints: tuple[Complaint, ...]

    @property
    def has_errors(self) -> bool:
        return any(complaint.severity.rejects for complaint in self.complaints)


def compile_policy(documents: Documents, settings: Settings) -> Compiled:
    """The policy of `settings.identity`. Documents with errors are left out, as they are from a cluster."""
    if any(complaint.severity is Severity.FATAL for complaint in documents.complaints):
        return Compiled(None, documents.complaints)
    compiler = compile_osm if settings.profile is Profile.OSM else compile_istio
    policy, complaints = compiler(documents, settings)
    return Compiled(policy, (*documents.complaints, *complaints))
