"""Recorded results. The harness is xrisk_ext/bench, the cases xrisk_ext/testing/cases.py."""
