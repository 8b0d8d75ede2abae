"""Folders that nobody but their user can change."""

import os
import shlex
import stat
from pathlib import Path


def require_own(folder: Path, key: str) -> Path:
    """The folder, if nobody but its user can change what lies in it.

    A group may write if it has no other members, as a user's own group on many systems. Root may
    use the folders of others, as in a container. On Windows nothing is checked.

    Args:
        folder: It may be missing; then the next one above it that exists is looked at.
        key: Config key or variable that names it, for the message.

    Raises:
        ValueError: If somebody else can write there, or owns it.
    """
    if os.name != "posix":
        return folder
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    state, user = there.stat(), os.geteuid()
    if state.st_uid not in (user, 0) and user != 0:
        raise ValueError(
            f"{key}={folder}: {there} belongs to another user, who could decide what is trained; "
            "name a folder of your own"
        )
    keeps_names = bool(state.st_mode & stat.S_ISVTX) and there != folder
    everybody, group = state.st_mode & stat.S_IWOTH, state.st_mode & stat.S_IWGRP
    if not keeps_names and (everybody or (group and _has_others(state.st_gid, state.st_uid))):
        raise ValueError(
            f"{key}={folder}: others can write in {there}, and so decide what is trained; take "
            f"that right away (chmod go-w {shlex.quote(str(there))}), or name another folder"
        )
    return folder


def _has_others(group: int, owner: int) -> bool:
    """Whether somebody besides the owner is in a group."""
    import grp
    import pwd

    try:
        own = pwd.getpwuid(owner)
        return own.pw_gid != group or bool({*grp.getgrgid(group).gr_mem} - {own.pw_name})
    except KeyError:  # a number without a name, as in a container
        return group != owner
