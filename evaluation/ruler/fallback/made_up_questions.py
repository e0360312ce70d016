"""The project's own questions, of made-up people and places, in the formats of SQuAD and of HotpotQA.

Short on purpose: a paragraph and its question fit into 256 tokens of a small tokenizer.
"""

from typing import Any

# town, river, founded in, known for, festival
_TOWNS = (
    ("Aldermoor", "Wend", 1312, "blue glass", "the Lantern Fair"),
    ("Brackwell", "Tarrow", 1487, "wool blankets", "the Ram Parade"),
    ("Corvaine", "Lisse", 1604, "violins", "the Week of Strings"),
    ("Dunmarrow", "Eask", 1221, "salt", "the Salt Supper"),
    ("Elsinby", "Orrin", 1735, "clocks", "the Long Hour"),
    ("Farrowgate", "Pell", 1555, "cider", "the Apple Court"),
    ("Greystead", "Quill", 1409, "paper", "the Kite Days"),
    ("Hollinfurth", "Rasp", 1668, "slate", "the Stone Walk"),
    ("Ivelmouth", "Sorrel", 1290, "smoked eel", "the Boat Blessing"),
    ("Jessamy", "Thole", 1812, "perfume", "the Night of Jars"),
    ("Kettering Vale", "Umber", 1376, "copper pots", "the Kettle March"),
    ("Lowmere", "Vannet", 1523, "baskets", "the Willow Dance"),
    ("Marrick", "Yarn", 1190, "honey", "the Bee Sunday"),
    ("Nethercote", "Abberly", 1642, "bricks", "the Kiln Fire"),
    ("Oxenholt", "Brindle", 1437, "leather", "the Saddle Race"),
    ("Pallastow", "Cald", 1751, "lace", "the White Week"),
    ("Quarrydon", "Dane", 1588, "marble", "the Chisel Prize"),
    ("Rivenhall", "Ember", 1265, "bells", "the Nine Peals"),
    ("Saltersby", "Fenn", 1699, "rope", "the Great Pull"),
    ("Thornwick", "Glaze", 1340, "pottery", "the Broken Cup"),
)
# person, trade, born in, remembered for
_PEOPLE = (
    ("Ada Verrin", "an engineer", 1841, "a folding bridge"),
    ("Bastian Holt", "a painter", 1798, "portraits of millers"),
    ("Clara Munday", "a botanist", 1866, "a book of mosses"),
    ("Dorin Pask", "a composer", 1722, "a mass for nine bells"),
    ("Edda Lorne", "an astronomer", 1889, "a map of comets"),
    ("Felix Arrow", "a sailor", 1654, "a voyage around Cape Sund"),
    ("Greta Oakes", "a surgeon", 1903, "a way to set small bones"),
    ("Hugo Stell", "a printer", 1611, "a dictionary of trades"),
    ("Ines Calder", "a poet", 1777, "sonnets on the tides"),
    ("Jonas Wray", "a baker", 1832, "a loaf that keeps a month"),
    ("Karla Finch", "a chemist", 1871, "a green dye"),
    ("Lorenz Tabb", "a miller", 1701, "a mill without a wheel"),
    ("Mina Sorley", "a weaver", 1744, "a cloth that sheds rain"),
    ("Nils Garrick", "a judge", 1688, "a law on shared wells"),
    ("Olive Trent", "a pilot", 1911, "a flight over Mount Harrow"),
    ("Piers Dunnock", "a glazier", 1563, "a window with no lead"),
    ("Quentin Rusk", "a teacher", 1820, "a school for carters"),
    ("Rosa Imber", "a sculptor", 1859, "a horse of driftwood"),
    ("Silas Crewe", "a surveyor", 1790, "a chart of the fens"),
    ("Thea Marlow", "a gardener", 1736, "a rose called Winter Pearl"),
)


def single() -> dict[str, Any]:
    """Return 60 paragraphs with one or two questions each, in SQuAD's format; one article is a town and its people."""
    articles = []
    for (town, river, founded, craft, festival), (person, trade, born, work) in zip(
        _TOWNS, _PEOPLE, strict=True
    ):
        place = _paragraph(
            f"{town} lies on the river {river}. It was founded in {founded} by settlers who followed the river.",
            (f"On which river does {town} lie?", (river, f"the river {river}")),
            (f"In which year was {town} founded?", (str(founded), f"in {founded}")),
        )
        custom = _paragraph(
            f"The town of {town} is known for {craft}. Every year its people hold {festival}.",
            (f"What is {town} known for?", (craft,)),
            (
                f"Which feast do the people of {town} hold every year?",
                (festival, festival.removeprefix("the ")),
            ),
        )
        life = _paragraph(
            f"{person} was {trade}, born in {town} in {born}, and is remembered for {work}.",
            (f"What is {person} remembered for?", (work, work.removeprefix("a "))),
        )
        articles.append({"paragraphs": [place, custom, life]})
    return {"data": articles}


def _paragraph(text: str, *asked: tuple[str, tuple[str, ...]]) -> dict[str, Any]:
    questions = [
        {
            "question": query,
            "answers": [{"text": answer} for answer in answers],
            "is_impossible": False,
        }
        for query, answers in asked
    ]
    return {"context": text, "qas": questions}


def double() -> list[dict[str, Any]]:
    """Return 40 questions in HotpotQA's format: a person's paragraph names a town, the town's has the answer."""
    towns = {
        town: [f"{town} lies on the river {river}.", f" It is known for {craft}."]
        for town, river, _, craft, _ in _TOWNS
    }
    people = {
        person: [f"{person} was {trade}.", f" The place of birth was {town}."]
        for (person, trade, _, _), (town, *_) in zip(_PEOPLE, _TOWNS, strict=True)
    }
    asked = []
    for number, ((person, *_), (town, river, _, craft, _)) in enumerate(
        zip(_PEOPLE, _TOWNS, strict=True)
    ):
        # the people and towns that follow in the tables are the distractors
        others = [(number + step) % len(_TOWNS) for step in (1, 2, 3, 4)]
        names = [person, town, *(_PEOPLE[n][0] for n in others), *(_TOWNS[n][0] for n in others)]
        context = [[name, (people | towns)[name]] for name in names]
        facts = [[person, 1], [town, 0]]
        for query, answer in (
            (f"On which river lies the town where {person} was born?", river),
            (f"What is the town known for where {person} was born?", craft),
        ):
            asked.append(
                {"question": query, "answer": answer, "context": context, "supporting_facts": facts}
            )
    return asked
