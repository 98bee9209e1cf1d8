"""What the results of a stage owe to the project's own code: the text behind `artifacts/code`.

DVC does not follow imports, and a stage that named each of its modules would make every look at the
pipeline stat a thousand files more. So one stage lists, for each of the others, the files that it runs
with a checksum of what in them can change a result; the others depend on their list.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zslib.errors import InputError

if TYPE_CHECKING:
    import grimp

CODE_STAGE = "code"
"""The stage that writes the lists; nothing is known of what stands behind it until it has run."""

CODE_LISTS = Path("artifacts/code")
"""Where a run keeps them: a file NAME.txt for each stages/NAME.py."""

# They change often, and listed, a new method's parameters would make every backbone train again.
# Values of parameters are tracked by `params:` (a test keeps all of them in params.yaml, so that no
# default in zslib/params is ever in force); stages/command.py runs the stage, errors.py words its errors.
_NOT_TRACKED = ("zslib.params", "zslib.errors", "stages.command")

_BESIDE = (".py", ".csv", ".html")
"""What lies beside a module under its name, as page.html beside page.py, is of the module."""


def code_lists() -> Iterator[tuple[str, str]]:
    """Yield every module of stages by its name, with a line `checksum  file` for each file it runs.

    These are its own file and those of all modules of stages and zslib that it imports, directly or
    not, within functions or not; paths begin at the project's root, the working directory.

    Raises:
        InputError: a module is no Python.
    """
    import grimp

    try:
        graph = grimp.build_graph("stages", "zslib", cache_dir=None)
    except grimp.exceptions.SourceSyntaxError as error:
        raise InputError(f"{error}; correct it") from error
    for name in graph.modules:
        if package := name.rpartition(".")[0]:  # whose __init__.py runs before it
            graph.add_import(importer=name, imported=package)
    lines = {
        name: [f"{checksum(path)}  {path.as_posix()}\n" for path in files_of(name, graph)]
        for name in graph.modules
        if not any(f"{name}.".startswith(f"{other}.") for other in _NOT_TRACKED)
    }
    for module in graph.find_children("stages"):
        run = {module, *graph.find_upstream_modules(module)} & lines.keys()
        text = sorted((line for name in run for line in lines[name]), key=lambda line: line[18:])
        yield module.removeprefix("stages."), "".join(text)


def edited_file(name: str) -> Path | None:
    """Return a file that stages/NAME.py runs and that is not as its list has it.

    Contents are compared, not times: DVC may bring a list back from its cache, newer than the edit.
    """
    listed = CODE_LISTS / f"{name}.txt"
    if name == CODE_STAGE or not listed.exists():
        return None
    for line in listed.read_text().splitlines():
        known, file = line.split("  ")
        if not Path(file).exists() or checksum(Path(file)) != known:
            return Path(file)
    return None


def edited_stages() -> set[str]:
    """Return the modules of stages that run other code than their lists have. Raises InputError."""
    listed = {path.stem: path.read_text() for path in CODE_LISTS.glob("*.txt")}
    return {name for name, text in code_lists() if listed.get(name) != text}


def checksum(path: Path) -> str:
    """Return the checksum of what in a file can change a result, 16 hexadecimal digits."""
    content = path.read_bytes()
    if path.suffix == ".py":
        with tokenize.open(path) as file:  # as Python reads it, whatever its encoding
            content = without_remarks(file.read()).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest()[:16]


def without_remarks(source: str) -> str:
    """Return a module's text without comments, blank lines, and strings that are there to be read.

    These are docstrings, of attributes and constants too. What is left is text of the source, not a
    syntax tree: it is the same under every Python.
    """
    lines, remarks = source.split("\n"), set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
                before = lines[first].encode()[: node.col_offset].strip()
                after = lines[last].encode()[node.end_col_offset :].strip()
                if not before and (not after or after.startswith(b"#")):
                    remarks |= set(range(first, last + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start[0] - 1, token.start[1]
        if token.type == tokenize.COMMENT:
            lines[row] = lines[row][:column].rstrip()
        elif token.type == tokenize.NL and not lines[row].strip():
            remarks.add(row)
    return "\n".join(line for row, line in enumerate(lines) if row not in remarks)


def files_of(module: str, graph: "grimp.ImportGraph") -> list[Path]:
    """Return the file of a module, and what lies beside it under its name."""
    path = Path(*module.split("."))
    if graph.find_children(module):
        return [path / "__init__.py"]
    return [file for suffix in _BESIDE if (file := path.with_suffix(suffix)).is_file()]
