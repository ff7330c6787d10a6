"""All clusters of a policy together: when their names are looked up."""

from __future__ import annotations

import gc
from weakref import ref

from mesh_iptables.policy.model import Cluster, ClusterKind, Endpoint

from .world import ORIGINAL, World, policy

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


def test_a_policy_that_is_replaced_is_freed_without_the_garbage_collector() -> None:
    world = World()
    active = world.activate(policy(clusters=(*many()[:10], ORIGINAL)))
    for name in ("host0.example.com", "site"):
        world.resolves(name, "192.0.2.10")
    clusters = [ref(cluster) for cluster in active.surroundings.clusters]
    world.passes(60)
    gc.disable()
    try:
        active.surroundings.clusters.retire()
        del active
        assert [cluster() for cluster in clusters] == [None] * len(clusters)
    finally:
        gc.enable()
