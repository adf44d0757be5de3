"""Builds raw sample corpora in the file formats of the five true sources.

Japanese, Chinese and Korean texts lie in this folder. English prose and code are taken from the Python
standard library of this machine, which is real text that needs no shipping. The same Python gives the same
bytes.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_HERE = Path(__file__).resolve().parent
_PROSE_BYTES = 600_000
_CODE_BYTES = 900_000
_SHORTEST_PROSE = 400
_PAGES_PER_STREAM = 10
_DUMP = "wiki-20240120-pages-articles-multistream.xml.bz2"
_CRAWL_DATE = "2024-01-20T00:00:00Z"

# Number, name in Chinese, name in Korean.
_NAMESPACES = (
    (-1, "Special", "특수"),
    (0, "", ""),
    (1, "Talk", "토론"),
    (2, "User", "사용자"),
    (4, "Wikipedia", "위키백과"),
    (6, "File", "파일"),
    (10, "Template", "틀"),
    (12, "Help", "도움말"),
    (14, "Category", "분류"),
)


def write_sample_corpora(output_dir: Path) -> dict[str, Path]:
    """Write the five sample corpora and return the folder of each: a whole set in seconds.

    `ja_cc`: two LLM-jp CommonCrawl dumps (`.jsonl.gz`); `refinedweb` and `the_stack`: Parquet with the columns
    of the originals; `zh_wiki` and `ko_wiki`: multistream MediaWiki dumps with their index files.
    """
    folders = {name: output_dir / name for name in ("ja_cc", "refinedweb", "zh_wiki", "ko_wiki", "the_stack")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    _write_llm_jp_cc(folders["ja_cc"])
    _write_refinedweb(folders["refinedweb"] / "train-00000-of-00001.parquet")
    for language in ("zh", "ko"):
        _write_wiki_dump(_HERE / language, folders[f"{language}_wiki"], language)
    _write_the_stack(folders["the_stack"] / "data" / "python" / "train-00000-of-00001.parquet")
    return folders


def _write_llm_jp_cc(folder: Path) -> None:
    texts = sorted((_HERE / "ja").glob("*.txt"))
    for number, dump in enumerate(("CC-MAIN-2022-05", "CC-MAIN-2023-23")):
        lines = [
            json.dumps(
                {
                    "text": path.read_text(encoding="utf-8").strip(),
                    "meta": {"url": f"https://example.jp/{path.stem}", "lang": "ja"},
                },
                ensure_ascii=False,
            )
            for path in texts[number::2]
        ]
        # Without a time stamp, so that the same texts give the same bytes.
        content = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)
        (folder / f"{dump}.jsonl.gz").write_bytes(content)


def _write_refinedweb(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = list(_standard_library_prose())
    count = len(texts)
    table = pyarrow.table(
        {
            "content": [text for _, text in texts],
            "url": [f"https://example.com/{name}" for name, _ in texts],
            "timestamp": [_CRAWL_DATE] * count,
            "dump": ["CC-MAIN-2023-06"] * count,
            "segment": ["1674764494826.88"] * count,
            "image_urls": pyarrow.array([[]] * count, type=pyarrow.list_(pyarrow.list_(pyarrow.string()))),
        }
    )
    parquet.write_table(table, path)


def _write_the_stack(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    files = list(_standard_library_code())
    lines = [content.splitlines() or [""] for _, content in files]
    parquet.write_table(
        pyarrow.table(
            {
                "hexsha": [hashlib.sha1(c.encode(), usedforsecurity=False).hexdigest() for _, c in files],
                "size": [len(content.encode()) for _, content in files],
                "ext": ["py"] * len(files),
                "lang": ["Python"] * len(files),
                "max_stars_repo_path": [name for name, _ in files],
                "max_stars_repo_name": ["python/cpython"] * len(files),
                "max_stars_repo_licenses": [["PSF-2.0"]] * len(files),
                "max_stars_count": pyarrow.array([None] * len(files), type=pyarrow.int64()),
                "content": [content for _, content in files],
                "avg_line_length": [sum(map(len, one)) / len(one) for one in lines],
                "max_line_length": [max(map(len, one)) for one in lines],
                "alphanum_fraction": [
                    sum(map(str.isalnum, content)) / max(len(content), 1) for _, content in files
                ],
            }
        ),
        path,
    )


def _standard_library_files() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of the standard library's modules, top-level ones and packages', in order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if any(
            part in name for part in ("site-packages", "dist-packages", "test", "lib2to3", "_sysconfigdata")
        ):
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _standard_library_prose() -> Iterator[tuple[str, str]]:
    """Yield docstrings that read as text, longest modules' first paragraphs included."""
    left = _PROSE_BYTES
    for name, content in _standard_library_files():
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            continue
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        text = "\n\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))
        if len(text) < _SHORTEST_PROSE:
            continue
        yield name, text
        left -= len(text.encode())
        if left <= 0:
            return


def _standard_library_code() -> Iterator[tuple[str, str]]:
    """Yield source files; of a few very long ones only those that fit."""
    left = _CODE_BYTES
    for name, content in _standard_library_files():
        size = len(content.encode())
        if not 500 <= size <= 60_000:
            continue
        yield name, content
        left -= size
        if left <= 0:
            return


@dataclass(frozen=True)
class _Page:
    """One `.wikitext` file: header lines, an empty line, the wikitext."""

    title: str
    namespace: int
    redirect: str | None
    text: str

    @classmethod
    def read(cls, path: Path) -> _Page:
        header, _, text = path.read_text(encoding="utf-8").partition("\n\n")
        fields = dict(line.split(": ", 1) for line in header.splitlines())
        return cls(fields["title"], int(fields["ns"]), fields.get("redirect"), text)

    def xml(self, number: int) -> str:
        redirect = f'    <redirect title="{escape(self.redirect)}" />\n' if self.redirect else ""
        body = self.text.encode()
        digest = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        return (
            f"  <page>\n    <title>{escape(self.title)}</title>\n    <ns>{self.namespace}</ns>\n"
            f"    <id>{number}</id>\n{redirect}    <revision>\n      <id>{number + 1000}</id>\n"
            f"      <timestamp>{_CRAWL_DATE}</timestamp>\n      <contributor>\n        <username>Sample</username>\n"
            f"        <id>1</id>\n      </contributor>\n      <model>wikitext</model>\n"
            f"      <format>text/x-wiki</format>\n"
            f'      <text bytes="{len(body)}" xml:space="preserve">{escape(self.text)}</text>\n'
            f"      <sha1>{digest}</sha1>\n    </revision>\n  </page>\n"
        )


def _write_wiki_dump(pages_folder: Path, folder: Path, language: str) -> None:
    """Write a multistream dump: a stream for the head, one for every few pages, one for the end."""
    pages = [_Page.read(path) for path in sorted(pages_folder.glob("*.wikitext"))]
    streams = [bz2.compress(_site_info(language).encode())]
    index: list[str] = []
    for start in range(0, len(pages), _PAGES_PER_STREAM):
        offset = sum(map(len, streams))
        chunk = list(enumerate(pages[start : start + _PAGES_PER_STREAM], start + 1))
        index += [f"{offset}:{number}:{page.title}" for number, page in chunk]
        streams.append(bz2.compress("".join(page.xml(number) for number, page in chunk).encode()))
    streams.append(bz2.compress(b"</mediawiki>\n"))
    (folder / f"{language}{_DUMP}").write_bytes(b"".join(streams))
    index_name = f"{language}{_DUMP}".replace(".xml.bz2", "-index.txt.bz2")
    (folder / index_name).write_bytes(bz2.compress(("\n".join(index) + "\n").encode()))


def _site_info(language: str) -> str:
    column = {"zh": 1, "ko": 2}[language]
    name = {"zh": "Wikipedia", "ko": "위키백과"}[language]
    namespaces = "".join(
        f'      <namespace key="{row[0]}" case="case-sensitive">{row[column]}</namespace>\n'
        if row[column]
        else f'      <namespace key="{row[0]}" case="case-sensitive" />\n'
        for row in _NAMESPACES
    )
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10"'
        f' xml:lang="{language}">\n  <siteinfo>\n    <sitename>{name}</sitename>\n'
        f"    <dbname>{language}wiki</dbname>\n    <base>https://{language}.wikipedia.org/wiki/</base>\n"
        f"    <generator>MediaWiki 1.42.0</generator>\n    <case>case-sensitive</case>\n"
        f"    <namespaces>\n{namespaces}    </namespaces>\n  </siteinfo>\n"
    )
