"""Manifest files: the chunk references of arrays.

refs       the chunk references of one array, as columns
reader     reads manifests
writer     writes manifests
locations  the locations of virtual chunks, plain or compressed
"""
