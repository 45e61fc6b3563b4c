"""Slow twins that read like the formulas of the papers and of the model's definition. Loops on purpose."""
