"""The house: a file imports only from lower floors, rooms are entered by their door, files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rcsd_jax"
# From the ground up. Rooms of floors 1 and 2 do not know each other; the files of the other floors know those before
# them in the row.
FLOORS = [
    (
        *("types", "masked", "randomness", "sharding", "compilations", "files"),
        *("memory", "journal", "hosts", "ending", "fingerprints"),
    ),
    ("lm", "rubrics", "data"),
    ("learning", "evaluation", "judges"),
    (
        *("checkpoint", "metrics", "report", "config", "preflight", "workdir", "models", "questions"),
        *("encoding", "examples", "rollout", "measure", "rewards", "collector", "sources", "ahead"),
    ),
    (
        *("command", "evaluate", "write_rubrics", "rubric_effect", "compare", "train", "export", "pipeline"),
        *("sweep", "checks", "doctor", "dry_run"),
    ),
]
PLACE = {room: (floor, at) for floor, rooms in enumerate(FLOORS) for at, room in enumerate(rooms)}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Modules of this package that a file imports, as paths below rcsd_jax."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rcsd_jax":
            inside = node.module.split(".")[1:]
            found |= {(*inside, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("rcsd_jax.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_floors(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in PLACE, f"{path} stands on no floor: add {room!r} to FLOORS"
    floor, _ = PLACE[room]
    for module in imports_of(path):
        if module[0] in ("__version__", room):
            continue
        is_below = PLACE[module[0]][0] < floor
        is_before = PLACE[module[0]] < PLACE[room] and floor not in (1, 2)
        assert is_below or is_before, f"{path.name} imports {'.'.join(module)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_is_entered_by_its_door(path):
    for module in imports_of(path):
        entered = (ROOT / module[0]).is_dir() and module[0] != room_of(path)
        inside = len(module) > 1 and (ROOT / module[0] / f"{module[1]}.py").exists() and len(module) > 2
        assert not (entered and inside), f"{path.name} reaches into {'.'.join(module)}: use rcsd_jax.{module[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small_enough_to_live_in(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350, f"{path.name} is too long: would a second room be simpler?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{path.name}: {node.name} is too long"
