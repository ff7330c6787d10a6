"""Add the init container and the proxy to workload manifests; every byte that is not ours stays. Pure."""
