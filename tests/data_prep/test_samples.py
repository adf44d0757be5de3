"""The sample corpora: five true file formats, the same bytes each time, and clean text out of them."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from pyarrow import parquet

from data_prep.samples.build import write_sample_corpora
from data_prep.sources import Document, open_source
from data_prep.sources.files import expand

PATTERNS = {
    "ja_cc": ("llm_jp_cc", "*.jsonl.gz"),
    "refinedweb": ("refinedweb", "*.parquet"),
    "zh_wiki": ("wikipedia", "*-pages-articles-multistream.xml.bz2"),
    "ko_wiki": ("wikipedia", "*-pages-articles-multistream.xml.bz2"),
    "the_stack": ("the_stack", "data/*/*.parquet"),
}
# One sentence of each page that is no article.
OTHER_NAMESPACES = {
    "zh_wiki": ("紫色的河马", "橙色的企鹅", "银色的刺猬", "会计算的蘑菇"),
    "ko_wiki": ("보라색 하마", "주황색 펭귄", "은빛 고슴도치", "셈을 할 줄 아는 버섯"),
}
MARKUP = (
    *("[[", "]]", "{{", "}}", "{|", "|}", "-{", "}-", "'''", "<ref", "</", "<!--", "__TOC", "&nbsp;"),
    *("分类:", "分類:", "Category:", "분류:", "파일:", "그림:", "文件:", "File:", "Image:", "|-", "thumb|"),
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each sample corpus."""
    return write_sample_corpora(tmp_path_factory.mktemp("samples"))


def read(samples: dict[str, Path], name: str, **options: object) -> tuple[list[str], Counter[str]]:
    source, pattern = PATTERNS[name]
    texts: list[str] = []
    dropped: Counter[str] = Counter()
    for path in expand([str(samples[name] / pattern)]):
        for record in open_source(source, options).read(path):
            if isinstance(record, Document):
                texts.append(record.text)
            else:
                dropped[record.reason] += 1
    return texts, dropped


def test_the_same_bytes_are_written_each_time(samples: dict[str, Path], tmp_path: Path) -> None:
    again = write_sample_corpora(tmp_path)
    assert again.keys() == samples.keys() == PATTERNS.keys()
    for name, folder in samples.items():
        files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
        assert files == [
            path.relative_to(again[name]) for path in sorted(again[name].rglob("*")) if path.is_file()
        ]
        for file in files:
            assert (folder / file).read_bytes() == (again[name] / file).read_bytes(), file


@pytest.mark.parametrize(
    ("name", "least_bytes"),
    [
        ("ja_cc", 60_000),
        ("zh_wiki", 20_000),
        ("ko_wiki", 20_000),
        ("refinedweb", 100_000),
        ("the_stack", 100_000),
    ],
)
def test_every_source_reads_enough_text(samples: dict[str, Path], name: str, least_bytes: int) -> None:
    texts, _ = read(samples, name)
    assert sum(len(text.encode()) for text in texts) >= least_bytes
    assert all(text.strip() for text in texts)


def test_the_common_crawl_lines_have_llm_jps_shape(samples: dict[str, Path]) -> None:
    files = sorted(samples["ja_cc"].iterdir())
    assert len(files) > 1
    for file in files:
        assert file.name.startswith("CC-MAIN-")
        for line in gzip.decompress(file.read_bytes()).splitlines():
            assert json.loads(line).keys() == {"text", "meta"}


def test_the_parquet_files_have_the_columns_of_the_originals(samples: dict[str, Path]) -> None:
    refinedweb, stack = (next(samples[name].rglob("*.parquet")) for name in ("refinedweb", "the_stack"))
    assert parquet.read_schema(refinedweb).names == [
        *("content", "url", "timestamp", "dump", "segment", "image_urls")
    ]
    assert {"content", "lang", "ext", "avg_line_length", "max_line_length", "alphanum_fraction"} <= set(
        parquet.read_schema(stack).names
    )


@pytest.mark.parametrize("name", ["zh_wiki", "ko_wiki"])
def test_a_dump_is_multistream_with_an_index_of_its_streams(samples: dict[str, Path], name: str) -> None:
    language = name[:2]
    stem = f"{language}wiki-20240120-pages-articles-multistream"
    data = (samples[name] / f"{stem}.xml.bz2").read_bytes()
    index = bz2.decompress((samples[name] / f"{stem}-index.txt.bz2").read_bytes()).decode().splitlines()
    offsets = {int(line.split(":", 2)[0]) for line in index}
    assert len(offsets) > 1
    for line in index:
        offset, number, title = line.split(":", 2)
        stream = bz2.BZ2Decompressor().decompress(data[int(offset) :]).decode()
        assert f"<title>{title}</title>" in stream
        assert f"<id>{number}</id>" in stream


@pytest.mark.parametrize("name", ["zh_wiki", "ko_wiki"])
def test_a_wiki_leaves_its_articles_and_counts_the_rest(samples: dict[str, Path], name: str) -> None:
    texts, dropped = read(samples, name)
    assert dropped == {"namespace": 4, "redirect": 3, "empty": 1}
    index = next(samples[name].glob("*-index.txt.bz2"))
    assert len(texts) + dropped.total() == len(bz2.decompress(index.read_bytes()).splitlines())
    whole = "\n".join(texts)
    assert [sentence for sentence in OTHER_NAMESPACES[name] if sentence in whole] == []


@pytest.mark.parametrize("name", ["zh_wiki", "ko_wiki"])
def test_the_other_namespaces_are_in_the_dump_at_all(samples: dict[str, Path], name: str) -> None:
    raw = bz2.decompress(next(samples[name].glob("*multistream.xml.bz2")).read_bytes()).decode()
    assert [sentence for sentence in OTHER_NAMESPACES[name] if sentence not in raw] == []


@pytest.mark.parametrize("name", ["zh_wiki", "ko_wiki"])
def test_no_markup_is_left(samples: dict[str, Path], name: str) -> None:
    for text in read(samples, name)[0]:
        # `#REDIRECT [[..]]` stands in <nowiki> on one page: there the brackets are what a reader sees.
        shown = text.replace("#REDIRECT [[目标]]", "").replace("#REDIRECT [[목적지]]", "")
        assert [mark for mark in MARKUP if mark in shown] == [], text[:30]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("zh_wiki", "页面的开头写上 #重定向 这个词"),
        ("ko_wiki", "맨 첫머리에 #넘겨주기 라는 낱말을 적은"),
        ("zh_wiki", "#REDIRECT [[目标]]"),
        ("ko_wiki", "#REDIRECT [[목적지]]"),
    ],
)
def test_a_page_that_speaks_of_redirects_is_none(samples: dict[str, Path], name: str, sentence: str) -> None:
    assert sum(sentence in text for text in read(samples, name)[0]) == 1


@pytest.mark.parametrize(
    ("variant", "taxi", "computer", "railway"),
    [
        ("zh-cn", "出租车", "计算机", "铁路"),
        ("zh-tw", "計程車", "電腦", "鐵路"),
        ("zh-hk", "的士", "電腦", "鐵路"),
        ("zh-sg", "出租车", "计算机", "铁路"),
    ],
)
def test_a_variant_of_chinese_picks_its_words(
    samples: dict[str, Path], variant: str, taxi: str, computer: str, railway: str
) -> None:
    texts = read(samples, "zh_wiki", variant=variant)[0]
    chosen = {"出租车", "計程車", "的士", "计算机", "電腦"}
    assert {word for word in chosen if any(word in text for text in texts)} == {taxi, computer}
    assert any(text.startswith(f"{railway}\n") for text in texts)


def test_the_title_can_be_left_out(samples: dict[str, Path]) -> None:
    with_title, without = (read(samples, "ko_wiki", title=title)[0] for title in (True, False))
    assert [text.partition("\n\n")[2] for text in with_title] == without
