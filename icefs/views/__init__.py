"""Views: the arrays of a tree in the formats of programs that read no Zarr v3.

formats    the formats that there are, by their names
interface  what formats, decoding, mounts and exports ask of each other
hierarchy  the nodes and chunks of a snapshot
extents    files put together from known bytes, decoded elements and gaps
"""
