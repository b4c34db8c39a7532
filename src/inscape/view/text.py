"""Text on its way into a page: markup is escaped, and what cannot be seen or would break the page is made visible."""

import html
import json
import math
import unicodedata
from typing import Any


def visible(text: str) -> str:
    """The text with control and direction characters spelled out, so that a token cannot turn the page around.

    Newline and tab stay; other control characters become their Unicode pictures, format characters (bidirectional
    overrides, zero-width marks) become `<U+202E>`, a lone surrogate the replacement character. Zero-width joiners stay,
    because emoji and several scripts need them.
    """
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or 32 <= code < 127:
        return char
    if code < 32:
        return chr(0x2400 + code)
    if code == 127:
        return "\u2421"
    category = unicodedata.category(char)
    if category == "Cs":
        return "\ufffd"
    if category == "Cc" or (category == "Cf" and code not in (0x200C, 0x200D)):
        return f"<U+{code:04X}>"
    return char


def escape(text: str) -> str:
    """The text as HTML, safe between tags and inside a quoted attribute."""
    return html.escape(visible(text), quote=True)


def inline_json(data: Any) -> str:
    """JSON that can stand inside a `<script>`: plain ASCII without `<`, `>` or `&`; what is not finite is null."""
    text = json.dumps(_finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def inline_script(code: str) -> str:
    """JavaScript that can stand inside a `<script>`: the two sequences that would end or nest the element are split."""
    code = code.replace("\r\n", "\n").replace("\r", "\n")  # as the parser reads it; the policy digests this text
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
