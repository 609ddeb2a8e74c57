"""Tasks of lm-evaluation-harness on files of this machine: multiple choice, whole texts, and writing."""

import json
import pathlib

CHOICES = [
    {"question": "alpha beta", "choices": ["gamma", "delta epsilon", "x"], "answer": 1},
    {"question": "the capital is", "choices": ["Paris", "London", "Rome"], "answer": 0},
    {"question": "é", "choices": ["ü", "ö", "ä"], "answer": 2},
]
TEXTS = ["a text of some length that takes several windows to read, é", "short", "another one with 16b"]
WRITING = [{"prompt": "one two", "answer": "three"}, {"prompt": "a longer prompt than that", "answer": "x"}]

COMMON = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
metadata:
  version: 1.0
"""
KINDS = {
    "local_choice": (
        CHOICES,
        """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
""",
    ),
    "local_text": (
        [{"text": text} for text in TEXTS],
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
    ),
    "local_writing": (
        WRITING,
        """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\\n\\n", "q"]
  max_gen_toks: 8
  do_sample: false
metric_list:
  - metric: exact_match
""",
    ),
}


def write_tasks(folder: pathlib.Path) -> pathlib.Path:
    """Writes the files of the tasks and their data, and returns the folder of the former."""
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, (rows, kind) in KINDS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        (tasks / f"{name}.yaml").write_text(COMMON.format(name=name, data=data) + kind)
    return tasks
