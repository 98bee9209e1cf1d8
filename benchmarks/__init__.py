"""Timings of the hot paths against their alternatives: `make bench`, python -m benchmarks NAME."""

NAMES = (
    *("sampling", "confusion", "generator", "cagnet", "training"),
    *("extraction", "pseudo_labels", "graphs", "regions", "eigenvectors"),
)
