"""Real Pods: the images of Dockerfile.init in a container engine of the tests' own."""
