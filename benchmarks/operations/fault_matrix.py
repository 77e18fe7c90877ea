"""Which faults there are, and the tests and cases that make each one happen.

A case is the id of a pytest test. Those below ``tests/faults`` are run by ``make faults`` alone and say themselves what
was seen; the others are part of every test run, and what they hold is said here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One way in which a fault strikes.

    Attributes:
        where: When, or in what form.
        test: The id of the test; one with parameters is all of its tests.
        message: What the user sees; empty where the case itself tells.
        kept: What is not lost, likewise.
        then: How it goes on, likewise.
    """

    where: str
    test: str
    message: str = ""
    kept: str = ""
    then: str = ""


_ADAPTER = "tests/beft/adapters/test_adapter.py"
_WORKSPACE = "tests/tasks/engine/test_workspace.py"
_KILLED = "tests/faults/cases_killed.py"
_MLFLOW = "tests/faults/cases_mlflow.py"
_PREFECT = "tests/faults/cases_prefect.py"
_REGISTER = "tests/tasks/steps/test_register.py"
_DVC = "tests/faults/cases_dvc.py"
_AGAIN = "started again, it goes on"

MATRIX: dict[str, list[Case]] = {
    "kill -9 of the run": [
        *(
            Case(f"in {step.partition('/')[0]}, written and not named yet", f"{_KILLED}::test_killed_in[{step}]")
            for step in ("probe/mine", "score/mine", "train/mine", "evaluate/mine", "merge", "report", "register")
        ),
        Case("after these seven", f"{_KILLED}::test_and_ends_as_one_left_alone"),
        Case(
            "of the worker and all below it, between two epochs",
            "tests/flows/test_adapt.py::test_a_killed_run_is_continued_and_a_second_one_does_nothing",
            "Prefect's page: Running, then Crashed by the automation",
            "the steps before and the epochs of the checkpoint; one MLflow run",
            "a new worker goes on; fewer steps are trained; the same adapter bytes as one left alone",
        ),
        Case(
            "between two steps of the optimiser",
            "tests/beft/training/engine/test_fit.py::test_a_killed_run_ends_with_the_bytes_of_one_left_alone",
            "Killed",
            "all up to the checkpoint",
            "the rest of the steps alone is trained; the same bytes",
        ),
        Case(
            "after every write of a registration",
            f"{_REGISTER}::test_an_interrupted_registration_is_finished_not_doubled",
            "Killed",
            "what was written",
            "one model, one version, one decision",
        ),
        Case(
            "after every write of a logging",
            "tests/tasks/tracking/test_runs.py::test_an_interrupted_logging_is_finished_not_doubled",
            "Killed",
            "what was written",
            "MLflow's database is that of a run left alone, row by row",
        ),
        Case(
            "between two moves of aliases",
            "tests/tasks/registry/test_aliases.py::test_moves_that_a_crash_cut_short_are_finished",
            "Killed",
            "the moves stand in the journal before the first",
            "finished by whoever decides next",
        ),
        Case(
            "of a step's parent",
            "tests/tasks/engine/test_isolated_step.py::test_it_dies_with_its_parent",
            "Killed",
            "no process is left behind",
            _AGAIN,
        ),
        Case(
            "while its Prefect server is a temporary one",
            "tests/flows/test_reproduce.py::test_it_is_killed_goes_on_and_ends_with_a_report",
            "Killed",
            "no server is left behind",
            _AGAIN,
        ),
    ],
    "Ctrl-C or SIGTERM": [
        Case(
            "in a training, to the run and all in its group",
            "tests/flows/test_stopping.py::test_it_ends_at_once_says_so_and_leaves_nothing_running",
            "… stopped; started again, it goes on",
            "Crashed in Prefect, KILLED in MLflow; the checkpoint; no process is left behind",
            _AGAIN,
        )
    ],
    "Prefect server down": [
        Case("at the start", f"{_PREFECT}::test_server_is_down_at_the_start"),
        Case("in the middle, and stays away", f"{_PREFECT}::test_server_goes_down_in_the_middle"),
        Case("in the middle, restarted", f"{_PREFECT}::test_server_is_restarted_in_the_middle"),
    ],
    "MLflow server down": [
        Case("at the start", f"{_MLFLOW}::test_server_is_down_at_the_start"),
        Case("in the middle, and stays away", f"{_MLFLOW}::test_server_goes_down_in_the_middle"),
        Case("at the end", f"{_MLFLOW}::test_server_goes_down_at_the_end"),
        Case(
            "in the middle, restarted (PostgreSQL)",
            "tests/tasks/tracking/test_team_server.py::test_a_run_outlives_a_restart_of_the_server",
            "the MLflow server at … does not answer (…); waiting for it",
            "every metric, parameter and file",
            "by itself, within 300 s",
        ),
        Case(
            "in the middle of an answer",
            "tests/tasks/tracking/test_server.py::test_a_call_whose_answer_broke_off_is_made_again",
            "an answer of the MLflow server broke off: … is done again",
            "every metric and run, each once",
            "by itself",
        ),
    ],
    "SQLite locked": [Case("by another process, and stays so", f"{_MLFLOW}::test_sqlite_is_locked")],
    "Artifact store read-only": [
        Case("from evaluate on (read-only mount)", f"{_MLFLOW}::test_the_artifact_store_is_read_only")
    ],
    "Disk full": [
        Case("of runs/ in training (tmpfs)", "tests/faults/cases_disk.py::test_the_disk_of_the_steps_is_full"),
        Case("of mlflow/ at the report (tmpfs)", "tests/faults/cases_disk.py::test_the_disk_of_mlflow_is_full"),
        Case(
            "while an adapter is saved",
            f"{_ADAPTER}::test_no_space_left_leaves_nothing",
            "No space left on device",
            "nothing half-written",
            "saved again",
        ),
    ],
    "DVC": [
        Case("the remote is missing", f"{_DVC}::test_the_remote_is_missing"),
        Case("half-pushed: the file is missing", f"{_DVC}::test_half_pushed[file]"),
        Case("half-pushed: the list of files is missing", f"{_DVC}::test_half_pushed[list]"),
        Case("a corrupted object in the remote", f"{_DVC}::test_a_corrupted_object"),
        Case(
            "a corrupted object in a rebuild",
            "tests/tasks/registry/test_rebuild.py::test_it_is_the_same_to_the_byte_and_a_changed_byte_of_its_data_is_told",
            "the data of … version 1 …: DVC's cache or remote holds damaged files under md5 …",
            "in the cache alone: the remote's are taken",
            "each way that was tried is named",
        ),
        Case(
            "another process holds DVC's lock",
            "tests/tasks/versioning/test_versioning.py::test_a_busy_dvc_is_waited_for",
            "DVC is busy: … holds its lock; trying again",
            "all",
            "waits two minutes; then names who holds it",
        ),
    ],
    "Data changed under a running flow": [
        Case(
            "the prepared rows, while it trains",
            "tests/faults/cases_clock_and_data.py::test_data_changes_under_a_running_flow",
        ),
        Case(
            "the user's own file, between two runs",
            "tests/tasks/versioning/test_data.py::test_a_changed_source_is_noticed",
            "none",
            "the version before, in DVC",
            "fetched again",
        ),
    ],
    "Adapter damaged": [
        Case(
            "cut short",
            f"{_ADAPTER}::test_a_file_cut_short_is_found",
            "the file is named as damaged",
            "never a silent prediction of the base",
            "restored from the registry, or trained again",
        ),
        Case(
            "a flipped bit",
            f"{_ADAPTER}::test_every_flipped_bit_is_found",
            "the file is named as damaged",
            "likewise",
            "likewise",
        ),
        Case(
            "the output of a finished step",
            "tests/tasks/engine/test_step.py::test_a_damaged_result_is_made_again",
            "… changed or deleted since; it runs again",
            "all else",
            "by itself",
        ),
        Case(
            "a checkpoint of a training",
            "tests/beft/training/engine/test_fit.py::test_a_damaged_or_foreign_checkpoint_is_not_continued",
            "none",
            "the same bytes",
            "trained from the first step",
        ),
        Case(
            "the last line of the journal",
            "tests/tasks/registry/test_journal.py::test_a_cut_line_is_left_out_and_hurts_no_other",
            "none",
            "every other line",
            "by itself",
        ),
    ],
    "Clock going backwards": [
        Case("by two days, after a kill", "tests/faults/cases_clock_and_data.py::test_the_clock_goes_backwards")
    ],
    "Two at once": [
        Case(
            "flows on one workspace",
            "tests/flows/test_adapt.py::TestBeforeAnythingStarts::test_a_second_run_is_refused",
            "another run is going on: process …",
            "the first one goes on",
            "when it has ended",
        ),
        Case(
            "four that start in the same moment",
            f"{_WORKSPACE}::test_of_two_that_start_at_once_one_gets_it",
            "three are refused",
            "one runs",
            "when it has ended",
        ),
        Case(
            "a dead one's lock",
            f"{_WORKSPACE}::test_a_killed_run_is_taken_over",
            "none",
            "its half-written folders are cleared away",
            "by itself",
        ),
        Case(
            "promotions of one model",
            "tests/tasks/registry/test_aliases.py::test_of_two_that_decide_at_once_one_is_refused",
            "process … is deciding on the aliases of …",
            "one winner",
            "ask again",
        ),
    ],
    "Out of memory in training": [
        Case(
            "on a CPU (RLIMIT_AS)",
            "tests/beft/training/engine/test_out_of_memory.py::test_a_pass_that_does_not_fit_is_halved_and_goes_on",
            "8 runs do not fit into memory together; going on with 4 and 4",
            "the halved plan is kept for a new start",
            "by itself; the losses of a pass that fitted; a run too large alone is told what to set",
        ),
        Case(
            "the process is ended by the system",
            "tests/tasks/engine/test_isolated_step.py::test_any_other_end_is_an_error_in_one_line",
            "its process was ended by SIGKILL (out of memory?)",
            "the checkpoint",
            _AGAIN,
        ),
    ],
}
