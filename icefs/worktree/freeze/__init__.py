"""Frozen trees, each the working tree at one moment, of which commits are made.

frozen        a frozen tree
frozen_index  the files of a frozen tree, by node and by base path
differences   where a frozen tree differs from the base
changes       the differences of a frozen tree, as a list
commits       freezes the tree, and ends the commit: published, failed or unknown
"""
