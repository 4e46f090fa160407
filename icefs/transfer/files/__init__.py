"""Files in other formats, as imports find and combine them: those that refer to their bytes, and those that copy.

sources      the files, and trees of files, that a user names
buckets      how containers of the configuration reach the files of a bucket
model        arrays and groups of files
reading      files of any store as binary files of Python
hdf5_links   the members of groups of HDF5 files
fill_values  the attribute `_FillValue`, as xarray has it in Zarr v3
times        times that files count from different dates
wanted       which arrays a user wants
documents    the `zarr.json` of arrays that libraries describe
combine      several files as one tree, joined along a dimension
placing      where a tree's groups and arrays go in a repository
"""
