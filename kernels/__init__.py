"""Numerics on OpenCL devices, each operation with a numpy twin beside it."""
