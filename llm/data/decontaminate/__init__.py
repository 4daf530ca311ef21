"""Documents without the items of benchmarks."""
