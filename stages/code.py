"""List, for every stage, the code behind its results."""

from pathlib import Path

from stages.command import Sections, stage


@stage
def main(section: Sections, *, out: Path) -> None:
    """Write NAME.txt for every stages/NAME.py: the files that it runs, with checksums.

    The other stages depend on their lists, so that they rerun when what they run has changed, but for
    comments and docstrings. Reads no parameters. Example: python -m stages.code --out artifacts/code
    """
    from zslib.artifacts import publish
    from zslib.code import code_lists

    with publish(out) as folder:
        folder.mkdir()
        for name, lines in code_lists():
            (folder / f"{name}.txt").write_text(lines)


if __name__ == "__main__":
    main()
