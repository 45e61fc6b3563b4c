"""What the model costs, measured in one run: only ratios are claimed. `python -m benchmarks.NAME [--json]`."""
