"""Analyses of an ablation: each arm against the baseline on the same seeds, factorial contrasts, hypotheses, robust
means, and cost effectiveness."""
