"""The Python SDK and the command line. Thin: nothing here imports jax."""
