"""The control directory `.icefs`.

mount_control   which files the control directories have
branch_control  commit, discard, rebase and status of a writable branch
branch_jobs     commits, discards and rebases as jobs
branch_status   `status.json` and `diff.json` of a writable branch
command_files   files that run the command written to them
rpc             the file `rpc`: one request, one answer
observing_rpc   requests about the mount itself
jobs            work in a thread, with progress, that can be cancelled
reports         texts and JSON about trees and mounts
uncommitted     which branches have uncommitted changes, or damage
status_text     `status` and `diff` as text
"""
