"""What of a module's text makes the stages that run it rerun."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

from zslib.code import without_remarks

PROJECT = Path(__file__).resolve().parents[2]
MODULE = '''"""What it does."""

import os  # for the path

# A reason.
TEXT = """
# no comment
"""


def here() -> str:
    """Return where we are."""
    return "#" + os.getcwd()


def there(): "a docstring on the line of its function"
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it does."""', '"""What it\n\ndoes not."""'),
        ("  # for the path", ""),
        ("# A reason.\n", ""),
        ("# A reason.", "# Two\n# reasons."),
        ('    """Return where we are."""\n', ""),
        ("def here", "# A comment.\ndef here"),
    ],
)
def test_comments_and_docstrings_change_nothing(old: str, new: str) -> None:
    assert old in MODULE
    assert without_remarks(MODULE.replace(old, new)) == without_remarks(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import os", "import sys"),
        ("# no comment", "# none"),
        ("# no comment\n", "# no comment\n\n"),
        ('"#"', '"##"'),
        ("def there()", "def elsewhere()"),
        ("    return", "    return not"),
    ],
)
def test_anything_else_does(old: str, new: str) -> None:
    assert old in MODULE
    assert without_remarks(MODULE.replace(old, new)) != without_remarks(MODULE)


def test_of_every_module_of_ours_all_that_runs_is_kept() -> None:
    for path in (PROJECT / "zslib/methods").rglob("*.py"):
        source = path.read_text()
        assert words(without_remarks(source)) == words(source, leave_out=docstring_rows(source))


def words(source: str, leave_out: frozenset[int] = frozenset()) -> list[str]:
    """The tokens of a module, but for line ends, indentation, comments and what begins in some rows."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
    return [t.string for t in tokens if t.type not in layout and t.start[0] not in leave_out]


def docstring_rows(source: str) -> frozenset[int]:
    return frozenset(
        node.body[0].lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    )
