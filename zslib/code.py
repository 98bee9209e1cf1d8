"""What the results of a stage owe to the project's own code: the text behind `artifacts/code`.

DVC does not follow imports, and a stage that named each of its modules would make every look at the
pipeline stat a thousand files more. So one stage lists, for each of the others, the files that it runs
with a checksum of what in them can change a result; the others depend on their list.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grimp

CODE_LISTS = Path("artifacts/code")
"""Where a run keeps them: a file NAME.txt for each stages/NAME.py."""

# None of these can change a byte of an artifact, and they change often: listed, a new method's
# parameters would make every backbone train again. Values of parameters are tracked by `params:`
# (a test keeps all of them in params.yaml, so that no default in zslib/params is ever in force);
# stages/command.py runs the stage, errors.py words its errors.
_NOT_TRACKED = ("zslib.params", "zslib.errors", "stages.command")


def code_lists() -> Iterator[tuple[str, str]]:
    """Yield every module of stages by its name, with a line `checksum  file` for each file it runs.

    These are its own file, those of all modules of stages and zslib that it imports, directly or
    not, within functions or not, and what lies beside a module under the module's name
    (`page.html` beside `page.py`).
    """
    import grimp

    graph = grimp.build_graph("stages", "zslib", cache_dir=None)
    checksums = {
        name: [(path.as_posix(), _checksum(path)) for path in _files(name, graph)]
        for name in graph.modules
        if not name.startswith(_NOT_TRACKED)
    }
    for module in sorted(graph.find_children("stages")):
        run = {module, *graph.find_upstream_modules(module)} & checksums.keys()
        lines = sorted(line for name in run for line in checksums[name])
        yield module.split(".")[1], "".join(f"{checksum}  {path}\n" for path, checksum in lines)


def without_remarks(source: str) -> str:
    """Return a module's text without its comments and docstrings, which change no result.

    What is left is text of the source, not a syntax tree: it is the same under every Python.
    """
    lines = source.split("\n")
    remarks = set()
    for first, last in _docstrings(ast.parse(source), lines):
        remarks |= set(range(first, last + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start[0] - 1, token.start[1]
            lines[row] = lines[row][:column].rstrip()
            remarks |= set() if lines[row] else {row}
    return "\n".join(line for row, line in enumerate(lines) if row not in remarks)


def _docstrings(tree: ast.Module, lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and last row, from 0, of each docstring that has its rows to itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        text = node.body[0]
        first, last = text.lineno - 1, (text.end_lineno or text.lineno) - 1
        before = lines[first].encode()[: text.col_offset]
        after = lines[last].encode()[text.end_col_offset :]
        if not before.strip() and not after.strip():
            yield first, last


def _checksum(path: Path) -> str:
    text = path.read_bytes()
    if path.suffix == ".py":
        text = without_remarks(text.decode()).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest()[:16]


def _files(module: str, graph: "grimp.ImportGraph") -> list[Path]:
    """Return the file of a module, and what lies beside it under its name."""
    path = Path(*module.split("."))
    if graph.find_children(module):
        return [path / "__init__.py"]
    return sorted(path.parent.glob(f"{path.name}.*"))
