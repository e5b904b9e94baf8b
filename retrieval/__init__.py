"""Search, retrieval benchmarks and the command line."""
