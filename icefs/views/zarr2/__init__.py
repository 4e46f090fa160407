"""Arrays and groups as Zarr v2: decoded for programs that know numbers only, or with the stored bytes of chunks.

format      the format: groups, and what of a hierarchy is not shown
arrays      an array's directory: its metadata and chunks
files       files whose bytes are known, and those of chunks
grids       the chunks that exist, their names and the order of these
types       how elements are shown
codecs      codecs of v3 that v2 has names for
attributes  attributes as no reader stumbles over them
documents   the members of a zarr.json that a view needs, checked
"""
