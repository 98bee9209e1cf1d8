"""`zslib fsck`: is every object of the DVC cache what its name says?"""

from pathlib import Path

import click

from zslib.cli.command import PATH, command, conclude


@command
@click.option("--cache", type=PATH, help="Instead of the project's cache.")
@click.option("--delete", is_flag=True, help="Remove what is damaged; `dvc repro` makes it anew.")
def fsck(cache: Path | None, delete: bool) -> None:
    """Hash every object of the DVC cache again.

    Each is compared with its name. Files that are no objects of DVC stay as they are.
    """
    from zslib.fsck import examine, find_cache, given_cache, remove_damage

    project = Path.cwd()
    folder = given_cache(cache) if cache else find_cache(project)
    found = examine(folder)
    for damage in found.damages:
        click.echo(str(damage))
    if found.foreign:
        count, first = len(found.foreign), found.foreign[0]
        click.echo(f"{folder}: {count} file(s) are no objects of DVC and stay, such as {first}")
    if not found.objects:
        click.echo(f"{folder}: holds no objects; is it the folder of a DVC cache?")
    if found.damages and delete:
        for path in remove_damage(project, found.damages):
            click.echo(f"{path}: removed, its content was damaged too")
        click.echo(f"{len(found.damages)} of {found.objects} objects removed; now run `dvc repro`")
    conclude(len(found.damages), f"damaged of {found.objects} objects")
