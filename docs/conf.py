"""Sphinx: Markdown pages, no network, no import of the package."""

import tomllib
from pathlib import Path

project = "inscape"
author = "the inscape authors"
release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"inscape {release}"
html_show_sourcelink = False
