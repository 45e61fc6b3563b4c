"""What a study is: reads a study file and `--set` values into a frozen, valid StudySpec, or raises a one-line BadInput.
Knows neither Ray nor Optuna."""
