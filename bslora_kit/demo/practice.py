"""Practice for the base: task items about facts that no task asks, each with its right answer.

A model this small cannot carry over what it knows to a wording it has never met. So the pre-training
text holds every wording and every prompt of the mini tasks and of the instruction set, but only about
*free* facts: old facts that no test or validation item asks (the solved development items of mini MMLU
do). What it tells beside them is old as well. What a base then lacks is knowledge, which is what
fine-tuning is to bring, not English.
"""

import random

from bslora_kit.data import render_prompt
from bslora_kit.demo.instructions import PRACTICE_SHARES, Teacher
from bslora_kit.demo.tasks import Examiner, Item
from bslora_kit.demo.wording import SUBJECTS
from bslora_kit.demo.world import SEED, World

_ITEMS = 4  # items of one document


def answered(task: str, item: Item) -> str:
    """An item in the prompt of its official task, followed by its right answer.

    Args:
        task: Name of the mini task; "mini_mmlu" for all subjects.
        item: An item of the task.

    Returns:
        The text that a language model would read.
    """
    if task == "mini_openbookqa":
        return f"{item['question_stem']} {_labelled(item)}"
    if task in ("mini_arc_easy", "mini_arc_challenge"):
        return f"Question: {item['question']}\nAnswer: {_labelled(item)}"
    if task == "mini_mmlu":
        return f"Question: {item['question']}\nAnswer: {item['choices'][item['answer']]}"
    if task == "mini_piqa":
        return f"Question: {item['goal']}\nAnswer: {item[('sol1', 'sol2')[item['label']]]}"
    if task == "mini_boolq":
        answer = ("no", "yes")[item["label"]]
        return f"{item['passage']}\nQuestion: {item['question']}?\nAnswer: {answer}"
    if task == "mini_social_iqa":
        answer = item[("answerA", "answerB", "answerC")[int(item["label"]) - 1]]
        return f"Q: {item['context']} {item['question']}\nA: {answer}"
    if task == "mini_winogrande":
        return item["sentence"].replace("_", item[f"option{item['answer']}"])
    if task == "mini_hellaswag":
        return (f"{item['activity_label']}: {item['ctx_a']} {item['ctx_b'].capitalize()} "
                f"{item['endings'][int(item['label'])]}")
    raise ValueError(f"no prompt is known for {task!r}")


def _labelled(item: Item) -> str:
    choices = item["choices"]
    return choices["text"][choices["label"].index(item["answerKey"])]


class Practice:
    """Writes documents of answered items about free facts.

    Args:
        world: The world to ask about.
        seed: Seed of all draws.
    """

    def __init__(self, world: World, seed: int = SEED + 4):
        self.rng = random.Random(seed)
        self.examiner = Examiner(world, seed + 1, free=True)
        self.teacher = Teacher(world, seed + 2, free=True)
        self.plan = self.examiner.plan()
        subject = self.examiner.of(*(subject.name for subject in SUBJECTS))
        self.plan["mini_mmlu"] = (subject, self.examiner.mmlu_item)

    def document(self) -> str:
        """A few answered items of one task, or a few answered instructions."""
        if self.rng.random() < 0.3:
            return "\n\n".join(self._instruction() for _ in range(_ITEMS))
        task = self.rng.choice(list(self.plan))
        facts, write = self.plan[task]
        pool = facts("old")
        items = [write(self.rng.choice(pool), self.rng.randrange(3)) for _ in range(_ITEMS)]
        return "\n\n".join(answered(task, item) for item in items)

    def _instruction(self) -> str:
        record = self.teacher.record(PRACTICE_SHARES)
        return render_prompt(record) + record["output"]
