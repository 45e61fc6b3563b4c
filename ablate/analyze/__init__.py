"""Questions to a study's results, each a pure function of pandas tables that answers with a frozen result.

A missing number is NaN here, as pandas has it; writers show it as an em dash or an empty cell. Nothing is read from or
written to disk, and nothing is drawn.
"""
