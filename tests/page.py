"""A page read as a browser would read it, but stricter."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Collects tags and text, and demands that every element is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag, f"unexpected </{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]

    def tokens(self, flag: str) -> list[dict[str, str | None]]:
        """Attributes of the drawn tokens that carry a class."""
        return [attrs for _, attrs in self.tags if {"tok", flag} <= set((attrs.get("class") or "").split())]
