"""Run egress fixtures: a world in namespaces, an engine, real clients, and what they must see."""
