"""Fair races of xrisk_ext against its peers: `python -m benchmarks.report` (`--quick` is short).

A benchmark is a case (cases.py), its float64 truth (truth.py) and peers (a function each in
peers/); the harness (race.py, memory.py, conftest.py, report.py) knows none of them by name.
"""
