"""Commits of working trees, in a worker thread.

committer     from a working tree to a commit: freeze, stage, upload, publish, change of base
headless      a working tree without a mount
late_commits  a commit that timed out, and that the store carried out after all
report        what a commit reports: its snapshot, what it took, what it left out
notes         notes on committed nodes that some readers cannot read
"""
