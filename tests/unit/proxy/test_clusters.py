"""All clusters of a policy together: when their names are looked up."""

from __future__ import annotations

from mesh_iptables.policy.model import Cluster, ClusterKind, Endpoint

from .world import World, policy

MANY = 1000


def many() -> tuple[Cluster, ...]:
    """Clusters whose names must be resolved."""
    names = (f"host{number}.example.com" for number in range(MANY))
    return tuple(Cluster(name, ClusterKind.STRICT_DNS, endpoints=(Endpoint(name, 80),)) for name in names)


def test_thousands_of_names_are_begun_with_little_by_little() -> None:
    world = World()
    world.activate(policy(clusters=many()))
    assert 0 < len(world.watchers) < MANY / 10
    world.passes(0.1)
    assert len(world.watchers) == MANY


def test_a_policy_that_is_replaced_begins_with_no_more_names() -> None:
    world = World()
    active = world.activate(policy(clusters=many()))
    active.surroundings.clusters.retire()
    world.passes(0.1)
    assert len(world.watchers) < MANY / 10
