"""The facts of a mount: its owner changes them, and readers have copies."""

from icefs.vfs.observe.mount_facts import MountFacts


def test_options_and_the_state_of_the_service_change_and_what_was_read_does_not():
    options = {"log_level": "info"}
    facts = MountFacts({"version": "1.2.3", "mountpoint": "/mnt"}, options, reloads=0, problem=None)
    before = facts.as_json()
    facts.set_option("log_level", "debug")
    facts.set_service(reloads=1)
    assert before == {
        "version": "1.2.3",
        "mountpoint": "/mnt",
        "options": {"log_level": "info"},
        "service": {"reloads": 0, "problem": None},
    }
    assert facts.as_json() == before | {
        "options": {"log_level": "debug"},
        "service": {"reloads": 1, "problem": None},
    }
    assert options == {"log_level": "info"}
    facts.service["reloads"] = 7
    assert facts.service == {"reloads": 1, "problem": None}


def test_a_mount_without_facts_has_none():
    facts = MountFacts()
    assert (facts.version, facts.mountpoint, facts.as_json()) == ("", "", {})
