"""Files of folders that may come from strangers: a name or a symbolic link in one must not lead out of it."""

import os
import pathlib
import shutil


def file_inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file that something in a folder names.

    The name may be a symbolic link to another file of the folder. In the cache of the Hugging Face hub, the files of
    ``snapshots/REVISION`` are links to ``blobs`` beside ``snapshots``; these are followed as well.

    Args:
      folder: the folder.
      name: the name of a file directly in it.

    Raises:
      ValueError: it is no plain name, it is a link that leads out of the folder, or it is not a regular file.
    """
    path = folder / name
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{folder} names a file {name!r}, which is no name of a file in it: do not trust this folder")
    if not os.path.lexists(path):
        return path
    place = pathlib.Path(os.path.realpath(folder))
    allowed = {place, place.parent.parent / "blobs"} if place.parent.name == "snapshots" else {place}
    if pathlib.Path(os.path.realpath(path)).parent not in allowed:
        raise ValueError(f"{path} is a link to a file outside of the folder: put the file itself there")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file: do not trust this folder")
    return path


def copy_inside(source: pathlib.Path, target: pathlib.Path, name: str) -> None:
    """Copies a file or a folder of regular files from one folder to another, if it is there.

    Args:
      source: the folder to copy from.
      target: the folder to copy to. It exists already if ``name`` is a file.
      name: the name of a file or folder directly in ``source``.

    Raises:
      ValueError: a link leads out of its folder, or a file is not a regular file.
      OSError: something cannot be read or written.
    """
    if (source / name).is_dir():
        if (source / name).is_symlink():
            raise ValueError(f"{source / name} is a link to a folder: put the folder itself there")
        (target / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / name).iterdir()):
            copy_inside(source / name, target / name, path.name)
        return
    path = file_inside(source, name)
    if path.exists():
        shutil.copyfile(path, target / name)
