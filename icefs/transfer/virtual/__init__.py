"""Files in other formats become arrays of virtual references, in one commit.

    locate files (`files`) → parse each → combine → containers and references → commit

model       arrays as references to files
parsers     each format's arrays, through VirtualiZarr
zarr_trees  the arrays of a tree of Zarr v2 or v3
loading     the values of small arrays, which are copied
plain       values of small arrays as chunks of plain bytes
splitting   chunks of plain bytes as smaller ones
joining     arrays of several files as one
containers  the virtual chunk containers that references need
writing     a tree into a session
importing   the whole import
"""
