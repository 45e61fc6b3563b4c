"""What every analysis stands on: columns of a table as arrays, intervals and tests."""
