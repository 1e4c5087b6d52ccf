"""Pure functions on arrays: operations and their gradients, networks, optimizers, the training loop, files.

Nothing here holds state or starts a thread, and nothing here knows of the server: state goes in and
comes out, randomness comes in as a key. It may import jax, numpy and the packages that read file formats, no more.
"""
