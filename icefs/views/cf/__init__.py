"""The arrays of groups as NetCDF and its CF conventions describe data; shared by NetCDF-4 and classic files.

tree        directories and files of a view: a file for each group
nodes       groups and arrays of a hierarchy, with what their `zarr.json` says
placement   which arrays of a group share a file, and the names of their dimensions
dataset     makes the description of a file
model       the description: dimensions, variables, attributes
types       how the elements of an array are shown
values      arrays that are read while a file is laid out, within limits
fill        fill values
attributes  Zarr's attributes as typed values
names       names that NetCDF forbids, mapped to ones that it allows
limits      how much a file describes at most
"""
