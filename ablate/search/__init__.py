"""The adaptive search: draws trials from Optuna, tells it how they ended, and stops unpromising ones.
The only package that imports Optuna."""
