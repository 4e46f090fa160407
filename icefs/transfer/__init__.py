"""Whole directories of Zarr v3 into a repository and out of it, straight through the engine."""
