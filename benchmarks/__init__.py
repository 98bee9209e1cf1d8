"""Timings of the hot paths against their alternatives: `make bench`, python -m benchmarks NAME."""

NAMES = ("sampling", "confusion", "generator", "cagnet", "extraction", "pseudo_labels", "graphs")
