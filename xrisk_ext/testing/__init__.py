"""Inputs with names, shared by the tests and the benchmarks; the package itself imports none of it.

cases.py holds the benchmarks' cases, scores.py the kinds of scores that break or slow a kernel.
"""
