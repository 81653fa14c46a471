"""Files of the repository as parts of the book: some are pages, others are linked to from pages.

Every text links to files where they lie in the repository, so that its links work on GitHub and in
an editor too. Here such a link becomes a link within the book. A file that is not a page of the
book is copied into the folder `files` of the built site.

The entries `commands/*` and `records/*` of the navigation stand for all pages of that folder.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import command_pages, list_of_recipes
from sources import INCLUDED, ROOT, records

# code, which stays as it is and may go on in the next line, or the target of a link or an image
_CODE_OR_TARGET = re.compile(
    r"(?P<code>^ *```.*?^ *```|`(?:[^`\n]|\n(?!\n))*`)|(?<=\]\()(?P<target>[^)\s]+)(?=\))",
    re.DOTALL | re.MULTILINE,
)


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> None:
    config.mdx_configs["toc"]["slugify"] = slug
    pages = [*command_pages(), *records()]
    assert config.nav is not None
    config.nav = _expand(config.nav, pages)


def _expand(nav: list, pages: list[str]) -> list:
    """The navigation with all pages in place of `folder/*`."""
    expanded = []
    for entry in nav:
        if isinstance(entry, dict):
            entry = {
                title: _expand(below, pages) if isinstance(below, list) else below
                for title, below in entry.items()
            }
        if isinstance(entry, str) and entry.endswith("/*"):
            expanded += [page for page in pages if page.startswith(entry[:-1])]
        else:
            expanded.append(entry)
    return expanded


def on_files(files: Files, config: MkDocsConfig) -> None:
    for page, text in command_pages().items():
        files.append(File.generated(config, page, content=text))
    for page, source in (INCLUDED | records()).items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri in records():
        page.meta["search"] = {"exclude": True}  # one of them is as long as the rest of the book
        if not markdown.lstrip().startswith("#"):
            markdown = f"# Records of {Path(page.file.src_uri).stem}\n\n{markdown}"
    if page.file.abs_src_path is None:
        return markdown
    folder = Path(page.file.abs_src_path).parent

    def within_the_book(match: re.Match[str]) -> str:
        if match["code"] or re.match(r"#|[a-z]+:", match["target"]):
            return match[0]
        path, _, anchor = match["target"].partition("#")
        uri = _uri((folder / unquote(path)).resolve(), config, files)
        link = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link}#{anchor}" if anchor else link

    if page.file.src_uri == "reference/recipes.md":
        markdown += list_of_recipes()
    return _CODE_OR_TARGET.sub(within_the_book, markdown)


def _uri(path: Path, config: MkDocsConfig, files: Files) -> str:
    """Where the book has a file of the repository. A file that it lacks is added."""
    docs = Path(config.docs_dir).resolve()
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    source = path.relative_to(ROOT).as_posix()
    pages = {file: page for page, file in (INCLUDED | records()).items()}
    if source in pages:
        return pages[source]
    # A folder is shown as the list of its files, and a text that is not a page as it is written.
    uri = f"files/{source}.txt" if path.is_dir() or path.suffix == ".md" else f"files/{source}"
    if path.exists() and files.get_file_from_path(uri) is None:
        names = sorted(each.name for each in path.glob("[!._]*")) if path.is_dir() else []
        content = {"content": "\n".join(names)} if names else {"abs_src_path": str(path)}
        files.append(File.generated(config, uri, **content))
    return uri
