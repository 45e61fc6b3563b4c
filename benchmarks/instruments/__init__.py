"""What benchmarks measure with: the model's inside, counters of operators and bytes, clocks, processes to kill."""
