"""Which language a text has, by langdetect; importing this module loads its profiles, a second."""

from langdetect import DetectorFactory, LangDetectException, detect
from langdetect.detector_factory import init_factory

# it draws random numbers
DetectorFactory.seed = 0
init_factory()


def language_of(text: str) -> str:
    """Return the code of a text's language (ISO 639-1), "" where it has no words."""
    try:
        return detect(text)
    except LangDetectException:
        return ""
