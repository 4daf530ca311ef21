"""A trained classifier, asked in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain

from llm.serve.classify import read_texts

from .chat import printable
from .models import find_model, load_found_classifier

MAX_CHARS = 100
"""Of a text that is shown beside its label."""


def classified(model: str, file: str | None, texts: list[str], field: str | None, *, as_json: bool) -> Iterator[str]:
    """Yields a line for each text of a file, or for each of `texts`: label, its probability, the text's beginning.

    With `as_json`, a JSON object with all probabilities. Raises ValueError for a model that does not exist or is no
    classifier, and for a file that cannot be read.
    """
    if (file is None) == (not texts):
        raise ValueError("name a file of texts (- is standard input), or give --text; one of the two")
    loaded = load_found_classifier(find_model(model, "classifier"))
    asked = iter(texts) if file is None else read_texts(file, field or loaded.text_field)
    width = max(map(len, loaded.labels))
    for prediction in chain.from_iterable(loaded.predictions(asked)):
        probabilities = dict(zip(loaded.labels, prediction.probabilities, strict=True))
        if as_json:
            line = {"text": prediction.text, "label": prediction.label, "probabilities": probabilities}
            yield json.dumps(line, ensure_ascii=False)
        else:
            beginning = printable(" ".join(prediction.text[:MAX_CHARS].split()))
            yield f"{prediction.label:<{width}}  {probabilities[prediction.label]:.4f}  {beginning}"
