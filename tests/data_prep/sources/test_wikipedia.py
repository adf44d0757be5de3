"""Articles out of MediaWiki dumps: redirects by their element, markup gone, a broken dump refused by line."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow
import pytest
from pyarrow import parquet

from data_prep.errors import DataPrepError
from data_prep.sources import Document, Dropped, Record, open_source
from data_prep.sources.records import Malformed
from data_prep.wikitext import clean_wikitext
from data_prep.wikitext.namespaces import removed_names

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{language}">
  <siteinfo><sitename>Test</sitename><namespaces>
    <namespace key="-2" case="first-letter">Medium</namespace>
    <namespace key="0" case="first-letter" />
    <namespace key="6" case="first-letter">Datei</namespace>
    <namespace key="10" case="first-letter">Vorlage</namespace>
    <namespace key="14" case="first-letter">Kategorie</namespace>
  </namespaces></siteinfo>
"""
NAMES = removed_names()


def page(title: str, text: str, *, ns: str = "<ns>0</ns>", before: str = "", model: str = "wikitext") -> str:
    return (
        f"<page><title>{escape(title)}</title>{ns}<id>1</id>{before}<revision><id>2</id>"
        f"<contributor><username>text</username><id>3</id></contributor><model>{model}</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
    )


def dump(*pages: str, language: str = "de") -> bytes:
    return (HEAD.format(language=language) + "".join(pages) + "</mediawiki>\n").encode()


def read(path: Path, data: bytes | None = None, **options: object) -> list[Record]:
    if data is not None:
        path.write_bytes(data)
    return list(open_source("wikipedia", options).read(path))


def texts(records: list[Record]) -> list[str]:
    return [record.text for record in records if isinstance(record, Document)]


def test_the_real_dump_gives_its_articles(shared: Path) -> None:
    (path,) = (shared / "corpora" / "wikipedia").glob("enwiki-*.bz2")
    records = read(path)
    dropped = Counter(record.reason for record in records if isinstance(record, Dropped))
    # 206 pages, 205 of them articles, 100 with <redirect>: one of these is the page of another namespace.
    assert dropped == {"namespace": 1, "redirect": 99}
    assert len(texts(records)) == 106
    assert [record.record for record in records] == list(range(1, 207))
    for text in texts(records):
        title, blank, body = text.partition("\n\n")
        assert title
        assert blank
        assert len(body) > 20, title
        left = [
            mark for mark in ("[[", "]]", "{{", "}}", "{|", "|}", "'''", "<ref", "</", "<!--") if mark in body
        ]
        assert left == [], title


def test_redirects_are_told_by_their_element_and_not_by_the_text(tmp_path: Path) -> None:
    pages = [
        page("Ziel", "#WEITERLEITUNG [[Anderes]]", before='<redirect title="Anderes" />'),
        page("Text", "Wer #REDIRECT schreibt, leitet weiter."),
        page("Vorlage:X", "Text einer Vorlage", ns="<ns>10</ns>"),
        page("Leer", "{{Infobox}}"),
        page("Modul", "return {}", model="Scribunto"),
        page("Ohne Text", ""),
    ]
    records = read(tmp_path / "wiki.xml", dump(*pages))
    assert [record.reason for record in records if isinstance(record, Dropped)] == [
        *("redirect", "namespace", "empty", "not_wikitext", "empty")
    ]
    assert texts(records) == ["Text\n\nWer #REDIRECT schreibt, leitet weiter."]


def test_the_namespace_of_an_old_export_is_that_of_its_title(tmp_path: Path) -> None:
    pages = [
        page("Vorlage:X", "Vorlage", ns=""),
        page("Alien: Ein Film", "Film", ns=""),
        page("Haus", "Haus", ns=""),
    ]
    records = read(tmp_path / "wiki.xml", dump(*pages))
    assert [isinstance(record, Document) for record in records] == [False, True, True]


def test_of_several_revisions_the_last_one_is_read(tmp_path: Path) -> None:
    twice = page("Haus", "alt").replace(
        "</page>", "<revision><model>wikitext</model><text>neu</text></revision></page>"
    )
    assert texts(read(tmp_path / "wiki.xml", dump(twice))) == ["Haus\n\nneu"]


def test_the_dumps_own_namespace_names_leave_no_text(tmp_path: Path) -> None:
    text = "Ein [[Datei:a.jpg|mini|Bild von [[b]]]]Haus.\n\n[[Kategorie:Bau]][[File:b.jpg]][[Category:X]]"
    assert texts(read(tmp_path / "wiki.xml", dump(page("Haus", text)))) == ["Haus\n\nEin Haus."]


def _multistream(data: bytes) -> bytes:
    head, page_start, pages = data.partition(b"<page>")
    return b"".join(bz2.compress(part) for part in (head, page_start + pages[:100], pages[100:]))


@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress, _multistream])
def test_a_dump_is_read_whatever_it_is_compressed_with(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    data = dump(page("Haus", "Ein Haus & <nowiki>[[x]]</nowiki>."))
    assert texts(read(tmp_path / "wiki", compress(data))) == ["Haus\n\nEin Haus & [[x]]."]


def test_a_text_longer_than_any_buffer_is_whole(tmp_path: Path) -> None:
    long = "어떤 긴 문장 " * 20_000 + "끝"
    (text,) = texts(read(tmp_path / "wiki.xml.bz2", bz2.compress(dump(page("긴 글", long)))))
    assert text == "긴 글\n\n" + long


PAGES = [
    page(f"Seite {number}", f"Text {number}. " + chr(0x3042 + number % 50) * 900) for number in range(200)
]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BOMB.encode() + dump(page("A", "b")), "line 1: declares the XML entity 'a'"),
        (b"<html><body/></html>", "its root element is <html>, not <mediawiki>"),
        (b"", "not XML"),
        (bz2.compress(b"600:10:Haus\n600:11:Baum\n"), "line 1: not XML.*index"),
        (bz2.compress(dump(page("A", "b")))[:-30], "the file was cut short"),
        (bz2.compress(dump(page("A", "b")))[:-4] + bytes(4), "damaged compressed data"),
    ],
)
def test_a_file_that_is_no_dump_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataPrepError, match=f"wiki.bin: (?:.* )?{message}") as refusal:
        read(tmp_path / "wiki.bin", data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "pages", "message"),
    [
        (dump(page("A", "b"), page("C", "d"))[:-40], 1, "page 2: the dump was cut short inside this page"),
        (dump(page("A", "b") * 50)[:-14], 50, "page 51: the dump was cut short before this page"),
        (bz2.compress(dump(*PAGES), 1)[:-30], 60, "the file was cut short"),
        (
            dump(page("A", "b"), page("C", "d")).replace(b">b<", b">\xff<"),
            1,
            "page 1: 'A' is not well-formed XML",
        ),
        (dump(page("A", "b", ns="<ns>zero</ns>"), page("C", "d")), 1, "page 1: 'A' is not well-formed XML"),
    ],
)
def test_what_of_a_dump_cannot_be_read_is_told_and_the_rest_is_read(
    tmp_path: Path, data: bytes, pages: int, message: str
) -> None:
    records = read(tmp_path / "wiki.bin", data)
    (problem,) = (record for record in records if isinstance(record, Malformed))
    assert message in str(problem)
    assert pages <= len(texts(records)) < 200


def multistream(pages: list[str], a_stream: int = 3) -> list[bytes]:
    """The streams of a multistream dump: the head, some pages each, the end."""
    groups = ["".join(pages[start : start + a_stream]) for start in range(0, len(pages), a_stream)]
    parts = [HEAD.format(language="de"), *groups, "</mediawiki>\n"]
    return [bz2.compress(part.encode()) for part in parts]


def by_ranges(path: Path, target: int) -> list[Record]:
    source = open_source("wikipedia", {})
    found: list[Record] = []
    for part in source.ranges(path, target):
        for block in source.blocks(path, part):
            found += [block] if isinstance(block, Malformed) else source.records(path, block)
    return found


@pytest.mark.parametrize("target", [1, 700, 3000, 1 << 40])
def test_a_multistream_dump_read_by_ranges_is_the_dump(tmp_path: Path, target: int) -> None:
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(b"".join(multistream(PAGES)))
    (tmp_path / "one.xml.bz2").write_bytes(bz2.compress(dump(*PAGES)))
    assert len(open_source("wikipedia", {}).ranges(path, 700)) > 5
    assert texts(by_ranges(path, max(target, 200))) == texts(read(tmp_path / "one.xml.bz2"))


def test_reading_a_dump_goes_on_behind_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.mediawiki_streams.BLOCK_BYTES", 10_000)
    monkeypatch.setattr("data_prep.sources.lines.BLOCK_BYTES", 10_000)
    (tmp_path / "many.xml.bz2").write_bytes(b"".join(multistream(PAGES)))
    (tmp_path / "one.xml.bz2").write_bytes(bz2.compress(dump(*PAGES)))
    source = open_source("wikipedia", {})
    for path in (tmp_path / "many.xml.bz2", tmp_path / "one.xml.bz2"):
        (part,) = source.ranges(path, 1 << 40)
        blocks = [block for block in source.blocks(path, part) if not isinstance(block, Malformed)]
        assert len(blocks) > 10
        whole = [record for block in blocks for record in source.records(path, block)]
        assert [record.record for record in whole] == list(range(1, 201))
        for number, block in enumerate(blocks):
            rest = [one for one in source.blocks(path, part, block.end) if not isinstance(one, Malformed)]
            assert [(one.start, one.end) for one in rest] == [
                (one.start, one.end) for one in blocks[number + 1 :]
            ]


@pytest.mark.parametrize("target", [300, 1 << 40])
def test_a_damaged_stream_costs_its_own_pages_alone(tmp_path: Path, target: int) -> None:
    streams = multistream(PAGES)
    damaged = bytearray(streams[20])
    damaged[30] ^= 0xFF
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(b"".join([*streams[:20], bytes(damaged), *streams[21:]]))
    records = by_ranges(path, target)
    lost = {f"Seite {number}" for number in range(57, 60)}
    assert {text.split("\n")[0] for text in texts(records)} == {f"Seite {n}" for n in range(200)} - lost
    problems = [record for record in records if isinstance(record, Malformed)]
    assert {problem.reason for problem in problems} == {"damaged"}


@pytest.mark.parametrize("kept", [30, 40])
@pytest.mark.parametrize("more", [0, 50])
def test_a_multistream_dump_that_was_cut_short_says_so(tmp_path: Path, kept: int, more: int) -> None:
    streams = multistream(PAGES)
    path = tmp_path / "wiki.xml.bz2"
    path.write_bytes(b"".join(streams[:kept]) + streams[kept][:more])
    records = by_ranges(path, 1 << 40)
    assert len(texts(records)) == (kept - 1) * 3
    (problem,) = (record for record in records if isinstance(record, Malformed))
    assert "cut short" in problem.problem


@pytest.mark.parametrize(
    "nest",
    [
        *(
            "<div>",
            "[[a|",
            "[http://a ",
            "{{",
            "{|\n",
            "[[a|{{b|",
            "<b><i>",
            "-{",
            "<ref>",
            '<ref name="',
            "<nowiki>",
        ),
        *(
            "<table>",
            "[",
            "]]",
            "{",
            "(",
            "({{a}}",
            "''",
            "= ",
            "=\n",
            "&",
            "__",
            " ",
            "\n ",
            "[[a|[b]",
            "; ",
            "-{; ",
        ),
    ],
)
@pytest.mark.parametrize("inside", ["a {}", "-{{ {} }}-", "[http://x {}", "(x{}{{{{a}}}})", "[[File:x|{}"])
def test_a_long_hostile_page_is_cleaned_in_time(nest: str, inside: str) -> None:
    # A tenth of a second each. What looks from every place to the end takes half an hour here.
    text = inside.format(nest * (200_000 // len(nest)))
    assert isinstance(clean_wikitext(text, removed=NAMES, variant="zh-cn").text, str)


@pytest.mark.parametrize(
    ("opening", "closing"), [("{{", "}}"), ("-{", "}-"), ("[[a|", "]]"), ("{|\n", "\n|}")]
)
def test_a_page_nested_a_hundred_thousand_deep_is_cleaned_in_time(opening: str, closing: str) -> None:
    text = f"a {opening * 100_000}x{closing * 100_000} b"
    assert clean_wikitext(text, removed=NAMES, variant="zh-cn").text.startswith("a")


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("a {{b|{{c|{{d}}}}|x={{e}}}} f", "a f"),
        ("a {{Infobox\n|x=\n{| class=w\n|-\n| y {{t}}\n|}\n}} b", "a b"),
        ("{|\n|-\n| a {{t|{{!}}}}\n{|\n| nested\n|}\n|}\nafter", "after"),
        ("a<ref name=\"x>y\">'''b''' [[c|d]] {{e}}</ref> f<ref name=q/>.", "a f."),
        ("a[[File:x.jpg|thumb|of [[b|c]] {{d}}]] e", "a e"),
        ("[[文件:x.png|缩略图]]一[[파일:x.png]][[ファイル:a.png]][[圖像:b.png]]", "一"),
        ("[[:Category:X]] and [[:File:Y.jpg|y]]", "Category:X and y"),
        ("text\n[[fr:Titre]]\n[[zh-min-nan:X]]", "text"),
        ("[[a|b]]s, [[c#d|e]], [http://f.g h] and [http://i.j]", "bs, e, h and"),
        ("'''''a''''' ''b'' '''c''', it's", "a b c, it's"),
        ("__NOTOC__a\n== H ==\n* b\n** c\n----\n# d", "a\n\nH\n\nb\nc\n\nd"),
        ("&lt;ref&gt; &amp;lt; &#x4E2D;&nbsp;x<br/>y", "<ref> &lt; 中 x\ny"),
        ("<nowiki>[[a]] {{b}} '''c'''</nowiki>", "[[a]] {{b}} '''c'''"),
        ("x<!-- a [[b --> y<!-- never closed", "x y"),
        ("<math>a_{b}}</math>x<gallery>\nFile:a|b\n</gallery>y", "xy"),
        ("<div>a <table><tr><td>b</td></tr></table>c</div>", "a c"),
        ("(born {{date}}; {{age}}) x ({{lang|c}})", "(born) x"),
        ("a ({{ipa}};<ref>b</ref> {{lang|c}} {{ipa}}, ''d''; e) f ({{g}}; {{h}})", "a (d; e) f"),
        ("a[[File:x.jpg|thumb|see [1] and [2\n[http://b c]]] d", "a d"),
        ("a ''[[b]]''<sub>''c''</sub> [[d|e [1]]] &#x3042;&#xD800;&bogus;", "a bc e [1] あ\ufffd&bogus;"),
        ("; term : text\n: more", "term : text\nmore"),
        ("== a == <!-- b -->\n=== c ==\n====\nd = e =", "a\n\n= c\n\n====\nd = e ="),
        ("{{{1|a}}}{{#if:b|c}}<includeonly>d</includeonly><noinclude>e</noinclude>", "e"),
        # What is never closed may leave its own signs behind, but takes no text away.
        ("a '''b ''c\n\nd", "a b c\n\nd"),
        ("a <ref>b [[c]]\n\nd", "a b c\n\nd"),
        ("a {{b | c [[d]]\n\ne", "a {{b | c d\n\ne"),
        ("a [[b | c\n\nd", "a [[b | c\n\nd"),
        ("{| class=x\na\n\nb", "a\n\nb"),
        ("a }} ]] |} </ref> <b>c", "a }} ]] |}  c"),
    ],
)
def test_wikitext_becomes_what_a_reader_sees(wikitext: str, text: str) -> None:
    assert clean_wikitext(wikitext, removed=NAMES).text == text


@pytest.mark.parametrize(
    ("wikitext", "variant", "text"),
    [
        ("-{zh-hans:计算机;zh-hant:電腦}-", "zh-hk", "電腦"),
        ("-{zh-cn:出租车;zh-tw:計程車;zh-hk:的士}-", "zh-mo", "的士"),
        ("-{zh:甲&nbsp;乙;zh-tw:丙}-", "zh-cn", "甲 乙"),
        ("-{趁墟}-", "zh-cn", "趁墟"),
        ("a-{H|zh-cn:甲;zh-tw:乙}-b", "zh-tw", "ab"),
        ("-{zh-cn:甲-{zh-cn:乙;zh-tw:丙}-;zh-tw:丁}-", "zh-cn", "甲乙"),
        ("{{a|-{zh-cn:甲;zh-tw:乙}-}}丙", "zh-cn", "丙"),
        ("-{zh-cn:甲;zh-tw:乙 丙", "zh-cn", "-{zh-cn:甲;zh-tw:乙 丙"),
    ],
)
def test_language_conversion_is_resolved_to_one_variant(wikitext: str, variant: str, text: str) -> None:
    assert clean_wikitext(wikitext, removed=NAMES, variant=variant).text == text


def test_language_conversion_is_left_alone_where_the_wiki_is_not_chinese(tmp_path: Path) -> None:
    pages = page("Math", "a-{b}-c")
    assert texts(read(tmp_path / "ko.xml", dump(pages, language="ko"))) == ["Math\n\na-{b}-c"]
    assert texts(read(tmp_path / "zh.xml", dump(pages, language="zh"))) == ["Math\n\nabc"]


def test_a_title_that_language_conversion_sets_is_the_title(tmp_path: Path) -> None:
    pages = page("铁路", "-{T|zh-hans:铁路;zh-hant:鐵路}-文。")
    data = dump(pages, language="zh")
    assert texts(read(tmp_path / "zh.xml", data, variant="zh-tw")) == ["鐵路\n\n文。"]
    assert texts(read(tmp_path / "zh.xml", variant="zh-cn", title=False)) == ["文。"]


@pytest.mark.parametrize("nest", ["{{", "[[", "{|\n", "<b>", "-{", "{{{{{{", "<div>", "''", "<ref>", "(("])
def test_a_page_of_nothing_but_openings_does_not_end_the_build(tmp_path: Path, nest: str) -> None:
    pages = [page("Bad", nest * 600), page("Deep", "{{{{{{" * 500 + "}}}}" * 500), page("Good", "text")]
    records = read(tmp_path / "wiki.xml", dump(*pages, language="zh"))
    assert texts(records)[-1] == "Good\n\ntext"
    assert len(records) == 3


@pytest.mark.parametrize("piece", [" ", "\t", "\n", "(", "-{A; ", "'"])
def test_a_long_run_of_one_thing_is_read_at_once(piece: str) -> None:
    # Half a minute where a regular expression looks from every place of the run to its end.
    assert clean_wikitext(f"a{piece * 20_000}b", removed=NAMES, variant="zh-cn").text.startswith("a")


def test_the_cleaned_wikipedia_of_the_hub_is_read_too(tmp_path: Path) -> None:
    rows = {"id": ["1", "2"], "url": ["u", "v"], "title": ["Haus", "Leer"], "text": ["Ein Haus.", ""]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "train.parquet")
    assert texts(read(tmp_path / "train.parquet")) == ["Haus\n\nEin Haus."]
    assert texts(read(tmp_path / "train.parquet", title=False)) == ["Ein Haus."]
    lines = b'{"id": "1", "title": "Haus", "text": "Ein Haus."}\n\n'
    records = read(tmp_path / "train.jsonl.gz", gzip.compress(lines))
    assert texts(records) == ["Haus\n\nEin Haus."]
    assert [record.reason for record in records if isinstance(record, Dropped)] == ["blank_line"]
