"""Styles of figures: for paper and screen, light and dark, in colours that any eye and a grey printer tell apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradscope import checks

#: Okabe and Ito: told apart by people with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: The same on black: blue and black are too dark there.
ON_BLACK = ("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#4FA3E0", "#FFFFFF")
#: For prints in grey: each colour has a dash and a marker of its own.
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (3, 1.5)), (0, (9, 3)), "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Even in lightness, for prints in grey and for any kind of colour vision.
SCALE = "cividis"


@dataclass(frozen=True)
class Style:
    """Style of figures.

    Attributes:
        name: ``paper`` or ``screen``.
        panel: width and height of one panel, in inches.
        widest: width of the whole figure at most, in inches.
        font: size in points.
        line: width in points.
        marker: size in points.
        dpi: dots an inch.
        dark: light on dark.
    """

    name: str
    panel: tuple[float, float]
    widest: float
    font: float
    line: float
    marker: float
    dpi: int
    dark: bool = False

    @property
    def colours(self) -> tuple[str, ...]:
        """Colours of lines, in order."""
        return ON_BLACK if self.dark else COLOURS

    @property
    def ink(self) -> str:
        """Colour of text and axes."""
        return "#e8e8e8" if self.dark else "#1a1a1a"

    @property
    def paper(self) -> str:
        """Colour of the background."""
        return "#16181c" if self.dark else "#ffffff"

    def size(self, rows: int, columns: int) -> tuple[float, float]:
        """Return the size of a figure with so many panels, in inches."""
        width, height = self.panel
        share = min(1.0, self.widest / (width * columns))
        return width * columns * share, height * rows * max(share, 0.72)

    def settings(self) -> Any:
        """Return the settings for `matplotlib.rc_context`."""
        ink, paper = self.ink, self.paper
        return {
            "font.size": self.font,
            "axes.titlesize": self.font + 1,
            "axes.labelsize": self.font,
            "xtick.labelsize": self.font - 1,
            "ytick.labelsize": self.font - 1,
            "legend.fontsize": self.font - 1,
            "legend.title_fontsize": self.font - 1,
            "axes.linewidth": 0.7,
            "text.color": ink,
            "axes.edgecolor": ink,
            "axes.labelcolor": ink,
            "xtick.color": ink,
            "ytick.color": ink,
            "legend.labelcolor": ink,
            "axes.facecolor": paper,
            "figure.facecolor": paper,
            "savefig.facecolor": paper,
            "figure.dpi": self.dpi,
            "savefig.dpi": self.dpi,
            "pdf.fonttype": 42,  # letters that an editor can still change
            "svg.hashsalt": "gradscope",  # the same figure is the same file
        }


STYLES = {
    # One column of a two-column page is 3.3 in wide, its text 6.9 in.
    "paper": Style("paper", panel=(3.3, 2.4), widest=6.9, font=8, line=1.1, marker=3.5, dpi=300),
    "screen": Style("screen", panel=(4.8, 3.3), widest=14.4, font=10, line=1.6, marker=5, dpi=150),
}


def style(name: str, *, dark: bool = False) -> Style:
    """Return the style of this name; raise `InputError` for another."""
    return replace(STYLES[checks.one_of(name, STYLES, "--style")], dark=dark)
