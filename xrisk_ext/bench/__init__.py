"""Fair races of xrisk_ext against its peers: `python -m xrisk_ext bench` (extra: bench).

A benchmark is a case (xrisk_ext/testing/cases.py), its float64 truth (truth.py) and peers (a
function each in peers/). The harness knows none of them by name: race.py times, memory.py,
limits.py and launches.py measure, suite.py and plugin.py tie it to pytest-benchmark, record.py
keeps, tables.py and plot.py show, compare.py finds regressions, cli.py is the command.
"""
