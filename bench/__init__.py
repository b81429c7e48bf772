"""Timings, as ratios, for a quiet machine. Nothing here runs in CI with a limit."""
