"""Zarr keys, and sessions read and written by them.

keys          Zarr keys to node paths and chunk indices, and back
reader        reads a snapshot by Zarr keys
writer        writes a session by Zarr keys
store         the Zarr store of a session, for zarr-python
invalid       files that no reader could read as what their names say, and why
wanted        paths and keys that a user wants back from a version
virtual_refs  virtual chunk references, checked and turned into columns
"""
