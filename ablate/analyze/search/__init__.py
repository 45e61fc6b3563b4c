"""Analyses of a search: the best trial, the Pareto set, parameter importances, the results by parameter value, and what
early stopping cost."""
