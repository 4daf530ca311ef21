"""The CORE set of Li et al. (2024, "DataComp-LM", arXiv:2406.11794): 22 tasks, how each is asked, their one score.

Numbers of examples, delimiters and the accuracies that count as zero are those of DCLM's and nanochat's tables. Some of
these are not the chance level of the files as they are: that of `boolq` is the share of its more frequent answer, three
others were made for more choices than the items have. They stay, for scores are only comparable with the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

ANSWER = "\nAnswer: "


@dataclass(frozen=True)
class CoreTask:
    """A task: its name, the stem of its file, the examples before each item, the accuracy that counts as zero.

    `delimiter` stands between a question and its answer.
    """

    name: str
    file: str
    n_shots: int
    chance: float
    delimiter: str = " "


CORE_TASKS = (
    CoreTask("hellaswag_zeroshot", "hellaswag", 0, 0.25),
    CoreTask("jeopardy", "jeopardy_all", 10, 0.0, ANSWER),
    CoreTask("bigbench_qa_wikidata", "bigbench_qa_wikidata", 10, 0.0),
    CoreTask("arc_easy", "arc_easy", 10, 0.25, ANSWER),
    CoreTask("arc_challenge", "arc_challenge", 10, 0.25, ANSWER),
    CoreTask("copa", "copa", 0, 0.5),
    CoreTask("commonsense_qa", "commonsense_qa", 10, 0.2),
    CoreTask("piqa", "piqa", 10, 0.5, ANSWER),
    CoreTask("openbook_qa", "openbook_qa", 0, 0.25),
    CoreTask("lambada_openai", "lambada_openai", 0, 0.0),
    CoreTask("hellaswag", "hellaswag", 10, 0.25),
    CoreTask("winograd", "winograd_wsc", 0, 0.5),
    CoreTask("winogrande", "winogrande", 0, 0.5),
    CoreTask("bigbench_dyck_languages", "bigbench_dyck_languages", 10, 0.0),
    CoreTask("agi_eval_lsat_ar", "agi_eval_lsat_ar", 3, 0.2),
    CoreTask("bigbench_cs_algorithms", "bigbench_cs_algorithms", 10, 0.0),
    CoreTask("bigbench_operators", "bigbench_operators", 10, 0.0),
    CoreTask("bigbench_repeat_copy_logic", "bigbench_repeat_copy_logic", 10, 0.0),
    CoreTask("squad", "squad", 10, 0.0),
    CoreTask("coqa", "coqa", 0, 0.0),
    CoreTask("boolq", "boolq", 10, 0.62, ANSWER),
    CoreTask("bigbench_language_identification", "bigbench_language_identification", 10, 0.091),
)
"""In the order of the tables."""


def core_tasks(file: str) -> list[CoreTask]:
    """Returns the tasks of a file, named by its stem; none when it is not of the set."""
    return [task for task in CORE_TASKS if task.file == file]


Accuracy = TypeVar("Accuracy", float, npt.NDArray[np.float64])


def centred(accuracy: Accuracy, chance: float) -> Accuracy:
    """Returns the accuracy on a scale where `chance` is 0 and everything right is 1."""
    return (accuracy - chance) / (1 - chance)
