"""Benchmarks: ratios within one run, against a named peer or limit. `make bench` prints them."""
