"""The results of `run.sh`: one line of JSON each, added as it is found; the table of all of them.

python benchmarks/gpu/report.py gpu-results/results.jsonl
"""

import json
import pathlib
import sys

COLUMNS = ("part", "case", "side")
"""What names a result; all its other entries are figures."""


def add(path: str | pathlib.Path, *, part: str, case: str, side: str, **figures: object) -> None:
    """Adds a result to the file, and prints it."""
    row = {"part": part, "case": case, "side": side, **figures}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{case:<34} {side:<34} {_described(figures)}", flush=True)


def read(path: str | pathlib.Path) -> list[dict]:
    """Returns the results in order; a line that was cut off is left out."""
    rows = []
    for text in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(text))
        except ValueError:
            continue
    return rows


def table(rows: list[dict]) -> str:
    """Returns the table of all results, part by part."""
    lines = []
    for part in dict.fromkeys(row["part"] for row in rows):
        lines += ["", f"{part}"]
        for row in rows:
            if row["part"] == part:
                figures = {name: value for name, value in row.items() if name not in COLUMNS}
                lines.append(f"  {row['case']:<34} {row['side']:<34} {_described(figures)}")
    return "\n".join(lines[1:])


def _described(figures: dict) -> str:
    """Returns the figures as text; where there are none, why."""
    if figures.get("missing"):
        return f"left out: {figures['missing']}"
    shown = {name: value for name, value in figures.items() if value is not None}
    return "  ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )


def main() -> None:
    """Writes results.json beside the lines, and prints the table and the JSON."""
    path = pathlib.Path(sys.argv[1])
    rows = read(path)
    content = json.dumps(rows, indent=1)
    path.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\n{json.dumps(rows)}")


if __name__ == "__main__":
    main()
