"""Which links are media, categories or other languages: names in five languages and the dump's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

# MediaWiki numbers of Media, File and Category, as <siteinfo> lists them.
REMOVED_KEYS = frozenset({"-2", "6", "14"})

# Dumps list each namespace under one name, while pages use every alias there ever was.
REMOVED_NAMES = frozenset(
    {
        *("media", "file", "image", "category"),
        *("メディア", "ファイル", "画像", "カテゴリ"),
        *("媒体文件", "媒體檔案", "媒体", "媒體", "文件", "檔案", "档案", "图像", "圖像", "图片", "圖片"),
        *("分类", "分類"),
        *("미디어", "파일", "그림", "분류"),
    }
)

# Prefixes that look like language codes and are other projects or namespaces, whose links show their text.
_NOT_LANGUAGES = frozenset({"mw", "wmf", "doi", "git", "svn", "irc", "rfc", "wp", "wt", "mos", "hdl"})
_LANGUAGE = re.compile(
    r"[a-z]{2,3}|simple|zh-(?:yue|min-nan|classical)|be-(?:tarask|x-old)|nds-nl|roa-(?:rup|tara)|fiu-vro"
    r"|bat-smg|map-bms|cbk-zam"
)


def canonical(name: str) -> str:
    """A namespace name as it is compared: no case, spaces for underscores."""
    return name.replace("_", " ").strip().casefold()


def removed_names(own: Iterable[str] = ()) -> frozenset[str]:
    """Names whose links leave no text: the known ones and those of the dump itself."""
    return REMOVED_NAMES | {canonical(name) for name in own if name}


def leaves_no_text(link_title: str, names: frozenset[str]) -> bool:
    """Whether `[[link_title...]]` embeds a medium, sets a category or points to another language.

    A leading colon makes any of them an ordinary link.
    """
    prefix, colon, rest = link_title.strip().partition(":")
    if not colon or not prefix:
        return False
    if canonical(prefix) in names:
        return True
    prefix = prefix.strip()
    return bool(rest.strip()) and _LANGUAGE.fullmatch(prefix) is not None and prefix not in _NOT_LANGUAGES
