"""One hot piece of the data path a file; each prints one table and writes benchmarks/results/micro/NAME.json."""
