"""Commits of working trees, in a worker thread.

request          a commit's request, and its outcome
committer        from a working tree to a commit: freeze, stage, upload, publish, change of base
rebaser          puts a working tree's changes on its branch's tip
session_changes  the staged changes, as those of a writable session
report           what a commit reports: its snapshot, what it took, what it left out
staged_report    the staged changes, in JSON
conflict_places  where the conflicts of a rebase are in a mounted tree: what to discard
way_out          how conflicts can be got rid of, in words
"""
