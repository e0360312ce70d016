"""The questions that are held out, as the documents of evaluation tasks.

``python -m data_prep.conversations.made_up.questions FOLDER`` writes them: a file for each kind, as
they lie in ``evaluation/tasks/smoke``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.conversations.conversation import parse
from data_prep.conversations.made_up.generation import held_out_records
from data_prep.conversations.made_up.tasks import TASKS
from data_prep.conversations.template import ChatTemplate
from data_prep.records import to_json
from data_prep.tokenizer import CHAT_TEMPLATE, END_OF_ROLE, END_OF_TEXT, START_OF_ROLE

_SYSTEM = f"{START_OF_ROLE}system{END_OF_ROLE}"


def questions(kind: str) -> Iterator[dict[str, str]]:
    """Yield ``system``, ``question`` and ``answer`` of each conversation that is held out.

    ``system`` is the system turn as Granite's template writes it, with the tools or documents, as
    lm-eval gives a template neither of them. ``answer`` is the first reply, a call with its tags.
    """
    source = CHAT_TEMPLATE.read_text(encoding="utf-8")
    template = ChatTemplate(source, CHAT_TEMPLATE.name, {"eos_token": END_OF_TEXT})
    for record in held_out_records():
        if record["kind"] != kind:
            continue
        rendering = template.render(parse(record))
        start, end = rendering.spans[0]
        system = ""
        if rendering.text.startswith(_SYSTEM):
            system, _, _ = rendering.text.removeprefix(_SYSTEM).partition(END_OF_TEXT)
        yield {
            "system": system,
            "question": record["messages"][0]["content"],
            "answer": rendering.text[start:end].removesuffix(END_OF_TEXT),
        }


def write(folder: Path) -> None:
    """Write the files into a folder."""
    for kind in TASKS:
        lines = b"".join(map(to_json, questions(kind)))
        (folder / f"chat_{kind}.jsonl").write_bytes(lines)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
