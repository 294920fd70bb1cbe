"""Tests of which the default run takes every n-th case: those that say much the same many times over, and take long for it.

`RECORDER_TESTS=all` takes every case. What is left out is said at the end of a run, as deselected.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.sdk.environments import PYTHON_SDKS

VARIABLE = "RECORDER_TESTS"

EVERY = {
    "sdk/test_conversation.py::test_one_run_over_two_streams_and_again_with_nothing_to_ask": 3,
    "sdk/test_faults.py::test_an_upstream_that_cannot_be_reached_is_the_same_error_to_the_sdk": 2,
    "sdk/test_faults.py::test_the_sdk_asks_as_often_through_the_proxy": 2,
    "sdk/test_faults.py::test_the_sdk_meets_faults": 2,
    "sdk/test_faults.py::test_the_sdk_meets_the_same_through_the_proxy": 2,
    "test_anomalies.py::test_show_counts_and_lists_them": 3,
    "test_arrival.py::test_any_arrival_of_the_streams_of_a_run_gives_the_same_rows": 4,
    "test_chains.py::test_a_call_gets_its_output_from_the_next_request": 3,
    "test_chains.py::test_a_chain_of_responses_is_one_session_whatever_is_recorded_first": 3,
    "test_chat.py::test_a_conversation_is_one_logical_run_until_the_user_speaks": 3,
    "test_cli.py::test_an_odd_file_is_imported_shown_and_given_back": 3,
    "test_cli.py::test_questions_to_a_read_only_database_are_answered_and_say_how_far_behind": 2,
    "test_export_tables.py::test_an_export_that_is_killed_leaves_nothing_torn": 2,
    "test_export_tables.py::test_the_shared_streams_say_the_same_in_duckdb": 2,
    "test_export_tables.py::test_what_makes_no_sense_is_said_in_one_line": 3,
    "test_faults.py::test_a_clock_that_steps": 3,
    "test_faults.py::test_a_database_that_another_process_locks_for_ten_seconds": 3,
    "test_faults.py::test_a_database_that_is_removed": 3,
    "test_faults.py::test_a_disk_that_is_full_for_longer_than_memory_lasts": 3,
    "test_faults.py::test_a_postgresql_that_stops_and_starts_again": 6,
    "test_fixtures.py::test_a_stream_cut_at_any_byte_has_the_same_frames": 6,
    "test_kill.py::test_a_projection_killed_half_way_is_completed_by_the_next": 3,
    "test_kill.py::test_a_proxy_killed_in_mid_stream_keeps_what_the_client_had": 6,
    "test_leaks.py::test_a_thousand_streams_leave_nothing_behind": 3,
    "test_log.py::test_an_event_of_100_mb_comes_back": 2,
    "test_metrics.py::test_beyond_this_machine_there_must_be_a_token": 3,
    "test_outcomes.py::test_a_proxy_that_is_killed": 3,
    "test_outcomes.py::test_in_the_hook": 3,
    "test_outcomes.py::test_through_the_proxy": 3,
    "test_output.py::test_a_pipe_has_no_colours_no_boxes_and_nothing_cut": 3,
    "test_output.py::test_csv_has_what_json_has": 2,
    "test_output.py::test_no_line_is_wider_than_the_terminal": 5,
    "test_output.py::test_none_of_the_shared_streams_is_wider_than_the_terminal": 2,
    "test_output.py::test_what_cannot_be_had_is_one_line": 3,
    "test_polling.py::test_each_envelope_is_folded_the_same_and_comes_back_byte_for_byte": 5,
    "test_polling.py::test_what_is_polled_is_in_the_same_rows_as_what_is_streamed_and_comes_back_byte_for_byte": 5,
    "test_power_cut.py::test_control_with_synchronous_normal_commits_are_lost": 0,
    "test_power_cut.py::test_control_with_synchronous_off_the_file_is_damaged": 0,
    "test_projections.py::test_a_stream_of_nonsense_is_projected_as_a_rebuild_would": 2,
    "test_projections.py::test_a_stream_whatever_it_holds_blocks_no_other": 3,
    "test_projections.py::test_a_stream_whatever_it_holds_is_projected_as_a_rebuild_would": 6,
    "test_projections.py::test_what_is_erased_leaves_nothing_behind": 2,
    "test_proofs.py::test_a_population_is_made_and_every_question_is_answered_on_it": 2,
    "test_proxy_failures.py::test_a_fault_is_the_same_through_the_proxy": 10,
    "test_replay_transport.py::test_a_request_that_got_no_response_raises_the_familys_own_error": 3,
    "test_sessions.py::test_the_first_of_these_that_a_stream_has_is_its_session": 3,
    "test_sharing.py::test_children_of_multiprocessing_flush_when_they_end": 3,
    "test_sharing.py::test_children_that_record_nothing_harm_nothing": 2,
    "test_sharing.py::test_control_a_recorder_that_does_nothing_about_forks_loses_events": 0,
    "test_sharing.py::test_no_event_is_lost_whoever_forks_and_whoever_ends_first": 2,
    "test_sharing.py::test_parents_and_children_lose_nothing_in_either_database": 2,
    "test_sharing.py::test_streams_of_many_threads_are_all_whole": 3,
    "test_sharing.py::test_the_end_of_a_process_flushes": 3,
    "test_sharing.py::test_the_end_of_a_process_with_a_stream_still_open_flushes_what_came": 3,
    "test_sql.py::test_a_large_result_does_not_take_its_size_in_memory": 8,
    "test_sql.py::test_a_query_that_runs_away_is_stopped": 3,
    "test_sql.py::test_postgresql_is_never_written": 3,
    "test_sql.py::test_wrong_usage_is_exit_2_and_one_line": 3,
    "test_streams.py::test_a_small_stream_cut_at_any_byte_folds_and_goes_on_to_the_same": 10,
    "test_streams.py::test_usage_is_a_plain_sum_and_what_is_not_said_is_null": 3,
    "test_supervision.py::test_a_bug_where_events_are_stored_costs_what_came_meanwhile_and_says_how_much": 4,
    "test_tee.py::test_a_bug_in_the_recorder_never_shows_in_the_client": 7,
    "test_tee.py::test_a_database_that_is_locked_for_long_is_waited_for_by_the_writer_alone": 2,
    "test_tee.py::test_a_disk_that_stays_full_keeps_what_it_could": 2,
    "test_tee.py::test_a_full_disk_harms_nobody_and_nothing_is_lost_when_there_is_room_again": 3,
    "test_tee.py::test_a_replay_can_be_recorded_again": 3,
    "test_time_travel.py::test_a_run_is_shown_as_a_fold_of_the_events_up_to_there": 7,
    "test_time_travel.py::test_after_its_last_event_a_run_is_as_it_is": 7,
    "test_time_travel.py::test_the_command_shows_it": 3,
    "test_verify.py::test_a_cell_changed_in_any_column_is_reported": 2,
    "test_verify.py::test_a_row_that_is_gone_is_reported": 3,
    "test_verify.py::test_any_cell_changed_is_reported": 8,
}
"""{test: n}: of its cases the first, and every n-th after it; 0: none, of what shows that a test beside it can fail."""


SDKS = {f"python-{version}-{kind}" for version, kind in zip(PYTHON_SDKS, ("async", "sync"), strict=True)}
"""Clients that the default run leaves out: what is made for one takes long, and all of its tests share that."""


def chosen(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """(those to run, those to leave out)"""
    if os.environ.get(VARIABLE) == "all":
        return items, []
    seen: Counter[str] = Counter()
    kept, left = [], []
    for item in items:
        test = item.nodeid.partition("[")[0].partition("tests/")[2]
        if test.startswith("sdk/") and _client(item) in SDKS:
            left.append(item)
            continue
        every = EVERY.get(test, 1)
        (kept if every and seen[test] % every == 0 else left).append(item)
        seen[test] += 1
    return kept, left


def _client(item: pytest.Item) -> str:
    """The SDK that a case is about, '' where it is about none."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return str(given.get("client") or given.get("ways") or "")
