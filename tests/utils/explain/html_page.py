"""Reads a page of a report as strictly as a browser is lenient."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "br", "hr"}
LOADING = {"link", "script", "iframe", "object", "embed", "source", "video", "audio", "base"}


class Page(HTMLParser):
    """A page taken apart; tags that do not nest are an error.

    Attributes:
        texts: what stands in elements, by tag.
        images: every picture, decoded.
        captions: their ``alt``.
        links: where it leads.
        tables: cells of every row, of every table.
        charts: how many bars each chart has.
        tags: all that occur.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.images, self.captions, self.links, self.tables, self.charts = [], [], [], [], []
        self.tags, self._open = set(), []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, f"{path}: {self._open} never end"

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            kind, data = named["src"].split(",", 1)
            assert kind == "data:image/png;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            picture.load()
            self.images.append(picture)
            self.captions.append(named["alt"])
        elif "src" in named:
            raise AssertionError(f"{tag} loads {named['src']}")
        elif tag == "svg":
            self.charts.append(0)
        elif tag == "rect":
            assert min(float(named["x"]), float(named["width"])) >= 0
            self.charts[-1] += 1
        if "href" in named:
            self.links.append(named["href"])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self._open and self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data
            if {"td", "th"} & set(self._open):
                self.tables[-1][-1][-1] += data


def check_page(path: Path) -> Page:
    """What every page of a report promises: whole in itself, well formed, readable when printed."""
    page = Page(path)
    assert page.source.startswith("<!DOCTYPE html>")
    assert not page.tags & LOADING
    assert "://" not in page.source and "url(" not in page.source and "@import" not in page.source
    assert len(page.texts["h1"]) == 1 and page.texts["h1"] == page.texts["title"] != [""]
    assert all(title.strip() for title in page.texts["h2"])
    for link in page.links:
        assert (path.parent / link).is_file(), link
    for table in page.tables:
        assert len(table) > 1 and len({len(row) for row in table}) == 1
    assert all(page.captions) and len(page.images) <= len(page.texts.get("figcaption", []))
    assert all(page.charts)
    for picture in page.images:
        assert min(picture.size) > 50
        assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096)) > 1  # not empty
    printed = page.texts["style"][0].partition("@media print")[2]
    assert "break-inside: avoid" in printed and "max-width" in page.texts["style"][0]
    return page
