"""Timings of the hot paths against their alternatives: `make bench`, python -m benchmarks NAME."""

NAMES = ("sampling", "confusion", "generator", "extraction", "pseudo_labels", "graphs")
