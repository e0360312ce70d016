"""A table of what the project refuses: a row is a command, an input, and the sentence it gets.

The files of areas (``data.py``, ``runs.py``, ...) hold the rows as ``ROWS``. To add a row, append
to such a list, or start another file, which is found by itself::

    Row(
        "a folder of documents without any text",
        "data tokenize --input texts --tokenizer tokenizer --output out",
        input=[inputs.tokenizer, inputs.text("texts/picture.png", b"")],
        says=["texts: ", "no text in it"],
    )

The command runs in a fresh folder, in which each function of ``input`` has written what it needs,
so that all paths are relative. It must end with exit status 2, print nothing on stdout and one line
on stderr that contains every string of ``says``, and leave the folder as it was.

Fast rows run in the test's own process, and need no large library. A row whose command imports
PyTorch before it refuses the input says ``slow=True``, and runs in a process that has NeMo loaded.

``python -m tests.bad_inputs [WORD...]`` prints the rows that contain all words, and what each says.
"""
