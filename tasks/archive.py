"""An archive under the eye."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.archive import validate
from core.errors import FewcastError
from tasks.policies import LOCAL
from tasks.reporting import Reporting


@task(name="check-archive", **LOCAL)
def check_archive(url: str) -> str:
    """Validate an archive; `FewcastError` names the first problem, the run's artifact all of them."""
    with Reporting("archive") as report:
        found = validate(url, report=report)
    create_markdown_artifact(found.markdown, key="archive-check")
    if found.problems:
        raise FewcastError(
            f"the archive {url} has {len(found.problems)} problems",
            found=str(found.problems[0]),
            mend=f"run `fewcast archive repair {url}`",
        )
    return url
