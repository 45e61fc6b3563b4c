"""The only reader and writer of results/: the ledger of a study, its columns, and the stores that keep its files.

A file is whole or absent, and one writer at a time may write to a trial.
"""
