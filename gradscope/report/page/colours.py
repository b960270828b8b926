"""Colours of the page, for light and dark, told apart against their background (WCAG 2.2: text 4.5, lines 3)."""

from __future__ import annotations

import math

#: Per theme: the page, text on it, quieter text, lines between things, accents for verdicts and marks.
THEMES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#ffffff",
        "card": "#f6f7f9",
        "text": "#1b1d20",
        "quiet": "#585d66",
        "rule": "#d4d8de",
        "link": "#0056a3",
        "failed": "#a30d0d",
        "healthy": "#00643c",
        "undecided": "#6b5200",
        "edge": "#767c86",
    },
    "dark": {
        "page": "#15181c",
        "card": "#1e2227",
        "text": "#eceef0",
        "quiet": "#a9b0ba",
        "rule": "#3a4048",
        "link": "#7cc0ff",
        "failed": "#ff9a94",
        "healthy": "#67dba6",
        "undecided": "#e8c65a",
        "edge": "#8b929c",
    },
}
#: One colour a run; further runs repeat them with another dash.
RUNS: dict[str, tuple[str, ...]] = {
    "light": ("#0060a8", "#b84600", "#00704e", "#a03c78", "#7a5d00", "#3f444b"),
    "dark": ("#6db8ff", "#ff9d57", "#3fd3a0", "#f09ad0", "#e6c84a", "#d5d9de"),
}
_LIGHTNESS = {"light": 0.55, "dark": 0.76}


def layer_palette(theme: str, count: int = 64) -> list[str]:
    """Return colours from blue by violet to orange, alike in lightness: the first layer is blue, the last orange."""
    return [_oklch(_LIGHTNESS[theme], 0.14, 255 + 165 * i / max(count - 1, 1)) for i in range(count)]


def contrast(one: str, other: str) -> float:
    """Compute the contrast ratio of two colours (WCAG 2.2), between 1 and 21."""
    a, b = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """Convert a colour of Björn Ottosson's Oklab space (2020) to sRGB, cut to what a screen can show."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )
    return "#" + "".join(f"{round(255 * _gamma(part)):02x}" for part in linear)


def _gamma(value: float) -> float:
    value = min(max(value, 0.0), 1.0)
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
