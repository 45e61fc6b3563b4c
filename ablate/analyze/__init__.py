"""Analyses of a study's results: pure functions of pandas tables that return frozen results, with NaN for a missing
number; they read, write and draw nothing. `search/` analyses the search, `arms/` the ablation, this folder both."""
