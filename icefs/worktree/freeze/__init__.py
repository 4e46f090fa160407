"""Frozen views of the working tree, of which commits are made.

frozen        a frozen view
frozen_index  the files of a frozen view, by node and by base path
differences   where a frozen view differs from the base
changes       the differences of a frozen view, as a list
commits       freezes the tree, and ends the commit: published, failed or unknown
"""
