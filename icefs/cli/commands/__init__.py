"""The commands of `icefs`, a module or package for each; an underscore ends a name that Python has taken.

init               makes a repository
mount              starts the daemon of a mount
umount             unmounts, and waits for the daemon to end
serve              a mount in the foreground, for service managers
install_units      systemd's units and the mount helpers
status             the state of a mounted tree
diff               what changed between two versions, or is not committed
commit             commits the changes in a mounted branch
discard            drops uncommitted changes
rebase             puts uncommitted changes on top of what others have committed
refresh            has a mount look for new commits now
top                what a mount does, live
log_level          how much a daemon logs
sessions           the working trees of this machine
doctor             finds out why something does not work
warmup             fetches chunks into the disk cache
info               facts about a repository or a mount
log                the history of a branch, tag or snapshot
blame              which commit changed each chunk last
merge              brings what another version has to a branch
cherry_pick        makes the changes of commits again on a branch
revert             takes back the changes of a commit
restore            has a part of a branch be as in another version
clone              makes a repository of another one
pull               brings what another repository has
push               brings what this repository has to another one
branch             branches: list, create, delete, reset
tag                tags: list, create, delete
ls                 groups, arrays and chunks
cat                the bytes of a Zarr key
import_            a directory of Zarr v3, or files in other formats, as one commit
export             a version as plain files of Zarr v3
stats              how many bytes chunks take
fsck               checks and repairs a repository
expire             takes old snapshots out of the history
gc                 deletes objects that nothing needs
rewrite_manifests  writes a branch's manifests again
upgrade            from spec version 1 to version 2
config             the saved configuration
inspect            a file of the repository as JSON
help               topics, commands, manual pages
completion         a script that makes the Tab key work
"""
