"""File owner: a file that root creates in a folder of another user belongs to that user.

`catalyst flatten` may run as root beside a service of another user, whose next start must lock, read and write the
same files.
"""

import os
from pathlib import Path


def give_to_folder_owner(file: int, folder: Path) -> None:
    """Give an open file that root has created in `folder` to the folder's owner.

    A file of another user, or one with a second name, stays as it is: it may have been linked into the folder.
    """
    if os.geteuid() != 0:
        return
    owner, status = folder.stat(), os.fstat(file)
    if status.st_uid == 0 and status.st_nlink == 1:
        os.fchown(file, owner.st_uid, owner.st_gid)
