"""Proof that pretraining learns time: full-difficulty clips in memory, arms, ablations, a report.

`python -m benchmarks.proof.clips`, `.train`, `.ablations` and `.report`; README.md tells the order.
"""
