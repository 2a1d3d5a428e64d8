"""Build the site of the pages: ``make site``, or ``python tools/site.py [FOLDER]``.

MkDocs wants all pages below one folder that holds nothing else. The README, docs/ and the benchmarks' page link to each
other by where they lie in the repository, so they are copied to a folder of the same layout, and every link holds on the
site as it does in the repository. A link that leads nowhere, an anchor included, ends the build.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = ("*.md", "LICENSE", "CITATION.cff", "docs/*.md", "docs/zh/*.md", "docs/images/*", "benchmarks/*.md")


def pages() -> Iterator[Path]:
    """Yield what the site is made from, relative to the repository."""
    for pattern in FILES:
        for path in sorted(REPOSITORY.glob(pattern)):
            yield path.relative_to(REPOSITORY)


def build_site(site: Path) -> None:
    """Build the site into a folder, whose earlier content MkDocs removes.

    Raises
    ------
    mkdocs.exceptions.Abort
        When a page links to what is not there.
    """
    with tempfile.TemporaryDirectory(prefix="petrflow-site-") as folder:
        layout = Path(folder, "pages")
        for page in pages():
            target = layout / page
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / page, target)
        config = load_config(
            str(REPOSITORY / "tools" / "mkdocs.yml"), docs_dir=str(layout), site_dir=str(site), strict=True
        )
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        finally:
            config.plugins.on_shutdown()


def main() -> int:
    """Build into the folder that the command line names, ``site`` otherwise."""
    site = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "site").resolve()
    if site.exists() and any(site.iterdir()) and not (site / "sitemap.xml").exists():
        print(f"{site} holds something that is no site of these pages: name another folder.", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        build_site(site)
    except Abort as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
