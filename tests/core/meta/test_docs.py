"""The example of the documentation runs, and shows what it says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "core.md"


def test_the_example_learns_to_adapt(capsys):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["after"] < 0.9 * names["before"]
    assert "error before adapting" in capsys.readouterr().out
