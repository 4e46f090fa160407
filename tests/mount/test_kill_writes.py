"""The daemon is killed, again and again, while programs write; everything that was acknowledged is done."""

import os
import random
import time
from collections import Counter
from dataclasses import replace

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.killing import Place, killing_place, rounds
from tests.support.killing_scripts import content_of, script_of
from tests.support.tree_script import Model, Step, check_content

WRITERS = 2
ROUNDS = rounds(16)


@pytest.mark.timeout(120 + 6 * ROUNDS)
def test_what_was_closed_survives_a_daemon_killed_at_random_moments() -> None:
    """Two programs create, rewrite, append, truncate, rename, link and remove; each knows how much was acknowledged.

    After each kill every file that was closed is there with its bytes, every name that was given or taken holds, and
    the one operation under way is done or not. The daemon checks its tree's invariants when it opens it.
    """
    rng = random.Random(12)
    seen: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    with killing_place() as place:
        WritableRepository.create(open_storage(str(place.repository))).close()
        place.mount()
        models = []
        for number in range(WRITERS):
            (place.path / f"w{number}").mkdir()
            models.append(Model({}, frozenset()))
        for round_number in range(ROUNDS):
            told = _write_until_killed(place, models, round_number, rng.random() ** 2 * 0.1)
            place.clear()
            place.mount()
            for number, lines in enumerate(told):
                before, step, after = _where(models[number], lines, number, round_number)
                files, dirs = content_of(place.path / f"w{number}")
                models[number] = replace(check_content(files, dirs, before, before, step, after), commits=0)
                seen.update(lines)
                in_flight["nothing" if step is None else step.kind] += 1
            status = place.control("status.json")
            assert status["writable"]
            assert {path.partition("/")[0] for path in status["untracked"]} <= {"w0", "w1"}
        place.unmount()
        place.mount()
        for number, model in enumerate(models):
            assert content_of(place.path / f"w{number}") == (model.files, model.dirs)
        place.unmount()
    assert seen.keys() >= {"write", "replace", "append", "truncate", "unlink", "rename", "link", "mkdir", "rmdir"}
    assert len(in_flight) > 5


def _write_until_killed(place: Place, models: list[Model], round_number: int, delay_s: float) -> list[list[str]]:
    """Returns what was acknowledged to the writers before the daemon died."""
    notes = [place.root / f"told-{round_number}-{number}" for number in range(WRITERS)]
    writers = [
        place.nursery.start(
            "tests.support.killing_scripts:play",
            place.root / "writers.log",
            str(place.path / f"w{number}"),
            str(told),
            sorted(models[number].linked),
            _seed(number, round_number),
            waits=True,
        )
        for number, told in enumerate(notes)
    ]
    time.sleep(delay_s)
    place.kill()
    for writer in writers:
        assert place.nursery.wait(writer) == 0, (place.root / "writers.log").read_text()
    return [told.read_text().splitlines() for told in notes]


def _seed(number: int, round_number: int) -> str:
    return f"{number} {round_number}"


def _where(model: Model, lines: list[str], number: int, round_number: int) -> tuple[Model, Step | None, Model]:
    """Returns the model after all acknowledged steps, the step under way, and the model after that."""
    script = script_of(model, _seed(number, round_number))
    done = len(lines)
    assert lines == [step.kind for step, _ in script[:done]]
    before = script[done - 1][1] if done else model
    return (before, *script[done]) if done < len(script) else (before, None, before)


def test_a_file_that_was_made_to_be_read_survives_a_killed_daemon() -> None:
    """It is empty, and its maker has closed it."""
    with killing_place() as place:
        WritableRepository.create(open_storage(str(place.repository))).close()
        place.mount()
        for number in range(20):
            os.close(os.open(place.path / f"lock{number}", os.O_RDONLY | os.O_CREAT))
        place.kill()
        place.clear()
        place.mount()
        assert sorted(path.name for path in place.path.iterdir()) == sorted(f"lock{number}" for number in range(20))
        place.unmount()
