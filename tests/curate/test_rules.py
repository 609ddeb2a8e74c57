"""Single rules, on single documents."""

import contextlib
import random
import unicodedata

import pytest

from lmjax.curate import Curation, Decontaminate, Language, Normalize, PersonalData, PlugIn, RawText
from lmjax.curate.rule import load_function


class Page:
    """A document as datatrove has it."""

    def __init__(self, text: str, **metadata):
        self.text, self.id, self.metadata = text, "page", metadata


def test_normalisation_is_by_choice():
    page = Page("Cafe\u0301 ﬁne 10²")
    assert Normalize().judge()(page) is None and page.text == "Café ﬁne 10²"
    Normalize(form="NFKC").judge()(page)
    assert page.text == "Café fine 102"
    Normalize(form="NFD").judge()(page)
    assert page.text == unicodedata.normalize("NFD", "Café fine 102")
    with pytest.raises(ValueError, match="form='nfc': use one of NFC, NFKC, NFD, NFKD"):
        Normalize(form="nfc")


def test_personal_data_do_not_depend_on_earlier_documents():
    pytest.importorskip("datatrove")
    judge = PersonalData().judge()
    found = []
    for _ in range(2):
        page = Page("Write to jane.doe@mail.example.net from 8.8.8.8, not from 10.0.0.1.")
        assert judge(page) is None
        found.append(page.text)
    assert found == ["Write to email@example.com from 192.0.2.1, not from 10.0.0.1."] * 2
    page = Page("a@b.de 8.8.8.8")
    PersonalData(ip_addresses=False, email_replacement="<mail>").judge()(page)
    assert page.text == "<mail> 8.8.8.8"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("True", (None, "bad words")),
        ("False", ("refused", "bad words")),
        ("'violence'", ("violence", "bad words")),
        ("(text.replace('bad', '***'),)", (None, "*** words")),
        ("None if document['url'] else True", (None, "bad words")),
    ],
)
def test_a_plug_in_keeps_drops_and_changes(tmp_path, body, expected):
    (tmp_path / "mine.py").write_text(f"def safe(text, document):\n    return {body}\n")
    rule, page = PlugIn(function=f"{tmp_path / 'mine.py'}:safe"), Page("bad words", url="")
    assert (rule.judge()(page), page.text) == expected
    assert rule.name == "safe" and rule.files() == (str(tmp_path / "mine.py"),)


def test_a_plug_in_that_is_none_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("def safe(text, document):\n    return 3\nvalue = 3\n")
    with pytest.raises(ValueError, match=r"safe returned 3: it must return True, False, a reason, or \(text,\)"):
        PlugIn(function=f"{tmp_path / 'mine.py'}:safe").judge()(Page("x"))
    for name, why in ((":value", "not a function"), (":other", "has no attribute 'other'")):
        with pytest.raises(ValueError, match=why):
            load_function(f"{tmp_path / 'mine.py'}{name}")
    with pytest.raises(ValueError, match="cannot be loaded .*ModuleNotFoundError.*: give FILE.py:NAME or MODULE:NAME"):
        load_function("no_such_module:f")
    assert load_function("json:dumps")({}) == "{}"


def test_contamination(tmp_path):
    pytest.importorskip("datatrove")
    (tmp_path / "long.txt").write_text(" ".join(f"word{chr(97 + n)}" for n in range(20)))
    (tmp_path / "short.txt").write_text("Which of these eight words are the answer?")
    (tmp_path / "tiny.txt").write_text("Yes and no")
    judge = Decontaminate(path=str(tmp_path)).judge()
    long = [f"word{chr(97 + n)}" for n in range(20)]
    assert judge(Page("It said: " + " ".join(long[3:16]).upper() + " and more")) == "13 words of an evaluation text"
    assert judge(Page(" ".join(long[3:15]))) is None
    assert judge(Page("So, WHICH of these eight words, are the answer")) == "8 words of an evaluation text"
    assert judge(Page("Yes and no")) is None
    assert judge(Page("")) is None
    with pytest.raises(ValueError, match="no text has 8 words"):
        Decontaminate(path=str(tmp_path / "tiny.txt")).judge()
    with pytest.raises(ValueError, match="shortest=14: must be from 1 to words=13"):
        Decontaminate(path="x", shortest=14)


def test_languages_by_a_model_of_fasttext(tmp_path):
    fasttext = pytest.importorskip("fasttext")
    words = {
        "en": ["the", "house", "and", "garden", "of", "a", "friend"],
        "de": ["das", "haus", "und", "der", "garten", "von", "einem"],
    }
    rng = random.Random(0)
    lines = [f"__label__{one} {' '.join(rng.choices(words[one], k=8))}\n" for _ in range(200) for one in words]
    (tmp_path / "train.txt").write_text("".join(lines))
    model = None
    while model is None:
        with contextlib.suppress(RuntimeError):  # its training meets NaN now and then
            model = fasttext.train_supervised(str(tmp_path / "train.txt"), dim=16, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    judge = Language(languages=("en",), model=str(tmp_path / "model.bin")).judge()
    assert judge(Page("the garden of\na friend")) is None
    assert judge(Page("der garten von einem freund")) == "language de"
    strict = Language(languages=("en", "de"), threshold=1.1, model=str(tmp_path / "model.bin")).judge()
    assert strict(Page("the garden")) == "language not certain"


def test_a_model_that_is_not_there():
    with pytest.raises(ValueError, match=r"Language.model='lid.176.bin': no such file: download .*fasttext.cc"):
        Language(model="lid.176.bin").judge()
    with pytest.raises(ValueError, match="give either model, .* or function"):
        Language()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, r"sources=\{\}: name at least one"),
        ({"sources": {"work": RawText(path="x")}}, "'work' names a folder"),
        ({"sources": {"../up": RawText(path="x")}}, "'../up' names a folder"),
        ({"sources": {"a": RawText(path="x", template="{")}}, "sources: a: .*template"),
        ({"folder": "gs://bucket/x"}, "folder"),
        ({"folder": ""}, 'folder="": name the folder'),
        ({"unit_bytes": 0}, "unit_bytes=0"),
        ({"bad_records": "drop"}, "bad_records='drop': use one of refuse, skip"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        Curation(**{"sources": {"a": RawText(path="x")}, "folder": "out", **changes})
