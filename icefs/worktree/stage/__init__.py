"""Staging: what a frozen tree means in Zarr's terms.

stager      works out the nodes and chunks that a frozen tree changes
staged      the values that the stager returns
chunk_dirs  which array a file is a chunk of
renames     renamed directories of the base, as moved nodes and moved chunk references
unfit       chunks of a size that their codecs rule out
dropped     chunks of the base that a rewritten `zarr.json` has no room for
holding     what a commit leaves out because of a file that it leaves out
"""
