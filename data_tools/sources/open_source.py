"""From the settings of a build to the documents of its source."""

from collections.abc import Iterator

from data_tools.config import PrepareConfig
from data_tools.sources import hub, installed, local
from data_tools.sources.document import Document
from data_tools.sources.source_rules import SourceRules


def source_documents(config: PrepareConfig, start: int) -> Iterator[Document | None]:
    """Yield the documents of the source from the one numbered ``start``.

    None stands for a document of a package that the settings leave out, so that numbers count
    what the source has and stay the same while it is read.
    """
    if config.source == "installed":
        yield from installed.installed_documents(
            config.packages, config.exclude, max_bytes=config.max_bytes, seed=config.seed, start=start
        )
        return
    excluded, included = set(config.exclude), set(config.packages or [])
    for document in _all_documents(config, start):
        used = config.packages is None or document.package in included
        yield document if used and document.package not in excluded else None


def _all_documents(config: PrepareConfig, start: int) -> Iterator[Document]:
    path, license, limit = config.path, config.license, config.max_file_bytes
    if config.source == "folder":
        return local.folder_documents(path, config.language, license, limit=limit, start=start)
    if config.source == "jsonl":
        return local.jsonl_documents(path, license, start)
    if config.source == "parquet":
        return local.parquet_documents(path, license, start)
    return hub.hub_documents(
        config.source, config.language, path=path, store=config.store, license=license, limit=limit, start=start
    )


def source_rules(config: PrepareConfig) -> SourceRules:
    """Return what a document of the source must be to be collected."""
    licenses = frozenset(config.licenses) if config.licenses is not None else None
    return SourceRules(licenses, config.max_file_bytes, config.redact)


def read_limit(config: PrepareConfig) -> int | None:
    """Return the most bytes to read of a source; None for one that chooses its files itself."""
    return None if config.source == "installed" else config.max_bytes
