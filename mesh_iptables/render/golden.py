"""A plan of dialect `istio-1.2x` as Istio's own golden files record it: all that the tool would run. Pure."""

from __future__ import annotations

from mesh_iptables.render.restore_1_2x import family_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_iptables.model import Plan


def render(plan: Plan) -> str:
    """The look at what is there (always both families), the restore texts, the final dump."""
    ipv6 = family_text(plan, "ipv6")
    dump = "iptables-save\nip6tables-save\n" if ipv6 else "iptables-save\n"
    return f"iptables-save\nip6tables-save\n{family_text(plan, 'ipv4')}{ipv6}{dump}"
