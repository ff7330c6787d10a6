"""Measure our proxy beside HAProxy and Envoy, in turns, in one run."""
