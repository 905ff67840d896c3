"""Whether a disk can hold a journal: on a network disk, locks and writes cannot be relied on."""

from __future__ import annotations

import re
from pathlib import Path

from apikley_async.errors import JournalError

__all__ = ["MOUNTS", "check_local_disk", "disk_fault", "file_system_of"]

MOUNTS = Path("/proc/self/mountinfo")  # Linux lists here what is mounted where
NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb2", "smb3", "smbfs"),
        *("prl_fs", "vboxsf", "virtiofs", "vmhgfs"),  # of the host around a virtual machine
    )
)
LOCAL_FUSE = frozenset(  # any other fuse.* may be a cloud or a share
    (
        *("fuse.bindfs", "fuse.ecryptfs", "fuse.encfs", "fuse.exfat", "fuse.ext2", "fuse.ext4"),
        *("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g"),
        *("fuse.cryfs", "fuse.zfs"),
    )
)


def check_local_disk(path: Path) -> None:
    """Refuse a path on a network disk, as far as the system says what it is.

    Raises:
        JournalError: it lies on a network disk.
    """
    if (fault := disk_fault(path)) is not None:
        raise JournalError(
            f"{path} lies on {fault}, whose locks and writes cannot be relied on; "
            "keep the journal on a local disk, the films may go there"
        )


def disk_fault(path: Path) -> str | None:
    """Say why the disk of *path* cannot hold a journal; None when nothing is known against it.

    Two machines on one network disk do not see each other's locks, and not always each other's
    writes.
    """
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    kind = file_system_of(path.resolve(), mounts)
    shared = kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    return f"a network disk ({kind})" if shared else None


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system of *path*: that of the nearest mount point above it."""
    nearest, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        if len(point) >= len(nearest) and path.is_relative_to(point):
            nearest, kind = point, right.split(" ")[0]
    return kind
