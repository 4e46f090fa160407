"""The working tree: what programs changed in a mounted branch since its base snapshot.

tree      the working tree as a whole
base      the interface of the base snapshot
model     the nodes in memory
spool     the state directory: bytes, journal, row log
core      the nodes with their rows and bytes, and the frame of every change
recovery  from rows and spool files back to nodes
ops       operations of programs: names, files, attributes, discard
freeze    frozen trees, of which commits are made
stage     what a frozen tree means in Zarr's terms
upload    chunks on their way into the object store
rebase    changes of base
"""
