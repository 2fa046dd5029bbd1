"""Where a build grows and where it goes: it is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.config import PrepareConfig
from data_tools.corpus import collect
from data_tools.corpus.corpus import SUMMARY
from data_tools.corpus.line_overlap import LENGTHS, LINES
from data_tools.datatrove_map import ENGINE_FOLDER
from data_tools.dedup.deduplicate import NEAR
from data_tools.encode.tokenizer_text import TOKENIZER
from data_tools.filters.contamination import CONTAMINATION, INDEX_FILE
from data_tools.manifest import upgrade_manifest
from llama_scale.data.documents import DOCUMENTS
from llama_scale.data.shards import FORMAT, MANIFEST, open_tokens, read_manifest
from llama_scale.errors import InputError
from llama_scale.files import FULL, locked, read_json, write_json

SETTINGS = "settings.json"
LOCK = "lock"
PLACES = ("path", "mbpp", "apps")  # settings that are paths: another way to write one is no other setting
STEP_FILES = [f"{step}.{kind}" for step in ("filter", "dedup", "decontaminate", "encode") for kind in ("json", "npy")]
SCRATCH = (*collect.FILES, LINES, LENGTHS, *STEP_FILES)  # of no use after the build
CONTINUABLE = (*SCRATCH, TOKENIZER, CONTAMINATION, NEAR)  # what a later run may continue from


def find_finished_build(config: PrepareConfig) -> dict | None:
    """Return the manifest of a finished, undamaged build with these settings, or None.

    Raises:
        InputError: The folder holds something else or a build with other settings.
    """
    folder = config.folder
    if not os.path.exists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: is there already but is no build (no manifest.json); choose another out or move it away"
        )
    manifest = upgrade_manifest(read_manifest(folder))
    built_with = PrepareConfig(config.name).settings | manifest.get("settings", {})
    for name, value in config.settings.items():
        if built_with[name] != value and not (name in PLACES and _same_place(built_with[name], value)):
            raise InputError(
                f"{name}: {folder} was built with {built_with[name]}, not {value}; choose another "
                "out or delete that folder"
            )
    open_tokens(folder, "train")
    open_tokens(folder, "val")
    return manifest


def _same_place(first: str | None, second: str | None) -> bool:
    """Whether two paths, from the current folder, are of one file or folder."""
    return None not in (first, second) and os.path.realpath(str(first)) == os.path.realpath(str(second))


@contextmanager
def open_work_folder(config: PrepareConfig) -> Iterator[Path]:
    """Yield the folder that the build grows in; when it is complete, put it in its place.

    A failure before anything was collected leaves no folder.

    Raises:
        InputError: It cannot be made, or another process is building there.
    """
    folder = Path(os.path.realpath(config.folder))  # not a link: a folder cannot take its place
    if os.path.ismount(folder) or folder == Path.cwd():
        raise InputError(
            f"{folder}: a build cannot take the place of a mount point or of the current folder; "
            "choose a folder inside it as out"
        )
    work = folder.parent / f".{folder.name}.tmp"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{work}: cannot be made ({error.strerror}); choose another out") from None
    busy = f"{folder}: another launch/prepare.py is building it; wait for it to end"
    with locked(work / LOCK, busy):
        settings = {"format": FORMAT, **config.settings}
        _remove_unusable(work, settings)
        write_json(work / SETTINGS, settings)
        try:
            yield work
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in FULL and not error.filename:
                error.filename = str(work)  # a write into an open file does not name it
            if not any((work / name).exists() for name in (collect.CHECKPOINT, SUMMARY)):
                _remove(work)
            raise
        if (work / MANIFEST).exists():
            for name in (*SCRATCH, INDEX_FILE, SETTINGS, LOCK):
                (work / name).unlink(missing_ok=True)
            _remove(work / ENGINE_FOLDER)
            work.replace(folder)


def _remove_unusable(work: Path, settings: dict) -> None:
    """Remove what an earlier run left that one with these settings and format cannot continue from.

    A complete build of these settings only lacks its name and stays whole. Otherwise all of other settings goes, and of
    these what is no step's finished file: shards before the encode step was done, and the temporary files of a kill.
    """
    if (work / MANIFEST).exists():
        manifest = upgrade_manifest(read_json(work / MANIFEST))
        if settings == {"format": manifest["format"], **manifest.get("settings", {})}:
            return
    same_settings = (work / SETTINGS).exists() and read_json(work / SETTINGS) == settings
    encoded = (work / "encode.json").exists()
    for path in work.iterdir():
        is_shard = path.suffix == ".bin" or path.name == DOCUMENTS
        usable = path.name in (*CONTINUABLE, ENGINE_FOLDER) or ".journal." in path.name or (encoded and is_shard)
        if path.name != LOCK and not (same_settings and usable):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; neither need be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
