"""Steps that look at one text alone."""

import re
import unicodedata

import ftfy
from ftfy import fixes
from ftfy.chardata import CHARMAP_ENCODINGS, possible_encoding

# anything but tab, line feed and printable ASCII: only such a text can need a repair
_UNUSUAL = re.compile(r"[^\t\n -~]")

_REMOVED = re.compile("[\x00-\x08\x0b-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")

# the repairs of wrongly decoded text that guess are left out
_ENCODING = ftfy.TextFixerConfig(
    restore_byte_a0=False, replace_lossy_sequences=False, decode_inconsistent_utf8=False
)


def normalize(text: str) -> str:
    r"""Return ``text`` in Unicode NFC, with ``\n`` line ends and without invisible characters.

    Of ftfy only what cannot harm code and mathematics is used: quotes, ligatures, character widths
    and HTML entities stay. In this order:

    1. A text that as a whole was decoded in the wrong encoding is decoded again (``sÃ³`` becomes
       ``só``).
    2. C1 controls become the Windows-1252 characters that they were meant as; the five without one
       stay.
    3. CR LF, CR, U+2028 and U+2029 become LF.
    4. Removed are terminal escapes such as ``ESC[31m``, every other control below U+0020 but tab
       and LF, U+007F, the deprecated U+206A-206F, the annotation characters U+FFF9-FFFC and the
       byte order mark U+FEFF.
    5. Unicode NFC.
    """
    if not _UNUSUAL.search(text):
        return text
    if not text.isascii():
        # a text in no single-byte encoding was not decoded from one; ftfy's own look takes long
        if any(possible_encoding(text, encoding) for encoding in CHARMAP_ENCODINGS):
            text = ftfy.fix_encoding(text, _ENCODING)
        text = fixes.fix_c1_controls(text)
    return clean(text)


def clean(text: str) -> str:
    """Return ``text`` after steps 3 to 5 of :func:`normalize`, which guess nothing."""
    if not _UNUSUAL.search(text):
        return text
    text = fixes.remove_terminal_escapes(fixes.fix_line_breaks(text))
    return unicodedata.normalize("NFC", _REMOVED.sub("", text))


def too_short_or_long(text: str, minimum: int | None, maximum: int | None) -> str | None:
    """Return the step that removes ``text`` for its length in Unicode code points, or None.

    ``empty`` is a text of white space only; it is removed at any limits.
    """
    if not text or text.isspace():
        return "empty"
    if minimum is not None and len(text) < minimum:
        return "min_characters"
    if maximum is not None and len(text) > maximum:
        return "max_characters"
    return None
