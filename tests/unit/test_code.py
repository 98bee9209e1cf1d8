"""What of the project's code makes which stages rerun."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from zslib.code import CODE_LISTS, checksum, edited_file, without_remarks

PROJECT = Path(__file__).resolve().parents[2]
MODULE = '''"""What it does."""

import os  # for the path

# A reason.

LIMIT = 3
"""Of something."""

TEXT = """
# no comment
"""


class Place:
    """Where something is."""

    x: int
    """To the right."""


def here() -> str:
    """Return where we are."""  # or so
    return "#" + os.getcwd()


def there(): "a docstring on the line of its function"
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it does."""', '"""What it\n\ndoes not."""'),
        ("  # for the path", ""),
        ("\n# A reason.\n", ""),
        ("# A reason.", "# Two\n\n# reasons."),
        ('"""Of something."""\n', ""),
        ('    """Where something is."""\n\n', ""),
        ('    """To the right."""\n', ""),
        ('    """Return where we are."""  # or so\n', ""),
        ("def here", "# A comment.\ndef here"),
    ],
)
def test_comments_docstrings_and_blank_lines_change_nothing(old: str, new: str) -> None:
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
        ('"a docstring on the line', '"the line'),
    ],
)
def test_anything_else_does(old: str, new: str) -> None:
    assert old in MODULE
    assert without_remarks(MODULE.replace(old, new)) != without_remarks(MODULE)


def test_of_every_module_all_that_runs_is_kept() -> None:
    for path in [*PROJECT.glob("stages/*.py"), *PROJECT.glob("zslib/methods/**/*.py")]:
        source = path.read_text()
        assert words(without_remarks(source)) == words(source, leave_out=rows_to_read(source))


def words(source: str, leave_out: frozenset[int] = frozenset()) -> list[str]:
    """The tokens of a module, but for line ends, indentation, comments and what begins in some rows."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
    return [t.string for t in tokens if t.type not in layout and t.start[0] not in leave_out]


def rows_to_read(source: str) -> frozenset[int]:
    """Rows in which a string begins that nothing is done with."""
    bare = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    return frozenset(
        node.lineno
        for node in bare
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def test_the_same_text_in_another_encoding_is_the_same(tmp_path: Path) -> None:
    text = 'NAME = "Zürich"\n'
    latin = f"# -*- coding: latin-1 -*-\n{text}".encode("latin-1")
    forms = [text.encode(), text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode(), latin]
    files = [tmp_path / f"{number}.py" for number in range(len(forms))]
    for file, form in zip(files, forms, strict=True):
        file.write_bytes(form)
    assert len({checksum(file) for file in files}) == 1


# --- lists of a whole project --------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of our packages."""
    for package in ("stages", "zslib"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def lists(project: Path) -> dict[str, str]:
    done = run_lists(project)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_lists(project: Path) -> subprocess.CompletedProcess[str]:
    command = (
        "import json; from zslib.code import code_lists; print(json.dumps(dict(code_lists())))"
    )
    environment = os.environ | {"PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=project,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def test_lists_change_with_what_a_stage_runs_alone(copy: Path) -> None:
    before = lists(copy)
    for name in ("training.py.orig", "losses.old.py", "heads.html~"):
        (copy / "zslib" / name).write_text("an editor's")
    (copy / "zslib/training.d").mkdir()
    (copy / "zslib/losses.old.py").write_text("")
    assert lists(copy) == before
    with (copy / "zslib/methods/sazs/__init__.py").open("a") as file:
        file.write("\nprint('runs before any module of SAZS')\n")
    after = lists(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "zslib/methods/sazs/" in before[name]}
    assert changed > {"sazs", "sazs_maps"}


def test_what_is_no_python_is_named_in_one_line(copy: Path) -> None:
    (copy / "zslib/half.py").write_text("def f(:\n")
    last = run_lists(copy).stderr.splitlines()[-1]
    assert last.startswith("zslib.errors.InputError: ")
    assert "half.py" in last


def test_an_edited_file_is_found_and_a_remark_is_no_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module, listed = Path("one.py"), CODE_LISTS / "one.txt"
    listed.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    assert edited_file("one") is None  # nobody has listed anything yet
    listed.write_text(f"{checksum(module)}  {module}\n")
    module.write_text("a = 1  # the same\n")
    assert edited_file("one") is None
    module.write_text("a = 2\n")
    listed.touch()  # as DVC does that brings it back from its cache
    assert edited_file("one") == module
    module.unlink()
    assert edited_file("one") == module
