"""The commands of `icefs`.

init           `icefs init`
mount          `icefs mount`
umount         `icefs umount`
serve          `icefs serve`: a mount in the foreground, for service managers
install_units  `icefs install-units`: systemd's units and the mount helpers
control        `icefs status` and `icefs refresh`
top            `icefs top` and `icefs log-level`
committing     `icefs commit`, `icefs discard`, `icefs rebase`
sessions       `icefs sessions`: the working trees of this machine
doctor         `icefs doctor`
warmup         `icefs warmup`
info           `icefs info` and `icefs inspect`
history        `icefs log`
diff           `icefs diff`
blame          `icefs blame`
refs           `icefs branch` and `icefs tag`
read           `icefs ls` and `icefs cat`
transfer       `icefs import` and `icefs export`
upkeep         `icefs gc`, `expire`, `fsck`, `stats`, `upgrade`, `rewrite-manifests`
config         `icefs config`
help           `icefs help` and `icefs completion`
"""
