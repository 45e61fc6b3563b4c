"""Runs trials: the runner protocol, the runner without Ray, one trial's edge, time limits, progress, tracking.

Everything here works without Ray; `running/ray/` holds the runner on Ray."""
