"""Ways from stored samples to batches, for benchmarks/stream.py: ours and what people use instead, all rendering by our functions."""
