"""Each kind of bad input and each fault that the project answers for, with the tests that show it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

SHOWN: dict[str, tuple[str, ...]] = {
    "unknown columns": (
        "faults/test_mistakes.py::test_an_unknown_column_names_the_nearest",
        "faults/test_mistakes.py::test_an_unknown_column_in_a_step_names_the_nearest",
        "features/test_refusals.py::test_names_that_are_not_known_come_with_the_nearest",
    ),
    "a table of the wrong schema": (
        "faults/test_mistakes.py::test_a_table_of_the_wrong_schema_is_refused_in_a_step_and_changes_nothing",
        "storage/test_service.py::test_data_that_does_not_fit_is_refused_and_changes_nothing",
    ),
    "a flow with a typo in a parameter": (
        "cli/test_flow.py::test_a_mistake_is_refused_before_anything_starts",
        "flows/test_flows.py::test_a_wrong_parameter_is_refused_before_anything_is_written",
    ),
    "an impossible cron line": (
        "faults/test_mistakes.py::test_an_impossible_cron_line_is_refused_where_it_is_written",
        "flows/test_cron.py::test_an_impossible_line_is_refused_with_a_mark_under_the_fault",
    ),
    "more memory than any unit has": (
        "faults/test_mistakes.py::test_a_step_that_asks_for_more_than_any_unit_has_is_refused_at_the_door",
        "flows/test_flows.py::test_what_no_unit_can_give_is_refused_at_the_door",
    ),
    "a model without its featurize function": (
        "models/test_versions.py::test_what_is_missing_is_listed_and_nothing_is_registered",
    ),
    "a prediction with a missing entity": (
        "hosting/test_gateway.py::test_features_are_looked_up_and_a_missing_entity_is_told",
    ),
    "NaN and nulls": (
        "storage/test_service.py::test_null_and_nan_come_back_as_they_were",
        "hosting/test_gateway.py::test_missing_values_and_what_is_not_finite_travel_as_json_can_say_them",
        "cli/test_listings.py::test_a_table_shows_its_columns_and_missing_values",
    ),
    "a wrong token": (
        "server/test_doors.py::test_no_token_or_a_wrong_one_is_refused",
        "server/test_end_to_end.py::test_a_wrong_token_is_refused_in_words",
        "hosting/test_http.py::test_who_has_no_token_or_comes_from_elsewhere_is_kept_out",
    ),
    "a path with ..": (
        "server/test_doors.py::test_a_path_that_climbs_is_refused",
        "hosting/test_http.py::test_a_path_that_climbs_is_refused",
        "models/test_runs.py::test_paths_that_could_leave_their_folder_are_refused",
        "faults/test_mistakes.py::test_a_notebook_outside_the_project_is_refused",
        "faults/test_mistakes.py::test_a_name_that_could_leave_its_folder_is_refused",
    ),
    "a port in use": (
        "server/test_up.py::test_a_taken_port_is_refused_with_who_has_it_and_nothing_is_started",
        "server/test_end_to_end.py::test_a_second_server_and_a_taken_port_are_refused_in_words",
    ),
    "a full disk": (
        "faults/test_disk.py::test_a_flow_on_a_full_disk_fails_in_words_and_finishes_with_space",
        "storage/test_local_blobs.py::test_a_disk_that_is_full_at_any_step_refuses_in_words_and_keeps_no_half",
        "faults/test_disk.py::test_a_disk_without_any_space_refuses_new_runs_and_keeps_what_was_there",
        "storage/test_service.py::test_a_full_disk_leaves_the_table_as_it_was_and_the_next_write_works",
        "compute/test_local_engine.py::test_on_a_full_disk_nothing_starts_and_the_key_stays_free",
    ),
    "two loops at once": (
        "faults/test_loops.py::test_a_server_beside_a_script_that_waits_is_refused_with_who_has_the_loop",
        "flows/test_flows.py::test_a_second_loop_is_refused_and_its_process_becomes_a_client",
        "server/test_up.py::test_a_second_server_is_refused_with_the_first_ones_process_and_address",
    ),
    "a corrupted blob": (
        "faults/test_disk.py::test_a_corrupted_blob_is_never_served",
        "storage/test_garbage.py::test_a_check_finds_wrong_bytes_and_who_needs_them",
        "storage/test_service.py::test_a_corrupted_blob_is_never_served_and_can_be_stored_again",
        "models/test_loading.py::test_a_blob_with_wrong_bytes_is_not_used",
    ),
}


@pytest.mark.parametrize("fault", SHOWN)
def test_each_fault_is_shown_by_tests_that_are_there(fault: str) -> None:
    for name in SHOWN[fault]:
        file, _, test = name.partition("::")
        assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE), name
