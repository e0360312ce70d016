"""RULER's texts: downloaded and compared with their checksums, or the project's own."""

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import tokenizer as bpe
from evaluation.ruler import corpora
from evaluation.ruler.corpora import CorpusFile
from evaluation.ruler.fallback import made_up_questions
from evaluation.ruler.generation import generate, read_metadata, samples_file
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder behind a local server, and ``SOURCES`` that name it."""
    folder = tmp_path / "served"
    (folder / "essays").mkdir(parents=True)
    (folder / "essays" / "a.txt").write_text("First one here.  It\n goes on. " * 50)
    (folder / "essays" / "b.txt").write_text("Then the second “one”. " * 50)
    (folder / "squad.json").write_text(json.dumps(made_up_questions.squad_format()))
    (folder / "hotpotqa.json").write_text(json.dumps(made_up_questions.hotpotqa_format()))
    (folder / "english_words.json").write_text(json.dumps({str(n): f"w{n}" for n in range(40_000)}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))]
    sources = {
        name: CorpusFile(
            ((f"{here}/{name}", hashlib.sha256((folder / name).read_bytes()).hexdigest()),), "CC0"
        )
        for name in names
    }
    monkeypatch.setattr(corpora, "SOURCES", sources)
    yield folder
    server.shutdown()


def test_fetch_and_load(served: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", corpora.__name__)
    corpora.fetch(tmp_path / "texts")
    assert len(caplog.messages) == 4
    manifest = json.loads((tmp_path / "texts" / "manifest.json").read_text())
    assert set(manifest) == {
        "essays/a.txt",
        "essays/b.txt",
        "squad.json",
        "hotpotqa.json",
        "english_words.json",
    }
    assert manifest["squad.json"]["license"] == "CC0"
    assert manifest["squad.json"]["bytes"] == (served / "squad.json").stat().st_size
    loaded = corpora.load(tmp_path / "texts")
    assert loaded.kind == "published"
    assert loaded.essays.startswith("First one here. It goes on. First one here.")
    starts = loaded.sentence_starts
    assert loaded.essays[starts[1] :].startswith("It goes on.")
    assert len(starts) == 150
    assert loaded.pool("english_words")[:2] == ["w0", "w1"]
    assert loaded.questions("qa_1").items == corpora.load(None).questions("qa_1").items
    assert loaded.used_by("qa_1")[0] == loaded.used_by("niah_single_2")[0] == "published"
    assert loaded.used_by("vt")[0] is None


def test_published_texts_reach_the_samples(served: Path, tmp_path: Path) -> None:
    corpora.fetch(tmp_path / "texts")
    bpe.train([corpora.load(None).essays], 1200, tmp_path / "tokenizer")
    for folder in (None, tmp_path / "texts"):
        generate(
            tmp_path / "tokenizer",
            [600],
            1,
            tmp_path / "out",
            tasks=["niah_single_2", "vt"],
            corpora=folder,
            workers=1,
        )
        if folder is None:
            before = (
                read_metadata(tmp_path / "out", "niah_single_2", 600),
                read_metadata(tmp_path / "out", "vt", 600),
            )
    after = (
        read_metadata(tmp_path / "out", "niah_single_2", 600),
        read_metadata(tmp_path / "out", "vt", 600),
    )
    assert (before[0].kind, after[0].kind) == ("fallback", "published")
    assert before[0].corpus != after[0].corpus
    assert before[1] == after[1]  # has no texts
    assert (
        "First one here. It goes on."
        in samples_file(tmp_path / "out", "niah_single_2", 600).read_text()
    )


def test_second_place_is_tried(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((address, checksum),) = corpora.SOURCES["squad.json"].places
    places = ((address.replace("squad", "missing"), checksum), (address, checksum))
    monkeypatch.setitem(corpora.SOURCES, "squad.json", CorpusFile(places, "CC0"))
    corpora.fetch(tmp_path / "texts")
    assert (
        json.loads((tmp_path / "texts" / "manifest.json").read_text())["squad.json"]["url"]
        == address
    )


def test_wrong_checksum_leaves_nothing(served: Path, tmp_path: Path) -> None:
    (served / "squad.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"squad\.json: cannot be fetched from .* \(SHA-256 [0-9a-f]+, expected"
    ):
        corpora.fetch(tmp_path / "texts")
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_unreachable_host_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        corpora,
        "SOURCES",
        {"squad.json": CorpusFile((("http://127.0.0.1:9/squad.json", "0" * 64),), "CC0")},
    )
    with pytest.raises(
        UserError,
        match=r"cannot be fetched from http://127\.0\.0\.1:9/squad\.json \(ConnectionError\)",
    ):
        corpora.fetch(tmp_path / "texts")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_whole_is_refused(served: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    corpora.fetch(texts)
    with pytest.raises(UserError, match="exists already"):
        corpora.fetch(texts)
    (texts / "essays" / "b.txt").write_text("Another.")
    with pytest.raises(UserError, match=r"essays/b\.txt: is not the file that was fetched"):
        corpora.load(texts)
    (texts / "essays" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"essays/b\.txt: no such file"):
        corpora.load(texts)


def test_pinned_sources() -> None:
    checksums = [checksum for source in corpora.SOURCES.values() for _, checksum in source.places]
    assert all(
        len(checksum) == 64 and set(checksum) <= set("0123456789abcdef") for checksum in checksums
    )
    assert len(corpora.SOURCES) == 49 + 3
    assert all(source.license for source in corpora.SOURCES.values())


def test_own_texts() -> None:
    own = corpora.load(None)
    assert own.kind == "fallback"
    assert own.used_by("qa_2")[0] == "fallback"
    assert len(own.essays) > 19_000
    assert "#" not in own.essays
    single, double = own.questions("qa_1"), own.questions("qa_2")
    assert (len(single.documents), len(double.items)) == (60, 40)
    assert len(single.items) >= 60
    for known in (single, double):
        assert max(map(len, known.documents)) < 140
        for question in known.items:
            support = " ".join(known.documents[number] for number in question.supporting)
            assert question.outputs[0] in support
            assert set(question.supporting) <= set(question.gold)
            # no other document holds both halves of what is asked
            assert len([item for item in known.items if item.query == question.query]) == 1
    pairs = own.pool("pairs")
    assert len(pairs) == len(set(pairs)) > 100_000
