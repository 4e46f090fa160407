"""FlatBuffers and FlexBuffers, read within bounds and written.

reader      reads FlatBuffers: one table, or one field of a million tables
writer      writes FlatBuffers back to front, for many small tables
bulk        writes FlatBuffers front to back, for a million tables of one shape
wire        the identifier, bounds and vtables that both writers share
columns     columns of byte strings
flexbuffer  FlexBuffers
"""
