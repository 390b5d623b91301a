"""Where a checkpoint is: a file, a folder, a URL, ``timm:NAME`` or ``hf:REPO`` -> a local path.

Downloads are stored under ``TORCH_HOME``, as ``torch.hub`` does and under the
same names; those of the Hugging Face hub stay in its cache.
"""

import re
from pathlib import Path
from types import ModuleType
from urllib.parse import urljoin, urlparse

import torch

from convnext_dense.checkpoints.download import (
    beside,
    check_sha256,
    download,
    identity,
    record,
    recorded,
    remote_size,
    shown,
)
from convnext_dense.checkpoints.read import (
    FOLDER_FILES,
    INDEX_SUFFIX,
    checkpoint_file,
    read_index,
)
from convnext_dense.errors import CheckpointError, reason
from convnext_dense.support.optional_packages import optional

_SOURCES = "a file, a folder, an http(s) URL, timm:NAME or hf:REPO[@REVISION]"
# the convention of torch hub and OpenMMLab: NAME-CHECKSUM.pth; eight digits may also be a date
_NAMED_CHECKSUM = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.\w+$")


def fetch(source: str | Path, sha256: str | None = None, progress: bool = True) -> Path:
    """Local path of a checkpoint, downloaded on first use.

    Args:
        source: file, folder or index of a sharded checkpoint; http(s) URL of a
            file or of an index; ``timm:NAME``; ``hf:REPO`` or ``hf:REPO@REVISION``.
        sha256: checksum of the file, or at least its first 8 digits. A
            download whose name ends in ``-CHECKSUM`` is compared with that anyway.
        progress: whether to show the progress of a download.

    Raises:
        CheckpointError: not found, unreachable, incomplete, a wrong
            checksum, or a library that the source needs is absent.
    """
    text = str(source)
    kind, _, rest = text.partition(":")
    if kind in ("http", "https"):
        path = _fetch_url(text, sha256, progress)
    elif kind == "hf":
        path = _fetch_hub(rest)
    elif kind == "timm":
        path = _fetch_timm(rest, progress)
    elif "://" in text:
        raise CheckpointError(f"cannot fetch {shown(text)}: a source is {_SOURCES}")
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise CheckpointError(f"no checkpoint at {source}; a source is {_SOURCES}")
        checkpoint_file(path)
    if sha256:
        check_sha256(checkpoint_file(path), sha256, str(path))
    return path


def _fetch_url(url: str, sha256: str | None, progress: bool) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urlparse(url).path).name
    if name in ("", ".."):
        raise CheckpointError(f"cannot download {shown(url)}: it names no file")
    if not name.endswith(INDEX_SUFFIX):
        path = _place(folder / name, url)
        if not path.is_file():
            named = _NAMED_CHECKSUM.search(name)
            path = download(url, path, sha256 or (named and named[1]), progress)
        return path
    # its own folder: the names of shards are the same everywhere
    folder = folder / f"{identity(url)[:8]}-{name.removesuffix(INDEX_SUFFIX)}"
    index = folder / name
    if not index.is_file():
        download(url, index, None, progress)
    for shard in sorted(set(read_index(index).values())):
        if not (folder / shard).is_file():
            download(urljoin(url, shard), folder / shard, None, progress)
    return index


def _place(path: Path, url: str) -> Path:
    """Local path of ``url``: the plain name, or one with a hash where another URL has the plain name.

    A file without a record came from ``torch.hub``; it counts as this URL's
    unless the server reports another size.
    """
    if not path.is_file():
        return path
    known = recorded(path)
    if known is None:
        size = remote_size(url)
        ours = size is None or size == path.stat().st_size
        if ours and size is not None:
            record(path, url, size)
    else:
        ours = known == identity(url)
    return path if ours else beside(path, url)


def _fetch_hub(repo: str, names: tuple[str, ...] = FOLDER_FILES) -> Path:
    """The first of ``names`` that a repository of the hub has, through the hub's own library and cache."""
    hub = optional("huggingface_hub", f"hf:{repo}", "huggingface_hub")
    errors = optional("huggingface_hub.errors", f"hf:{repo}", "huggingface_hub")
    repo, _, revision = repo.partition("@")

    def get(name: str) -> Path:
        return Path(hub.hf_hub_download(repo, name, revision=revision or None))

    for name in names:
        try:
            path = get(name)
            if name.endswith(INDEX_SUFFIX):
                for shard in sorted(set(read_index(path).values())):
                    get(shard)
            return path
        except CheckpointError:
            raise
        except Exception as error:  # the library raises many types, some from its transport
            if _absent(error, errors):
                continue
            raise CheckpointError(f"cannot fetch hf:{repo} ({reason(error)})") from error
    raise CheckpointError(f"cannot fetch hf:{repo}: it has none of {', '.join(names)}")


def _absent(error: Exception, errors: ModuleType) -> bool:
    """Whether the hub reported that a file does not exist; offline it cannot know."""
    return isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _fetch_timm(name: str, progress: bool) -> Path:
    """The weights that ``timm.create_model(name, pretrained=True)`` would load."""
    models = optional("timm.models", f"timm:{name}")
    try:
        config = models.get_pretrained_cfg(name)
    except Exception as error:
        raise CheckpointError(f"cannot fetch timm:{name} ({reason(error)})") from error
    if config is not None and config.hf_hub_id:
        names = (config.hf_hub_filename,) if config.hf_hub_filename else FOLDER_FILES
        return _fetch_hub(config.hf_hub_id, names)
    if config is not None and config.url:
        return _fetch_url(config.url, None, progress)
    raise CheckpointError(
        f"cannot fetch timm:{name}: timm has no weights of that name; see timm.list_pretrained('convnext*')"
    )
