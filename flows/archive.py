"""An archive under the eye: every frame against its digest."""

from prefect import flow

from tasks import archive as tasks


@flow(name="archive-check")
def check_archive(url: str) -> str:
    """Read every frame of an archive and compare it with what was written; fails where something is wrong.

    Args:
        url: Folder or URL of the archive.
    """
    return tasks.check_archive(url)
