"""Egress policy: documents in, one compiled model out; both proxy engines follow the model alone."""
