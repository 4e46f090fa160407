"""The working tree of a mounted branch."""
