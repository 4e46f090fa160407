"""Classic NetCDF files with 64-bit offsets (CDF-2), for programs without HDF5.

format    the format
plan      the record dimension, and variables that do not fit
header    the header's bytes
records   the bytes of variables that grow along the record dimension
"""
