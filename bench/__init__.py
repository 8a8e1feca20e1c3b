"""Benchmarks: ratios within one run, against a named peer or limit.

`make bench` prints them; `python -m bench.ablation` takes longer and runs apart.
"""
