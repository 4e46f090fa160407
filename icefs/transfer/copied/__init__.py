"""Files in other formats become arrays of the repository's own, in one commit: their values are copied.

    locate files (`files`) → parse each → combine → groups and arrays → decode, encode and store each chunk → commit

model       arrays whose values can be read, a box at a time
hdf5        the arrays of HDF5 and NetCDF-4, through h5py
references  those of all other formats, through the references that `virtual` finds
zipped      trees of Zarr in zip files
parsing     each format's arrays
documents   the `zarr.json` that a copy gets: its chunks and codecs
joining     arrays of several files as one
writing     a tree into a session
importing   the whole import
"""
