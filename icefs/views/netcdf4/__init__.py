"""NetCDF-4 files: metadata that h5py writes, with the elements of arrays in the holes that it leaves.

format    the format, and when h5py is imported
template  an HDF5 file in memory that has everything but elements
"""
