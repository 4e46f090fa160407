"""Zarr keys, and the store that zarr-python reads and writes through."""
