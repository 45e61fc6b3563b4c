"""What `benchmarks/gpu.sh` measures on a GPU, beside `benchmarks.gpu_check`, and the page that it makes of it.

`product_read` and `triton_read` are candidates for the read of the bank, which no run uses until a GPU has decided.
"""
