import json
import random
from pathlib import Path

import numpy as np
import pytest

from data_prep.quality import contamination, duplicates, ngrams, steps
from recipes.common.errors import UserError

pytestmark = pytest.mark.slow

CODE = (
    'def f(s):\n\t"""“Curly”, ﬁne, Ｆull, ½ ≤ x² &amp; &lt;b&gt;"""\n'
    "\treturn s['a'] != r\"\\x00\\r\\n\"  # Ã or â\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\r\nb\rc\n\r\n", "a\nb\nc\n\n"),
        ("a\u2028b\u2029c", "a\nb\nc"),
        ("e\u0301 A\u030a \u212b \u2126", "é Å Å Ω"),
        ("\ud55c" + "".join(chr(code) for code in (0x1112, 0x1161, 0x11AB)), "한한"),
        ("x\x00y\x01\x08\x0b\x0c\x0e\x1f\x7fz", "xyz"),
        ("\ufeffa\ufff9b\ufffc", "ab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("voil\x85", "voil…"),
        ("el sÃ³tano", "el sótano"),
        ("It's â€œquotedâ€\x9d", "It's “quoted”"),
        # zero-width joiners of emoji and of Indic scripts, marks of direction and no-break spaces
        # mean something
        (
            "👩\u200d🚀 क्\u200dष \u200fעברית\u200e 1\u00a0000 🇪🇺",
            "👩\u200d🚀 क्\u200dष \u200fעברית\u200e 1\u00a0000 🇪🇺",
        ),
        ("x² ≠ x2, ﷺ, ㎏, ℝ, 𝑥", "x² ≠ x2, ﷺ, ㎏, ℝ, 𝑥"),
        (CODE, CODE),
        (" \n trailing \n\n", " \n trailing \n\n"),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert steps.normalize(text) == expected
    assert steps.normalize(expected) == expected


def test_a_document_that_quotes_wrongly_decoded_text_beside_other_scripts_is_left_alone() -> None:
    text = 'assert decode("Ã©") == "é"  # 日本語'
    assert steps.normalize(text) == text


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", "empty"),
        (" \n\t\u3000", "empty"),
        ("🙂🙂", "min_characters"),
        ("🙂🙂🙂", None),
        ("abcde", None),
        ("abcdef", "max_characters"),
    ],
)
def test_lengths_are_counted_in_characters_and_limits_are_allowed(
    text: str, step: str | None
) -> None:
    assert steps.too_short_or_long(text, 3, 5) == step


def test_words() -> None:
    assert ngrams.words("Don't snake_case(x1+Y2);") == [b"don", b"t", b"snake_case", b"x1", b"y2"]
    assert [word.decode() for word in ngrams.words("NAI\u0308VE हिन्दी 日本 語")] == [
        "naïve",
        "हिन्दी",
        "日",
        "本",
        "語",
    ]
    assert ngrams.words("-- !? \n") == []


def test_ascii_text_has_the_same_words_beside_other_characters() -> None:
    text = "".join(chr(code) for code in range(1, 128)) * 2
    assert [*ngrams.words(text), "é".encode()] == ngrams.words(text + " é")


def test_equal_ngrams_have_equal_hashes_wherever_they_stand() -> None:
    one = ngrams.ngram_hashes(ngrams.word_hashes(ngrams.words("x a b c y")), 3)
    two = ngrams.ngram_hashes(ngrams.word_hashes(ngrams.words("a b c")), 3)
    other = ngrams.ngram_hashes(ngrams.word_hashes(ngrams.words("b a c c b a")), 3)
    assert one.shape == (3,) and one[1] == two[0] and two[0] not in other
    assert ngrams.ngram_hashes(ngrams.word_hashes([b"a"]), 3).shape == (0,)


def _jaccard(one: str, two: str) -> float:
    sets = [
        {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
        for words in (one.split(), two.split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_signatures_estimate_the_jaccard_similarity() -> None:
    generator = random.Random(1)
    base = [f"w{generator.randrange(10**6)}" for _ in range(600)]
    for keep in (600, 560, 480, 300, 0):
        other = base[:keep] + [f"v{generator.randrange(10**6)}" for _ in range(600 - keep)]
        estimate = np.mean(
            duplicates.signature(" ".join(base)) == duplicates.signature(" ".join(other))
        )
        assert estimate == pytest.approx(_jaccard(" ".join(base), " ".join(other)), abs=0.13)
    # more n-grams than one batch holds
    one, two = (" ".join(f"{name if i >= 1500 else ''}{i}" for i in range(3000)) for name in "ab")
    estimate = np.mean(duplicates.signature(one) == duplicates.signature(two))
    assert estimate == pytest.approx(_jaccard(one, two), abs=0.13)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_pairs_at_the_threshold_share_a_band(threshold: float) -> None:
    rows = duplicates.band_rows(threshold)
    assert duplicates.HASHES % rows == 0
    assert 1 - (1 - threshold**rows) ** (duplicates.HASHES // rows) >= 0.9
    assert duplicates.band_rows(0.8) == 8


def test_a_document_is_compared_with_all_that_stay_in_its_band(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 2**32 - 1, (2, duplicates.HASHES), dtype=np.uint32)
    second[:8] = first[:8]  # one band of 16 in common
    third = second.copy()
    third[8::8] += 1  # shares that band alone with both, and 113 of 128 hashes with the second
    np.stack([first, second, third]).tofile(tmp_path / "in.minhash")
    identities = np.zeros(3, duplicates.IDENTITY)
    identities["record"] = [1, 2, 3]
    identities.tofile(tmp_path / "in.identities")
    duplicates.decide([tmp_path / "in"], [tmp_path / "out"], exact=False, threshold=0.8)
    removals = np.fromfile(tmp_path / "out", duplicates.REMOVAL)
    assert removals["document"].tolist() == [2] and removals["record"].tolist() == [2]
    assert removals["similarity"][0] == 113 / 128


QUESTION = (
    "A farmer has seventeen sheep and all but nine of them run away in the night "
    "so how many are left"
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.jsonl"
    texts = [QUESTION, "one two three four five six seven eight nine", "too short to be looked for"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def test_a_shared_13_gram_is_found_whatever_its_case_and_punctuation(suite: Path) -> None:
    index, counts = contamination.build((str(suite),), 13)
    assert counts == {str(suite): {"texts": 3, "too_short": 1}}
    words = QUESTION.split()
    found = index.find("Prelude. " + ",\n".join(words[3:16]).upper() + " and so on")
    assert found == (" ".join(words[3:16]), str(suite))
    assert index.find("Prelude. " + " ".join(words[3:15]) + " and so on") is None
    assert index.find("") is None


def test_an_evaluation_text_of_8_to_12_words_is_found_as_a_whole(suite: Path) -> None:
    index, _ = contamination.build((str(suite),), 13)
    assert index.find("zero one TWO three four five six seven eight nine ten")
    assert index.find("zero one two three four five six seven eight ten") is None
    assert index.find("too short to be looked for") is None


def test_an_index_survives_its_file(suite: Path, tmp_path: Path) -> None:
    index, _ = contamination.build((str(suite),), 13)
    index.save(tmp_path / "index.npz")
    again = contamination.Index.load(tmp_path / "index.npz")
    assert again.digest() == index.digest() and again.find(QUESTION) == index.find(QUESTION)
    suite.write_text(json.dumps({"text": QUESTION + " now"}) + "\n")
    assert contamination.build((str(suite),), 13)[0].digest() != index.digest()


def test_evaluation_texts_that_are_all_too_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("not enough words")
    with pytest.raises(UserError, match=r"short.txt: no evaluation text has 8 words or more"):
        contamination.build((str(tmp_path / "short.txt"),), 13)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A multiple-choice task of lm-eval with a local data set: the second choice is right."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    question = "Which of these did the old lighthouse keeper"
    choices = [["nothing", f"{i}see that night far out beyond the reef"] for i in "ab"]
    rows = [{"question": question, "choices": both} for both in choices]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "lighthouse.yaml"
    file.write_text(
        "task: lighthouse\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'rows.jsonl'}\n"
        f"  cache_dir: {tmp_path / 'cache'}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "Question: {{question}}"\ndoc_to_choice: choices\ndoc_to_target: 1\n'
    )
    return file


def test_a_task_of_lm_eval_gives_prompts_and_targets(task: Path) -> None:
    index, counts = contamination.build((f"task:{task}",), 13)
    assert counts == {"lighthouse": {"texts": 2, "too_short": 0}}
    found = index.find(
        "of these did the old lighthouse keeper BSEE that night far out beyond the reef"
    )
    assert found and found[1] == "lighthouse"
    assert (
        index.find("of these did the old lighthouse keeper csee that night far out beyond the reef")
        is None
    )


def test_a_task_whose_data_is_out_of_reach_is_one_sentence(task: Path) -> None:
    task.write_text(task.read_text().replace("rows.jsonl", "gone.jsonl"))
    expected = r"^task:.*lighthouse.yaml: its data cannot be read \(FileNotFoundError: .*network"
    with pytest.raises(UserError, match=expected) as caught:
        contamination.build((f"task:{task}",), 13)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        contamination.build(("task:nowhere.yaml",), 13)
