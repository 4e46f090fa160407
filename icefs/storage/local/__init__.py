"""Objects as files below a local directory.

store    the store
files    names, staging, durability, and the errors of disks
beneath  opens paths below a directory and follows no link
ranges   reads ranges of files below a directory
lock     the lock of processes that replace objects of one repository
"""
